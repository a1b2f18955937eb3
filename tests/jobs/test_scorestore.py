"""Score vectors in the store: as they were, whole or not at all; damaged ones count as missing."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from cops import combine
from cops.scores import Scores
from jobs.errors import UserError
from jobs.plan import ScoreTask
from jobs.scorestore import ScoreStore
from jobs.spec import Spec
from jobs.trial import compute_score
from jobs.workloads import build_model, load_data
from tests.conftest import SMOKE

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


def test_masks_of_stored_scores_are_those_of_fresh_ones(store: ScoreStore) -> None:
    """A file of tensors knows no order of parameters; the network does."""
    spec = Spec.load(SMOKE)
    scores = {name: compute_score(spec, ScoreTask("convnet", "digits", 0, name)) for name in ("snip", "grasp")}
    model = build_model("convnet", load_data("digits"), 0)

    def kept(given: Mapping[str, Scores | None]) -> dict[str, torch.Tensor]:
        whole = {name: vectors for name, vectors in given.items() if vectors is not None}
        pruning = combine(whole, target="snip", controls=["grasp"], alpha=[0.97], sparsity=0.9, model=model)
        return dict(pruning.mask.kept)

    fresh = kept(scores)
    for name, vectors in scores.items():
        store.put(name, vectors)
    for _ in range(20):
        stored = kept({name: store.get(name) for name in scores})
        assert list(stored) == list(fresh)
        assert all(torch.equal(stored[name], mask) for name, mask in fresh.items())


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
