"""Checkpoints in the store: whole or not at all; what cannot be used counts as none; no trial fails for want of one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.checkpoints import SECONDS, Checkpoint, checkpoint_store

KEY = "0123456789abcdef" * 2
STATE = {"epochs": 3, "tensor": torch.ones(5)}


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_is_noticed(position: float, bit: int, tmp_path: Path) -> None:
    checkpoint, file = Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY), tmp_path / f"{KEY}.pt"
    checkpoint.save(STATE)
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    file.write_bytes(content)
    assert checkpoint.load() is None


@pytest.mark.parametrize("damage", ["half", "noise", "empty", "foreign", "gone"])
def test_a_checkpoint_that_cannot_be_used_is_none(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint, file = Checkpoint(checkpoint_store(folder.as_uri()), KEY), folder / f"{KEY}.pt"
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    found = Checkpoint(checkpoint_store(folder.as_uri()), KEY).load()
    assert found is not None
    assert found["epochs"] == 3
    assert torch.equal(found["tensor"], torch.ones(5))
    assert [path.name for path in folder.iterdir()] == [file.name]
    whole = file.read_bytes()
    if damage == "gone":
        checkpoint.remove()
        assert not file.exists()
        checkpoint.remove()  # which is no error
    elif damage == "foreign":
        file = file.replace(folder / f"{'f' * 32}.pt")
        checkpoint = Checkpoint(checkpoint_store(folder.as_uri()), "f" * 32)
    else:
        file.write_bytes({"half": whole[: len(whole) // 2], "noise": b"x" * 500, "empty": b""}[damage])
    assert checkpoint.load() is None


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    checkpoint = Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY)
    checkpoint.save({"trap": Trap()})
    assert (tmp_path / f"{KEY}.pt").exists()
    assert checkpoint.load() is None
    assert not (tmp_path / "ran").exists()


def test_a_store_that_takes_nothing_fails_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    checkpoint = Checkpoint(checkpoint_store((tmp_path / "file" / "below").as_uri()), KEY)
    checkpoint.save(STATE)
    assert "a checkpoint is not stored" in caplog.text
    assert checkpoint.load() is None


def test_a_slow_store_is_written_to_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    checkpoint = Checkpoint(checkpoint_store(tmp_path.as_uri()), KEY)
    assert not checkpoint.due
    now = SECONDS
    assert checkpoint.due

    def slow(key: str, body: bytes) -> None:
        nonlocal now
        now += 30.0

    monkeypatch.setattr(checkpoint._store, "put", slow)
    checkpoint.save(STATE)
    now += 599
    assert not checkpoint.due
    now += 2
    assert checkpoint.due
    assert math.isclose(now - 2 - 599, SECONDS + 30)
