"""A long trial's training on disk, so that it goes on where its worker was lost."""

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def save(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write the state of the trial with this `key`; `path` is replaced whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save({"key": key, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The state that was saved for this `key`; None if there is none, it is damaged, or of another trial."""
    with suppress(OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] == key:
            return dict(state)
    return None
