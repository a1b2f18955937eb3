"""Score vectors in the store: as they were, whole or not at all; damaged ones count as missing."""

from pathlib import Path

import pytest
import torch

from jobs.errors import UserError
from jobs.scorestore import ScoreStore

SCORES = {"conv.weight": torch.randn(4, 3, 3, 3, dtype=torch.float64), "linear.weight": torch.randn(10, 4)}


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore((tmp_path / "store").as_uri())


def test_scores_come_back_bit_for_bit(store: ScoreStore, tmp_path: Path) -> None:
    assert store.get("key") is None
    store.put("key", SCORES)
    found = store.get("key")
    assert found is not None
    assert found.keys() == SCORES.keys()
    for name, values in SCORES.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values)
    assert store.get("other") is None
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["key.scores"]


@pytest.mark.parametrize("at", [0, 31, 32, 40, 200, -1])
def test_a_flipped_bit_anywhere_makes_an_entry_missing(store: ScoreStore, tmp_path: Path, at: int) -> None:
    store.put("key", SCORES)
    path = tmp_path / "store" / "key.scores"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert store.get("key") is None
    store.put("key", SCORES)
    assert store.get("key") is not None


@pytest.mark.parametrize("length", [0, 10, 32, 100])
def test_a_cut_entry_is_missing(store: ScoreStore, tmp_path: Path, length: int) -> None:
    store.put("key", SCORES)
    path = tmp_path / "store" / "key.scores"
    path.write_bytes(path.read_bytes()[:length])
    assert store.get("key") is None


@pytest.mark.parametrize("url", ["nowhere://bucket", "just a word", ""])
def test_a_url_that_names_no_store(url: str) -> None:
    with pytest.raises(UserError, match="COPS_STORE"):
        ScoreStore(url)
