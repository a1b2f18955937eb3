"""Passwords and keys of the stack: made at first start, kept in files that their owner alone can read.

Everybody who needs one is told the file: no secret is in an environment, on a command line or on a screen.
"""

import configparser
import os
import secrets
from pathlib import Path

from jobs.local import HOST
from service.stack.settings import USER, StackSettings


def make(settings: StackSettings) -> None:
    """Make the secrets that are missing."""
    settings.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(settings.pgpass, f"{HOST}:*:*:{USER}:{secrets.token_hex(32)}\n")
    keys = {"aws_access_key_id": USER, "aws_secret_access_key": secrets.token_hex(20)}  # a name, and the secret
    _write(settings.s3_keys, "\n".join(["[default]", *(f"{name} = {value}" for name, value in keys.items()), ""]))
    _write(settings.ray_token, secrets.token_hex(32))


def password(settings: StackSettings) -> str:
    """PostgreSQL's password."""
    return settings.pgpass.read_text().strip().rpartition(":")[2]


def s3_keys(settings: StackSettings) -> dict[str, str]:
    """The S3 server's keys, as environment variables."""
    parser = configparser.ConfigParser()
    parser.read_string(settings.s3_keys.read_text())
    return {name.upper(): value for name, value in parser["default"].items()}


def _write(path: Path, content: str) -> None:
    """Create a file for its owner alone; one that exists is kept."""
    if path.exists():
        return
    half = path.with_suffix(".new")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    half.rename(path)
