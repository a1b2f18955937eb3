"""The arithmetic behind the results page, against numbers worked out by hand."""

from statistics import stdev

import pytest

from jobs.plan import Trial
from jobs.search import Search
from jobs.spec import Spec
from tests.benchmarks.study import Study, told
from tests.conftest import SMOKE

ENDS = {0.0: 0.80, 0.25: 0.81, 0.5: 0.82, 0.75: 0.81, 1.0: 0.70}  # validation accuracy by alpha, initialisation 0


def outcome(trial: Trial) -> dict[str, float]:
    """Initialisation 1 is better by 0.1 everywhere, and by 0.3 at alpha 1; test accuracy is lower by 0.05."""
    level = trial.alpha[0] if trial.alpha else 0.0
    value = ENDS[level] + trial.cell.seed * (0.3 if level == 1 else 0.1)
    said = {"emptied_layers": float(level == 1), "gradient_norm_ratio": value, "seconds_training": 36.0}
    return said | {"validation_accuracy": value, "test_accuracy": value - 0.05}


@pytest.fixture(scope="module")
def study() -> Study:
    tree = Spec.load(SMOKE).model_dump(mode="json")
    grid = {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.9], "seeds": [0, 1]}
    more = {"grid": grid, "search": {"sampler": "grid", "trials": 5}, "baselines": ["dense", "snip"]}
    search = Search(Spec.model_validate(tree | more))
    while (trial := search.ask()) is not None:
        search.tell(trial, outcome(trial))
    return Study(search)


def test_levels_are_compared_within_an_initialisation(study: Study) -> None:
    middle = study.levels()["snip|grasp"][0.9][0.5]
    assert middle.value == pytest.approx((0.82 + 0.92) / 2)
    assert middle.error == pytest.approx(stdev([0.82, 0.92]) / 2**0.5)
    assert study.levels(against=0.0)["snip|grasp"][0.9][0.5].error == pytest.approx(0)  # 0.02 in both
    against = study.levels(against=1.0)["snip|grasp"][0.9][0.5]
    assert against.value == pytest.approx((0.12 - 0.08) / 2)
    assert against.error == pytest.approx(stdev([0.12, -0.08]) / 2**0.5)


def test_a_winner_at_the_end_of_the_scale_is_a_single_scores_mask(study: Study) -> None:
    assert study.chosen() == {0.9: {"a combination": 1, "the control's own": 1}}


def test_masks_with_an_empty_layer_can_be_left_out(study: Study) -> None:
    found = study.proxies(living=False)[0.9]["gradient_norm_ratio"]
    assert found is not None
    assert found.value == pytest.approx(1)
    assert found.count == 2
    assert study.proxies(living=True)[0.9]["gradient_norm_ratio"] is not None
    assert study.proxies(living=True)[0.9]["dead_share"] is None


def test_what_is_told(study: Study) -> None:
    text = "\n".join(told(study))
    assert "of 20 trials have ended 14 of the search and 6 confirmations; 0.2 h" in text
    assert "| a combination | 1 |" in text
    assert "| snip\\|grasp | +2.0 ±0.0 / +2.0 ±10.0 |" in text
