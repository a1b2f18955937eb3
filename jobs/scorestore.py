"""Score vectors on disk or in an object store, each computed once: one file per content key.

A file holds 32 bytes of SHA-256 and, behind them, what they are of: the vectors in safetensors format, by parameter
name. It appears whole or not at all, and a damaged one counts as missing.
"""

import hashlib
import secrets

from pyarrow import fs
from safetensors import SafetensorError
from safetensors.torch import load, save

from cops.scores import Scores
from jobs.errors import UserError

DIGEST = 32


class ScoreStore:
    """Score vectors by content key.

    Args:
        url: a folder, as `file:///...`, or an object store, as `s3://bucket/prefix`.

    Raises:
        UserError: the URL names no store that can be used.
    """

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fs.FileSystem.from_uri(url)
        except (ValueError, OSError) as error:  # pyarrow's errors are among them
            raise UserError(f"COPS_STORE = '{url}' cannot be used: {error}; give file:///... or s3://...") from None

    def get(self, key: str) -> Scores | None:
        """The vectors of a key; None if they are missing or damaged."""
        try:
            with self._files.open_input_stream(self._path(key)) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        digest, body = data[:DIGEST], data[DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            return None
        try:
            return dict(load(body))
        except SafetensorError:
            return None

    def put(self, key: str, scores: Scores) -> None:
        """Keep the vectors, which are on the CPU, under a key."""
        body = save({name: values.contiguous() for name, values in scores.items()})
        local = isinstance(self._files, fs.LocalFileSystem)
        path = self._path(key)
        written = f"{path}.{secrets.token_hex(8)}" if local else path  # an object appears whole by itself
        if local:
            self._files.create_dir(self._root, recursive=True)
        with self._files.open_output_stream(written) as file:
            file.write(hashlib.sha256(body).digest() + body)
        if local:
            self._files.move(written, path)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}.scores"
