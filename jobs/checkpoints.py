"""A long trial's training in the store, so that it goes on elsewhere where its worker or node was lost."""

import logging
import pickle
import time
from contextlib import suppress
from io import BytesIO
from typing import Any

import torch

from jobs.filestore import FileStore

SECONDS = 60.0  # between two: a trial that takes less than this writes none
SHARE = 0.05  # of a trial's time that saving may take, where the store is slow
SUFFIX = ".pt"


def checkpoint_store(url: str) -> FileStore:
    """Where the checkpoints of all trials are; `url` as of `FileStore`."""
    return FileStore(url, SUFFIX)


class Checkpoint:
    """The state of one trial, tensors and plain values; no trial fails for want of it.

    Args:
        store: as `checkpoint_store` gives it.
        key: the trial's.
    """

    def __init__(self, store: FileStore, key: str) -> None:
        self._store, self._key = store, key
        self._there = False  # as far as this process knows
        self._due = time.monotonic() + SECONDS

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._due

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved, whole or not at all."""
        started = time.monotonic()
        buffer = BytesIO()
        torch.save({"key": self._key, "state": state}, buffer)
        try:
            self._store.put(self._key, buffer.getvalue())
            self._there = True
        except OSError as error:
            logging.getLogger(__name__).warning("a checkpoint is not stored: %s", error)
        ended = time.monotonic()
        self._due = ended + max(SECONDS, (ended - started) / SHARE)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved; None if there is none, or it is damaged or of another trial."""
        with suppress(OSError, pickle.UnpicklingError):  # or it holds more than tensors and plain values
            body = self._store.get(self._key)
            if body is not None:
                self._there = True
                found = torch.load(BytesIO(body), map_location="cpu", weights_only=True)
                if found["key"] == self._key:
                    return dict(found["state"])
        return None

    def remove(self) -> None:
        """The trial has ended; what cannot be removed now, `cops gc` finds later."""
        if self._there:  # of most trials there is none: no request for it
            with suppress(OSError):
                self._store.remove(self._key)
