"""Which code, sweep file and data a run comes from."""

import hashlib
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from jobs import provenance as module
from jobs.data import digest
from jobs.provenance import provenance
from jobs.workloads import load_data


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, in which a sweep is started; this package's own is out of sight."""
    monkeypatch.delenv("COPS_CODE_VERSION", raising=False)
    monkeypatch.setattr(module, "CHECKOUT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("name: x\n")
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_the_commit_of_the_repository_it_was_started_in(checkout: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    clean = provenance(checkout / "sweep.yaml")
    assert (clean.commit, clean.dirty, clean.code) == (head.stdout.strip(), False, head.stdout[:12])
    assert (clean.file, clean.version) == ("sweep.yaml", version("cops-sweep"))
    assert clean.digest == hashlib.sha256(b"name: x\n").hexdigest()

    (checkout / "new.txt").touch()
    assert provenance(checkout / "sweep.yaml") == clean
    (checkout / "sweep.yaml").write_text("name: y\n")
    dirty = provenance(checkout / "sweep.yaml")
    assert (dirty.commit, dirty.dirty, dirty.code) == (clean.commit, True, f"{clean.code}-dirty")
    assert dirty.digest != clean.digest


def test_the_checkout_of_this_package_comes_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKOUT", Path(module.__file__).parents[1])
    assert provenance(checkout / "sweep.yaml").commit != provenance_in(checkout, monkeypatch)


def provenance_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(module, "CHECKOUT", folder)
    return provenance(folder / "sweep.yaml").commit


def test_without_a_repository_the_installed_version_or_what_is_said(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("job"))
    packaged = provenance(checkout / "sweep.yaml")
    assert (packaged.commit, packaged.dirty, packaged.code) == (None, False, version("cops-sweep"))
    monkeypatch.setenv("COPS_CODE_VERSION", "release-7")
    assert provenance(checkout / "sweep.yaml").code == "release-7"
    monkeypatch.setenv("PATH", "")  # no git either
    assert provenance(checkout / "sweep.yaml").commit is None


def test_a_digest_is_that_of_the_content() -> None:
    data = load_data("digits")
    whole = digest(data.to_arrays())
    assert len(whole) == 64
    assert digest(type(data).from_arrays(data.to_arrays()).to_arrays()) == whole
    pixels, labels = data.train
    pixel = pixels.clone()
    pixel[3, 0, 2, 1] += 1e-3
    others = [
        replace(data, train=(pixel, labels)),
        replace(data, train=(pixels, labels.flip(0))),
        replace(data, train=(pixels.double(), labels)),
        replace(data, train=(pixels.reshape(-1, 1, 4, 16), labels)),
        replace(data, validation=data.test, test=data.validation),
        replace(data, classes=11),
        replace(data, statistics=(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))),
    ]
    digests = {digest(other.to_arrays()) for other in others}
    assert len(digests) == len(others)
    assert whole not in digests
    transposed = pixels.transpose(2, 3).contiguous().transpose(2, 3)  # the same numbers, laid out otherwise
    assert digest(replace(data, train=(transposed, labels)).to_arrays()) == whole
