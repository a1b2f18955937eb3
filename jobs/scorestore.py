"""Score vectors on disk or in an object store, each computed once: one file in safetensors format per content key.

What the store cannot give is computed again, and what it does not take was computed all the same: no trial fails of it.
"""

import logging

from safetensors import SafetensorError
from safetensors.torch import load, save

from cops.scores import Scores
from jobs.filestore import FileStore

SUFFIX = ".scores"


class ScoreStore:
    """Score vectors by content key.

    Args:
        url: as of `FileStore`.

    Raises:
        UserError: the URL names no store that can be used.
    """

    def __init__(self, url: str) -> None:
        self._files = FileStore(url, SUFFIX)

    def get(self, key: str) -> Scores | None:
        """The vectors of a key, by parameter name; None if they are missing or damaged."""
        try:
            body = self._files.get(key)
        except OSError as error:
            logging.getLogger(__name__).warning("a score vector cannot be read, so it is computed: %s", error)
            return None
        try:
            return None if body is None else dict(load(body))
        except SafetensorError:
            return None

    def put(self, key: str, scores: Scores) -> None:
        """Keep the vectors, which are on the CPU, under a key, if the store takes them."""
        try:
            self._files.put(key, save({name: values.contiguous() for name, values in scores.items()}))
        except OSError as error:
            logging.getLogger(__name__).warning("a score vector is not stored: %s", error)
