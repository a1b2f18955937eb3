"""The table that a sweep ends with: what it says of winners, baselines and unconfirmed figures."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.plan import Cell, Trial
from jobs.report import best_masks, front, fronts, legend, standings, tables
from jobs.search import Failure, Search
from jobs.spec import Spec
from tests.conftest import SMOKE


def searched(confirmations: int, stop_before_confirmations: bool = False) -> Search:
    tree = Spec.load(SMOKE).model_dump(mode="json")
    spec = Spec.model_validate(tree | {"confirmations": confirmations, "baselines": ["dense", "snip"]})
    search = Search(spec)
    while (trial := search.ask()) is not None:
        if stop_before_confirmations and trial.kind == "confirmation":
            break
        search.tell(trial, outcome(trial))
    return search


def outcome(trial: Trial) -> dict[str, float]:
    """Search flatters a mask by 0.2; confirmations say 0.70 and 0.74, and test accuracy is 0.1 lower."""
    if trial.kind == "search":
        return {"validation_accuracy": 0.92}
    accuracy = 0.70 if trial.training_seed == 1 else 0.74
    return {"validation_accuracy": accuracy, "test_accuracy": accuracy - 0.1}


def printed(search: Search) -> str:
    console = Console(width=80)
    found = standings(search)
    with console.capture() as capture:
        for table in tables(found):
            console.print(table)
        console.print(legend(found))
    return capture.get()


def test_confirmations_decide_and_search_runs_do_not() -> None:
    search = searched(confirmations=2)
    for one in standings(search):
        assert one.confirmed
        assert one.runs == 2
        assert abs(one.validation - 0.72) < 1e-12
        assert one.error is not None
        assert abs(one.error - 0.02) < 1e-12
        assert one.test is not None
        assert abs(one.test - 0.62) < 1e-12
    text = printed(search)
    assert text.count("72.0 ±2.0 (62.0)") >= 3
    assert text.count("▸") == 1 + 1  # in the table, and in the legend
    assert "92.0" not in text
    assert "*" not in text


def test_unconfirmed_figures_are_marked() -> None:
    for search in (searched(confirmations=0), searched(confirmations=2, stop_before_confirmations=True)):
        text = printed(search)
        assert "92.0*" in text
        assert "not confirmed: a winner's accuracy is biased upward" in text


def test_an_unconfirmed_figure_never_beats_a_confirmed_one() -> None:
    tree = Spec.load(SMOKE).model_dump(mode="json")
    pairs = [{"target": "snip", "controls": ["grasp"]}, {"target": "synflow", "controls": ["grasp"]}]
    spec = Spec.model_validate(tree | {"grid": {"pairs": pairs, "sparsities": [0.9]}, "confirmations": 1})
    search = Search(spec)
    while (trial := search.ask()) is not None:
        lost = trial.kind == "confirmation" and trial.cell.target == ("synflow",)
        search.tell(trial, None if lost else outcome(trial), Failure("lost") if lost else None)
    assert best_masks(standings(search))[0.9].cell.target == ("snip",)


def test_an_emptied_layer_is_marked() -> None:
    search = Search(Spec.load(SMOKE))
    while (trial := search.ask()) is not None:
        search.tell(trial, outcome(trial) | {"emptied_layers": float(trial.cell.target == ("magnitude",))})
    text = printed(search)
    assert text.count("†") == 1 + 1
    assert "the mask empties a layer" in text


def test_the_best_mask_is_a_combined_one() -> None:
    best = best_masks(standings(searched(confirmations=1)))
    assert {sparsity: one.cell.method for sparsity, one in best.items()} == {0.9: "snip|grasp"}


def test_a_sweep_without_any_result_prints_no_table() -> None:
    spec = Spec.load(SMOKE)
    assert tables(standings(Search(spec))) == []


def test_each_initialisation_has_a_table_of_its_own() -> None:
    tree = Spec.load(SMOKE).model_dump(mode="json") | {"baselines": ["snip"], "confirmations": 0}
    search = Search(Spec.model_validate(tree | {"grid": tree["grid"] | {"seeds": [0, 3]}}))
    while (trial := search.ask()) is not None:
        search.tell(trial, {"validation_accuracy": 0.9 if trial.cell.seed else 0.8})
    text = printed(search)
    first, second = text.split("convnet on digits, seed 3")
    assert "80.0*" in first
    assert "90.0*" not in first
    assert "90.0*" in second


POINTS = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
    lambda p: {"validation_accuracy": p[0], "flops_share": p[1]}
)


@given(st.lists(POINTS, max_size=30))
def test_the_front_is_what_nothing_beats(outcomes: list[dict[str, float]]) -> None:
    cell = Cell("convnet", "digits", ("snip",), ("grasp",), 0.9)
    searched = {Trial(cell, (1.0,), (i / 100,)): outcome for i, outcome in enumerate(outcomes)}
    points = [(out["validation_accuracy"], out["flops_share"]) for out in outcomes]
    best = {
        (right, cost)
        for right, cost in points
        if not any(a >= right and b <= cost and (a, b) != (right, cost) for a, b in points)
    }
    found = front(searched, ("validation_accuracy", "flops_share"))
    assert [searched[trial]["validation_accuracy"] for trial in found] == sorted((a for a, _ in best), reverse=True)
    assert {(searched[trial]["validation_accuracy"], searched[trial]["flops_share"]) for trial in found} == best


def test_the_front_is_printed_where_several_objectives_are_searched() -> None:
    tree = Spec.load(SMOKE).model_dump(mode="json") | {"baselines": ["dense", "snip"], "confirmations": 1}
    objective = ["validation_accuracy", "flops_share"]
    search = Search(Spec.model_validate(tree | {"search": {"trials": 5, "sampler": "grid", "objective": objective}}))
    while (trial := search.ask()) is not None:
        level = trial.alpha[0] if trial.alpha else 0.0  # the higher, the more accurate and the dearer, but for 0.5
        accuracy = 0.1 if level == 0.5 else (1 + level) / 2
        search.tell(trial, {"validation_accuracy": accuracy, "test_accuracy": 0.99, "flops_share": (1 + level) / 4})
    (table,) = fronts(search)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    text = capture.get()
    assert "convnet on digits: Pareto front" in text
    rows = [line.split() for line in text.splitlines() if "0.9 " in line or "dense" in line]
    assert [row[2:] for row in rows if row[0] == "snip|grasp"] == [
        ["1.00", "100.0", "50.0"],
        ["0.75", "87.5", "43.8"],
        ["0.25", "62.5", "31.2"],
    ]
    assert len(rows) == 4  # of those equal in both, one
    assert not fronts(searched(confirmations=1))
