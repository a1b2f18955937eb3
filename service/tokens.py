"""Tokens of the API: a JSON file that holds their hashes, for its owner alone."""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from jobs.errors import UserError, unknown

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each allows what those before it do
PREFIX = "cops_"  # by which scanners of leaked secrets know a token
DAY = 86400


@dataclass(frozen=True)
class Token:
    """What is known of a token; not the token.

    Args:
        id: public; the token names it.
        sha256: of the token, 256 random bits of which make a slow hash needless.
        expires: in seconds since 1970, like `created`; None for never.
    """

    id: str
    name: str
    scope: Scope
    sha256: str
    created: int
    expires: int | None = None
    revoked: bool = False

    def usable(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked and (self.expires is None or now < self.expires)

    def allows(self, scope: Scope) -> bool:
        """Whether its scope covers another."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


_TOKENS = TypeAdapter(list[Token])


class TokenFile:
    """The tokens in the file at `path`, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}

    def tokens(self) -> list[Token]:
        """All tokens, oldest first; none without a file.

        Raises:
            UserError: the file cannot be read, is damaged, or others may write it.
        """
        return list(self._read().values())

    def find(self, text: str) -> Token | None:
        """The token that `text` is, usable or not; None if there is none.

        Raises:
            UserError: as `tokens`.
        """
        known = self._read().get(text.removeprefix(PREFIX).partition("_")[0])
        digest = _digest(text)
        # Compared even where there is no such id, so that time tells nothing.
        same = hmac.compare_digest(digest, known.sha256 if known else _digest(""))
        return known if same else None

    def create(self, name: str, scope: str, days: float | None = None) -> tuple[str, Token]:
        """A new token, which is shown this once, and what is kept of it.

        Raises:
            UserError: an unknown scope or a bad name, or the file cannot be written.
        """
        if scope not in SCOPES:
            raise UserError(unknown("scope", scope, SCOPES))
        if not name.isprintable() or not 0 < len(name) <= 100:
            raise UserError(f"name = {name!r}: should be 1 to 100 characters that can be printed")
        if days is not None and not 0 < days <= 36_500:
            raise UserError(f"days = {days:g}: should be above 0, and at most 36500")
        now = time.time()
        with self._writing() as tokens:
            id_ = secrets.token_hex(4)
            while id_ in tokens:
                id_ = secrets.token_hex(4)
            text = f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
            expires = None if days is None else int(now + days * DAY)
            tokens[id_] = Token(id_, name, SCOPES[SCOPES.index(scope)], _digest(text), int(now), expires)
            return text, tokens[id_]

    def revoke(self, id_: str) -> Token:
        """Make a token useless, at once wherever the file is read.

        Raises:
            UserError: there is none of this id, or the file cannot be written.
        """
        with self._writing() as tokens:
            if id_ not in tokens:
                raise UserError(f"no token {id_!r} in {self.path}: `cops token list` shows the ids")
            tokens[id_] = replace(tokens[id_], revoked=True)
            return tokens[id_]

    def _read(self) -> dict[str, Token]:
        try:
            found = self.path.stat()
            state = found.st_mtime_ns, found.st_ino, found.st_size
            if state == self._seen:
                return self._tokens
            if found.st_mode & 0o022:
                raise UserError(f"tokens in '{self.path}': others may write it; chmod 600")
            tokens = _TOKENS.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"tokens in '{self.path}' cannot be read: {error.strerror}") from None
        except ValidationError:
            raise UserError(f"tokens in '{self.path}': the file is damaged; restore it, or remove it") from None
        self._tokens, self._seen = {token.id: token for token in tokens}, state
        return self._tokens

    @contextmanager
    def _writing(self) -> Iterator[dict[str, Token]]:
        """The tokens, to be changed; the file is replaced whole or not at all."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                tokens = dict(self._read())
                yield tokens
                part = self.path.with_name(f"{self.path.name}.part")
                part.unlink(missing_ok=True)
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    json.dump([asdict(token) for token in tokens.values()], file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.path)
        except OSError as error:
            raise UserError(f"tokens in '{self.path}' cannot be written: {error.strerror}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
