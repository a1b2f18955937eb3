"""Files of runs, kept on this machine under their checksums."""

import hashlib
from pathlib import Path

import pytest

from jobs.tracking import DamagedFileError
from service.files import Files

RUN = "0123456789abcdef" * 2


def test_a_kept_file_is_given_only_for_its_own_checksum(tmp_path: Path) -> None:
    stored = {"content": b"one", "fetched": b""}

    def fetch(run: str, name: str, folder: Path) -> Path:
        stored["fetched"] += b"."
        path = folder / name
        path.write_bytes(stored["content"])
        return path

    files = Files(tmp_path / "kept", fetch)
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    for sha256 in (None, one, one):
        assert files.get(RUN, "mask.cops", sha256).sha256 == one
    assert stored["fetched"] == b"."
    with pytest.raises(DamagedFileError, match=f"its SHA-256 is {one}, not {two}"):
        files.get(RUN, "mask.cops", two)
    stored["content"] = b"two"
    assert files.get(RUN, "mask.cops", two).path.read_bytes() == b"two"
    assert files.get(RUN, "mask.cops", one).path.read_bytes() == b"one"
