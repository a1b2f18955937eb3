"""A long trial's training on disk, so that it goes on where its worker was lost."""

import hashlib
import os
import pickle
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch


def save(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write a state, tensors and plain values, of the trial with this `key`; `path` is replaced whole or not at all."""
    buffer = BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())  # torch does not notice a flipped bit
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The state that was saved for this `key`; None if there is none, it is damaged, or of another trial."""
    with suppress(OSError):
        content = path.read_bytes()
        digest, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() == digest:
            with suppress(pickle.UnpicklingError):  # it holds more than tensors and plain values
                found = torch.load(BytesIO(body), map_location="cpu", weights_only=True)
                if found["key"] == key:
                    return dict(found["state"])
    return None
