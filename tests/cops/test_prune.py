import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from cops import SCORES, ScoreError, combine, prune, score, solve
from cops.flat import flatten, unflatten
from cops.levels import normalise, relative_kappa
from cops.network import prunable
from tests.cops.networks import convnet, images, mlp, mlp_batch, unchanged, vgg16


def test_one_score_keeps_exactly_its_largest() -> None:
    model, batches = convnet(), [images(8, 2, 8, 8)]
    for sparsity in (0.01, 0.5, 0.9, 0.99):
        pruning = prune(model, batches, target="snip", sparsity=sparsity)
        vector = flatten(score("snip", model, batches))
        keep = round((1 - sparsity) * len(vector))
        expected = torch.zeros(len(vector), dtype=torch.bool)
        expected[vector.topk(keep).indices] = True
        assert torch.equal(flatten(pruning.mask.kept), expected)
        assert pruning.mask.count == keep


def test_controls_reach_their_levels_and_alpha_0_is_the_target_alone() -> None:
    model, batches = convnet().train(), [images(8, 2, 8, 8)]
    names: Any = {"target": "snip", "controls": ["synflow"], "sparsity": 0.8}
    alone = prune(model, batches, target="snip", sparsity=0.8)
    synflow = prune(model, batches, target="synflow", sparsity=0.8)
    values = []
    for alpha in (0.0, 0.3, 0.7, 1.0):
        pruning = prune(model, batches, **names, alpha=[alpha])
        assert pruning.mask.count <= alone.mask.count
        values.append(pruning.solution.controls[0])
    assert prune(model, batches, **names, alpha=[0.0]).mask.similarity(alone.mask) == 1.0
    assert prune(model, batches, **names, alpha=[1.0]).mask.similarity(synflow.mask) == 1.0
    assert values == sorted(values)


def test_prune_is_scores_then_levels_then_solve() -> None:
    model, batches = mlp(), [mlp_batch()]
    pruning = prune(
        model,
        batches,
        target={"snip": 0.25, "magnitude": 0.75},
        controls=["grasp", "synflow"],
        sparsity=0.5,
        alpha=[0.3, 0.2],
    )
    vectors = {
        name: normalise(flatten(score(name, model, batches))) for name in ("snip", "magnitude", "grasp", "synflow")
    }
    target = 0.25 * vectors["snip"] + 0.75 * vectors["magnitude"]
    controls = [vectors["grasp"], vectors["synflow"]]
    expected = solve(target, controls, 31, relative_kappa([0.3, 0.2], target, controls, 31))
    assert torch.equal(flatten(pruning.mask.kept), expected.mask)
    assert pruning.solution.objective == pytest.approx(expected.objective)
    assert pruning.mask.settings == {
        "target": {"snip": 0.25, "magnitude": 0.75},
        "controls": ["grasp", "synflow"],
        "sparsity": 0.5,
        "alpha": [0.3, 0.2],
    }


@pytest.mark.parametrize("layout", ["unstructured", "filter", "2:4"])
def test_the_order_of_parameters_in_scores_says_nothing(layout: str) -> None:
    """Each score may have another one, as when it was read from a file; the mask has the network's."""
    model, batches = mlp(), [mlp_batch()]
    names = ("snip", "magnitude", "grasp")
    scores = {name: score(name, model, batches) for name in names}
    how: dict[str, Any] = {"target": {"snip": 0.4, "magnitude": 0.6}, "controls": ["grasp"], "alpha": [0.5]}
    how |= {"sparsity": 0.5, "layout": layout}
    expected = combine(scores, **how, model=model).mask.kept
    for orders in itertools.product(itertools.permutations(scores["snip"]), repeat=len(names)):
        shuffled = {name: {key: scores[name][key] for key in order} for name, order in zip(names, orders, strict=True)}
        found = combine(shuffled, **how, model=model).mask.kept
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], kept) for key, kept in expected.items())
        if layout == "unstructured":
            alone = combine(shuffled, **how).mask.kept
            assert all(torch.equal(alone[key], kept) for key, kept in expected.items())


def test_scores_of_another_network_than_the_model_are_refused() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="scores 'magnitude' are of another network than the model"):
        combine({"magnitude": score("magnitude", model, [])}, target="magnitude", sparsity=0.5, model=model[:1])


def test_options_reach_their_scores() -> None:
    model = mlp()
    one, two = (
        prune(model, [], target="random", sparsity=0.5, score_options={"random": {"seed": seed}}) for seed in (1, 2)
    )
    assert one.mask.similarity(two.mask) < 1.0


@hypothesis_settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_flatten_and_unflatten_are_inverse(shapes: list[list[int]]) -> None:
    tensors = {str(k): torch.randn(shape) for k, shape in enumerate(shapes)}
    back = unflatten(flatten(tensors), {name: values.shape for name, values in tensors.items()})
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"sparsity": 0.0}, "sparsity=0.0"),
    ({"sparsity": 1.0}, "sparsity=1.0"),
    ({"sparsity": float("nan")}, "sparsity=nan"),
    ({"controls": "grasp", "alpha": [0.5]}, r"write \['grasp'\]"),
    ({"controls": ["grasp"]}, "got 0 alpha for 1 controls"),
    ({"controls": ["grasp"], "alpha": [1.5]}, "alpha=1.5"),
    ({"controls": ["grasp"], "alpha": [float("nan")]}, "alpha=nan"),
    ({"target": {}}, "at least one score"),
    ({"target": "snap"}, "did you mean 'snip'"),
    ({"target": {"snip": 0.5, "magnitude": 0.6}}, "sum to 1.1"),
    ({"score_options": {"snip": {"seed": 1}}}, "no option 'seed'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_prune_cannot_mean_is_refused_and_nothing_changed(change: dict[str, Any], message: str) -> None:
    model = convnet()
    options: Any = {"target": "snip", "sparsity": 0.5} | change
    with unchanged(model), pytest.raises(ValueError, match=message):
        prune(model, [images(4, 2, 8, 8)], **options)


def test_scores_that_are_missing_or_do_not_match_are_refused() -> None:
    scores = {"snip": score("magnitude", mlp(), []), "random": score("random", convnet(), [])}
    with pytest.raises(ValueError, match="no scores for 'grasp': there are snip, random"):
        combine(scores, target="grasp", sparsity=0.5)
    with pytest.raises(ValueError, match="scores 'random' are of another network"):
        combine(scores, target="snip", controls=["random"], sparsity=0.5, alpha=[0.5])


def test_a_batch_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    model = convnet().train()
    with unchanged(model), pytest.raises(ScoreError, match="batch 0"):
        prune(model, [images(4, 3, 8, 8)], target="grasp", sparsity=0.5)


@pytest.mark.parametrize("layout", ["unstructured", "filter", "2:4"])
def test_rounds_remove_more_and_more_and_never_bring_back(layout: str) -> None:
    model, batches = convnet().train(), [images(8, 2, 8, 8)]
    options: Any = {"target": "snip", "controls": ["random"], "alpha": [0.3], "sparsity": 0.8, "layout": layout}
    seen: list[dict[str, torch.Tensor]] = []

    def spy(model: nn.Module, batches: Any) -> Any:
        seen.append({name: (weight != 0) for name, weight in prunable(model).items()})
        return SCORES["magnitude"](model, batches)

    with pytest.MonkeyPatch.context() as patch, unchanged(model):
        patch.setitem(SCORES, "snip", spy)
        mask = prune(model, batches, **options, rounds=4).mask
    densities = [int(flatten(kept).sum()) / mask.size for kept in (*seen, mask.kept)]
    if layout == "unstructured":
        assert densities == pytest.approx([0.2 ** (r / 4) for r in range(5)], abs=0.01)
    assert densities == sorted(densities, reverse=True)
    for before, after in itertools.pairwise([*seen, mask.kept]):
        assert not any((after[name] & ~before[name]).any() for name in mask.kept)
    assert mask.count <= round(0.2 * mask.size)
    assert mask.settings["rounds"] == 4


def test_every_round_scores_the_network_pruned_so_far() -> None:
    model, batches = convnet(), [images(8, 2, 8, 8)]
    first = prune(model, batches, target="snip", sparsity=1 - 0.1**0.5).mask
    pruned = first.apply(copy.deepcopy(model))
    second = prune(pruned, batches, target="snip", sparsity=0.9).mask
    assert prune(model, batches, target="snip", sparsity=0.9, rounds=2).mask.similarity(second) == 1.0


def test_one_shot_synflow_collapses_layers_and_a_hundred_rounds_do_not() -> None:
    model, batches = vgg16(scale=8), [images(1, 3, 32, 32)]
    once = prune(model, batches, target="synflow", sparsity=0.99).mask
    assert 0.0 in once.layer_density().values()
    published = prune(model, batches, target="synflow", sparsity=0.9985, rounds=100).mask
    assert published.count == round(0.0015 * published.size)
    assert 0.0 not in published.layer_density().values()
