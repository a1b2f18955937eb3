from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cops import Mask, combine, prune, score
from cops.flat import flatten
from cops.network import layers, prunable, rows, unrows
from cops.scores import Scores
from tests.cops.networks import convnet, images, unchanged


class Mixed(nn.Module):
    """Filters of many sizes, some transposed and grouped, some whose inputs 4 does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.side = nn.Conv1d(6, 4, 3)
        self.head = nn.Linear(4, 10)


def drawn(model: nn.Module, seed: int, signed: bool = True) -> Scores:
    draws = torch.Generator().manual_seed(seed)
    found = {n: torch.randn(w.shape, generator=draws, dtype=torch.float64) for n, w in prunable(model).items()}
    return found if signed else {name: values.abs() for name, values in found.items()}


def filters(model: nn.Module, tensors: Any) -> list[tuple[str, Tensor]]:
    """Rows of all filters, `(weights,)` each, with their parameter's name."""
    return [(name, row) for name, (layer, *_) in layers(model).items() for row in rows(tensors[name], layer)]


@pytest.mark.parametrize("name", ["stem", "up", "side", "head"])
def test_rows_are_what_one_output_depends_on(name: str) -> None:
    layer = Mixed().get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Conv1d | nn.Linear)
    inputs = torch.rand(1, *{"stem": (3, 5, 5), "up": (8, 3, 3), "side": (6, 5), "head": (4,)}[name])
    numbers = torch.arange(layer.weight.numel()).view_as(layer.weight)
    for filter_, row in enumerate(rows(numbers, layer)):
        gradient = torch.autograd.grad(layer(inputs)[:, filter_].sum(), layer.weight)[0]
        assert sorted(row.tolist()) == gradient.flatten().nonzero().flatten().tolist()
    assert torch.equal(unrows(rows(numbers, layer), layer), numbers)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
def test_whole_filters_are_taken_by_mean_score_until_the_budget_cuts_one(sparsity: float) -> None:
    model = Mixed()
    scores = {"a": drawn(model, 0, signed=False)}
    mask = combine(scores, target="a", sparsity=sparsity, layout="filter", model=model).mask
    keep = round((1 - sparsity) * mask.size)
    ranked = sorted(filters(model, scores["a"]), key=lambda item: -float(item[1].mean()))
    expected, count = [], 0
    for _, row in ranked:
        if count + len(row) > keep:
            break
        expected.append(float(row.sum()))
        count += len(row)
    taken = filters(model, mask.kept)
    assert all(bool(row.all()) or not bool(row.any()) for _, row in taken)
    sums = [float(row.sum()) for _, row in filters(model, scores["a"])]
    found = [total for total, (_, row) in zip(sums, taken, strict=True) if row.all()]
    assert sorted(found) == pytest.approx(sorted(expected))
    assert mask.count == count <= keep
    assert mask.settings["layout"] == "filter"


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_filters_with_controls_come_with_a_true_certificate(alpha: float, count: int, seed: int) -> None:
    model = Mixed()
    scores = {str(k): drawn(model, 10 * seed + k) for k in range(count + 1)}
    names = [str(k) for k in range(1, count + 1)]
    share = [alpha / count] * count
    pruning = combine(scores, target="0", controls=names, sparsity=0.6, alpha=share, layout="filter", model=model)
    solution, mask = pruning.solution, flatten(pruning.mask.kept)
    assert all(bool(row.all()) or not bool(row.any()) for _, row in filters(model, pruning.mask.kept))
    assert pruning.mask.count <= round(0.4 * pruning.mask.size)
    normal = {name: flatten(values) / flatten(values).abs().sum() for name, values in scores.items()}
    assert solution.objective == pytest.approx(float(normal["0"][mask].sum()))
    assert solution.bound - solution.objective == pytest.approx(solution.gap, abs=1e-12)
    largest = {
        name: max(abs(float(row.sum())) for _, row in filters(model, scores[name]))
        / float(flatten(scores[name]).abs().sum())
        for name in scores
    }
    assert solution.gap <= (count + 2) * largest["0"]
    loose = combine(scores, target="0", sparsity=0.6, layout="filter", model=model).solution.bound
    assert solution.bound <= loose + 1e-12 or any(solution.slack)
    for name, value, slack in zip(names, solution.controls, solution.slack, strict=True):
        assert value == pytest.approx(float(normal[name][mask].sum()))
        assert 0 <= slack <= 2 * largest[name]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [True, False]), (0.6, [False, True])])
def test_of_the_filters_that_the_budget_cuts_those_are_kept_that_the_control_needs(
    alpha: float, expected: list[bool]
) -> None:
    scores = {
        "a": {"weight": torch.tensor([[2.0] * 4, [1.0] * 4])},
        "b": {"weight": torch.tensor([[0.0] * 4, [1.0] * 4])},
    }
    model = nn.Linear(4, 2)
    pruning = combine(
        scores, target="a", controls=["b"], alpha=[alpha], sparsity=0.5, layout="filter", model=model
    )  # at 0.6 the relaxation keeps 1.6 weights of the first filter and 2.4 of the second
    assert pruning.mask.kept["weight"].all(1).tolist() == expected
    assert pruning.mask.count == 4
    assert pruning.solution.slack == (0.0,)


def test_a_filter_solution_is_as_good_as_exhaustion_up_to_the_budgets_rest() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4))
    for seed in range(10):
        scores = {"a": drawn(model, seed)}
        solution = combine(scores, target="a", sparsity=0.5, layout="filter", model=model).solution
        units = [row / flatten(scores["a"]).abs().sum() for _, row in filters(model, scores["a"])]
        choices = torch.arange(2 ** len(units))[:, None] >> torch.arange(len(units)) & 1
        sizes = choices @ torch.tensor([len(row) for row in units])
        values = choices.double() @ torch.stack([row.sum() for row in units])
        best = float(values[sizes <= 18].max())
        assert solution.objective <= best + 1e-12
        assert solution.bound >= best - 1e-12


@pytest.mark.parametrize(("layout", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
def test_at_most_n_of_every_m_inputs_are_kept_and_they_are_the_largest(layout: str, n: int, m: int) -> None:
    model = Mixed()
    scores = {"a": drawn(model, 1, signed=False)}
    sparsity = 0.75
    mask = combine(scores, target="a", sparsity=sparsity, layout=layout, model=model).mask
    allowed = []
    for (_, kept), (_, values) in zip(filters(model, mask.kept), filters(model, scores["a"]), strict=True):
        for group, worth in zip(kept.split(m), values.split(m), strict=True):
            assert int(group.sum()) <= n
            allowed += sorted(worth.tolist())[-n:]
            if group.any():
                assert float(worth[group].min()) >= sorted(worth.tolist())[-n:][0]
    keep = round((1 - sparsity) * mask.size)
    assert mask.count == keep
    expected = sum(sorted(allowed)[-keep:])
    assert sum(float(scores["a"][name][kept].sum()) for name, kept in mask.kept.items()) == pytest.approx(expected)


def test_n_of_m_ties_break_by_index_and_the_whole_pattern_can_be_kept() -> None:
    model = nn.Linear(8, 3)
    mask = combine({"a": {"weight": torch.ones(3, 8)}}, target="a", sparsity=0.5, layout="2:4", model=model).mask
    assert mask.kept["weight"].int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 3


def test_excluded_layers_stay_dense_and_the_others_pay() -> None:
    model = convnet()
    for patterns in (["0.weight", "9"], ["[09].*"], ("0", "9.weight", "9.*")):
        pruning = prune(model, [images(6, 2, 8, 8)], target="grasp", sparsity=0.4, exclude=patterns)
        assert pruning.mask.layer_density()["0.weight"] == pruning.mask.layer_density()["9.weight"] == 1.0
        assert pruning.mask.count <= round(0.6 * pruning.mask.size)
        assert pruning.mask.settings["exclude"] == list(patterns)
    with pytest.raises(ValueError, match=r"exclude pattern 'fc\*' matches no prunable weight: they are 0.weight"):
        prune(model, [], target="magnitude", sparsity=0.5, exclude=["0.*", "fc*"])
    with pytest.raises(ValueError, match=r"write \['fc'\]"):
        prune(model, [], target="magnitude", sparsity=0.5, exclude="fc")
    with pytest.raises(ValueError, match=r"sparsity=0.9 keeps 20 of 198 weights.*need 72 to 198: give a sparsity"):
        prune(model, [], target="magnitude", sparsity=0.9, exclude=["0"])


@pytest.mark.parametrize("layout", ["unstructured", "filter", "2:4"])
def test_no_layer_falls_below_the_minimum_density(layout: str) -> None:
    model = Mixed()
    scores = {"a": drawn(model, 0, signed=False), "b": drawn(model, 1)}
    scores["a"]["stem.weight"] *= 1e-9  # would be emptied
    free = combine(scores, target="a", sparsity=0.8, layout=layout, model=model).mask
    assert free.layer_density()["stem.weight"] == 0.0
    options: dict[str, Any] = {"target": "a", "controls": ["b"], "alpha": [0.5], "sparsity": 0.8}
    pruning = combine(scores, **options, layout=layout, model=model, min_density=0.07)
    mask = pruning.mask
    assert min(mask.layer_density().values()) >= 0.07
    assert mask.count <= round(0.2 * mask.size)
    assert mask.settings["min_density"] == 0.07
    name, (layer, *_) = next(iter(layers(model).items()))
    if layout == "filter":  # one of 8 filters, the best
        assert rows(mask.kept[name], layer).all(1).tolist() == [
            row == rows(scores["a"][name], layer).mean(1).argmax() for row in range(8)
        ]
    else:  # ceil(0.07 * 216) = 16 weights, the best; the control may ask for more
        best = scores["a"][name].flatten().topk(16).indices
        assert layout == "2:4" or mask.kept[name].flatten()[best].all()
    total = {key: flatten(values) / flatten(values).abs().sum() for key, values in scores.items()}
    assert pruning.solution.objective == pytest.approx(float(total["a"][flatten(mask.kept)].sum()))
    assert pruning.solution.controls[0] == pytest.approx(float(total["b"][flatten(mask.kept)].sum()))


def test_a_minimum_density_can_decide_everything() -> None:
    model = nn.Linear(8, 4)
    scores = {"a": drawn(model, 0), "b": drawn(model, 1)}
    options: dict[str, Any] = {"target": "a", "controls": ["b"], "alpha": [0.7], "sparsity": 0.5, "model": model}
    pruning = combine(scores, **options, layout="2:4", min_density=0.5)
    assert (pruning.mask.count, pruning.solution.gap, pruning.solution.slack) == (16, 0.0, (0.0,))
    with pytest.raises(ValueError, match=r"min_density=0.6 asks for 20 of the 32 weights of 'weight'.*allows 16"):
        combine(scores, **options, layout="2:4", min_density=0.6)
    with pytest.raises(ValueError, match=r"sparsity=0.5 keeps 16 of 32 weights.*need 20 to 32"):
        combine(scores, **options, min_density=0.6)


def test_a_sparsity_below_that_of_the_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity=0.3 keeps 22 of 32.*need 0 to 16: give a sparsity from 0.5"):
        combine({"a": {"weight": torch.ones(4, 8)}}, target="a", sparsity=0.3, layout="2:4", model=nn.Linear(8, 4))


def test_the_last_shorter_group_keeps_at_most_n_too() -> None:
    scores, model = {"a": {"weight": torch.ones(4, 7)}}, nn.Linear(7, 4)
    mask = combine(scores, target="a", sparsity=12 / 28, layout="2:4", model=model).mask
    assert mask.kept["weight"].int().tolist() == [[1, 1, 0, 0, 1, 1, 0]] * 4
    with pytest.raises(ValueError, match=r"keeps 17 of 28.*need 0 to 16"):
        combine(scores, target="a", sparsity=11 / 28, layout="2:4", model=model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "rows"}, "unknown layout 'rows': give 'unstructured', 'filter', or n:m"),
        ({"layout": "4:2"}, "layout '4:2': `0 < n < m` must hold"),
        ({"layout": "0:4"}, "`0 < n < m` must hold"),
        ({"layout": "2:4 "}, "unknown layout"),
        ({"min_density": -0.1}, "min_density=-0.1"),
        ({"min_density": float("nan")}, "min_density=nan"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, but got 0"),
        ({"rounds": 2.0}, "but got 2.0"),
    ],
)
def test_layouts_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    model = convnet()
    with unchanged(model), pytest.raises(ValueError, match=message):
        prune(model, [], target="magnitude", sparsity=0.5, **options)


def test_filters_need_the_model_that_was_scored() -> None:
    scores = {"a": drawn(Mixed(), 0)}
    with pytest.raises(ValueError, match=r"layout 'filter' needs to know the filters: give model=\.\.\."):
        combine(scores, target="a", sparsity=0.5, layout="filter")
    with pytest.raises(ValueError, match="another network"):
        combine(scores, target="a", sparsity=0.5, layout="filter", model=convnet())


def test_defaults_leave_no_trace_in_the_settings() -> None:
    mask = prune(convnet(), [], target="magnitude", sparsity=0.5, layout="unstructured", rounds=1).mask
    assert list(mask.settings) == ["target", "controls", "sparsity", "alpha"]
    assert isinstance(mask, Mask)


@pytest.mark.parametrize("target", ["entropy_filter", "l1_filter"])
def test_filter_pruning_is_one_call(target: str) -> None:
    model = convnet()
    batches = [images(40, 2, 8, 8)]
    mask = prune(model, batches, target=target, layout="filter", sparsity=0.5, exclude=["9"]).mask
    worth = {name: rows(values, layers(model)[name][0])[:, 0] for name, values in score(target, model, batches).items()}
    kept = {name: rows(mask.kept[name], layers(model)[name][0]).all(1) for name in worth}
    names = ["0.weight", "4.weight"]
    lowest = min(float(worth[name][kept[name]].min()) for name in names if kept[name].any())
    dropped = sorted(float(value) for name in names for value in worth[name][~kept[name]])
    assert dropped[-2] <= lowest  # all but the filter that the budget cuts
    assert mask.count <= 99
