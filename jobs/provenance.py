"""Which code and which sweep file a run comes from."""

import hashlib
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SHORT = 12  # hex digits of a commit, to be read by people
GIT_SECONDS = 10  # a slow file system must not hold up a sweep


@dataclass(frozen=True)
class Provenance:
    """Where a sweep comes from.

    Args:
        file: name of the sweep file.
        digest: its SHA-256.
        version: of this package.
        code: what tells one state of the code from another: COPS_CODE_VERSION where that is set, as in jobs whose
            packaged code has left its git repository behind; else the start of `commit`, with `-dirty` if it is;
            else `version`.
        commit: of git, 40 hex digits; None without a repository.
        dirty: whether tracked files differ from the commit.
    """

    file: str
    digest: str
    version: str
    code: str
    commit: str | None
    dirty: bool


def provenance(path: Path) -> Provenance:
    """That of a sweep file and of the code that runs it now."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        installed = version("cops-sweep")
    except PackageNotFoundError:  # a checkout that was never installed, as in a job's working directory
        installed = "unknown"
    described = _described(CHECKOUT if (CHECKOUT / ".git").exists() else Path.cwd())
    commit, dirty = described.removesuffix("-dirty"), described.endswith("-dirty")
    state = f"{commit[:SHORT]}{'-dirty' if dirty else ''}"
    code = os.environ.get("COPS_CODE_VERSION") or state or installed
    return Provenance(path.name, digest, installed, code, commit or None, dirty)


def _described(folder: Path) -> str:
    """Commit of a folder's repository, with `-dirty` behind it if tracked files differ; empty if there is none.

    A person's own models live where the sweep is started: that repository counts where this package has none.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(  # noqa: S603  # fixed command, no shell
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
        said = done.stdout.strip()
        if re.fullmatch(r"[0-9a-f]{40}(-dirty)?", said):
            return said
    return ""
