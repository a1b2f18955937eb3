"""Rank correlations of what is known before training, against scipy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from jobs.proxies import LEAST, correlations, rank_correlation
from jobs.search import Search
from jobs.spec import Spec
from tests.conftest import SMOKE

NUMBERS = st.integers(-5, 5).map(float)  # so that there are ties


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=LEAST, max_size=30))
def test_it_is_spearmans(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_too_few_say_nothing() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None


def test_a_row_per_sparsity_over_all_methods() -> None:
    grid = {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.8, 0.9]}
    tree = Spec.load(SMOKE).model_dump(mode="json")
    spec = Spec.model_validate(tree | {"grid": grid, "search": {"trials": 6}, "baselines": ["dense", "magnitude"]})
    search = Search(spec)
    while (trial := search.ask()) is not None:
        level = sum(trial.alpha)
        accuracy = 0.5 + level / 10 if trial.cell.sparsity == 0.8 else 0.5 - level / 10
        metrics = {"gradient_norm_ratio": level, "flops_share": 0.1} if trial.cell.target else {}
        search.tell(trial, metrics | {"validation_accuracy": accuracy})
    rows = correlations(search, search.cells)
    assert [row["sparsity"] for row in rows] == ["0.8", "0.9"]
    assert [row["masks"] for row in rows] == ["7", "7"]  # six of the pair and a baseline
    assert [row["gradient_norm_ratio"] for row in rows] == ["+1.00", "-1.00"]
    assert {row["flops_share"] for row in rows} == {row["dead_share"] for row in rows} == {""}
