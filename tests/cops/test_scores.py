import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cops
from cops.network import prunable
from cops.prune import flatten
from cops.scores import SCORES, ScoreError, Scores, score
from tests.cops.networks import Residual, Tied, convnet, images, mlp, mlp_batch, randomised, unchanged

LOOSE = {"atol": 0.0, "rtol": 1e-10}


def oracle(name: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Scores:
    """The formula by plain autograd on a copy, the loss over all samples at once."""
    model = copy.deepcopy(model)
    weights = list(prunable(model).values())
    if name == "synflow":
        model.eval()
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.copy_(tensor.abs())
        value = model(torch.ones_like(batches[0][0][:1])).sum()
    else:
        temperature = 200.0 if name == "grasp" else 1.0
        sizes = [len(labels) for _, labels in batches]
        value = sum(
            (cross_entropy(model(x) / temperature, y) * len(y) / sum(sizes) for x, y in batches), torch.tensor(0.0)
        )
    grads = torch.autograd.grad(value, weights, create_graph=True)
    if name == "grasp":
        norm = sum(((g * g).sum() for g in grads), torch.tensor(0.0)) / 2
        grads = torch.autograd.grad(norm, weights)  # the gradient of |g|^2 / 2 is H g
    values = {
        "snip": lambda w, g: (w * g).abs(),
        "grasp": lambda w, g: w * g,
        "synflow": lambda w, g: (w * g).abs(),
        "gradnorm": lambda w, g: g * g,
        "force": lambda w, g: (w * g).abs(),
    }
    found = zip(prunable(model), weights, grads, strict=True)
    return {key: values[name](w.detach(), g.detach()) for key, w, g in found}


def available(*names: str) -> list[str]:
    return [name for name in names if name in SCORES]


@pytest.mark.parametrize("key", ["magnitude", "snip", "grasp", "synflow", "gradnorm"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_golden_figures_of_the_public_implementations(shared: Path, key: str, mode: str) -> None:
    golden = json.loads((shared / "golden" / "scores_mlp.json").read_text())
    if f"{key}/{mode}" not in golden or key not in SCORES:
        pytest.skip(f"no golden figures for {key} in {mode} mode")
    expected = torch.tensor(golden[f"{key}/{mode}"], dtype=torch.float64)
    vector = flatten(score(key, mlp().train(mode == "train"), [mlp_batch()]))
    if key in ("snip", "grasp", "gradnorm"):
        vector = vector / vector.abs().sum()
    assert vector.dtype == torch.float64
    torch.testing.assert_close(vector, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()) * 1e-3)


@pytest.mark.parametrize("name", available("snip", "grasp", "synflow", "gradnorm", "force"))
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("build", [convnet, Residual])
def test_scores_are_their_formulas_on_networks_with_batch_norm(name: str, mode: str, build: Any) -> None:
    torch.manual_seed(1)
    shape = (2, 8, 8) if build is convnet else (2, 6, 6)
    model = randomised(build()).train(mode == "train")
    batches = [images(7, *shape, seed=1), images(5, *shape, seed=2)]
    expected = oracle(name, model, batches)
    scores = score(name, model, batches)
    assert list(scores) == list(prunable(model))
    for key, values in scores.items():
        torch.testing.assert_close(values, expected[key], rtol=1e-9, atol=1e-12 * float(expected[key].abs().max()))


@pytest.mark.parametrize("name", available("snip", "grasp", "gradnorm", "force", "fisher", "entropy_filter"))
def test_how_samples_are_cut_into_batches_makes_no_difference(name: str) -> None:
    model = convnet().eval()
    inputs, labels = images(12, 2, 8, 8)
    whole = score(name, model, [(inputs, labels)])
    cut = score(name, model, [(inputs[:5], labels[:5]), (inputs[5:], labels[5:])])
    for key in whole:
        torch.testing.assert_close(whole[key], cut[key], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scoring_leaves_the_model_and_the_random_state_as_they_were(name: str, mode: str) -> None:
    model = nn.Sequential(convnet(), nn.Dropout(0.5)).train(mode == "train")
    model[0][1].eval()  # modes are restored for each module
    model[0][0].weight.requires_grad_(False)
    with unchanged(model):
        first = score(name, model, [images(6, 2, 8, 8)])
    torch.rand(5)
    second = score(name, model, [images(6, 2, 8, 8)])
    for key, weight in prunable(model).items():
        assert first[key].shape == weight.shape
        assert not first[key].requires_grad
        assert torch.equal(first[key], second[key])  # the same whatever the global random state


@pytest.mark.parametrize("name", [name for name in SCORES if name not in ("random", "magnitude", "l1_filter")])
def test_an_exception_leaves_the_model_as_it_was(name: str) -> None:
    model = convnet().train()
    good = images(4, 2, 8, 8)
    with unchanged(model), pytest.raises(ScoreError, match=r"batch 0.*5"):
        score(name, model, [images(4, 5, 8, 8), good])

    class Interrupts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = convnet()

        def forward(self, x: Tensor) -> Tensor:
            self.body(x)
            raise KeyboardInterrupt

    interrupted = Interrupts().train()
    with unchanged(interrupted), pytest.raises(KeyboardInterrupt):
        score(name, interrupted, [good])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("build", ["tied", "conv1d", "conv3d", "transposed"])
def test_every_kind_of_layer_has_scores(name: str, build: str) -> None:
    torch.manual_seed(0)
    flat = (nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model, shape = {
        "tied": lambda: (Tied(), (4,)),
        "conv1d": lambda: (nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), *flat), (4, 9)),
        "conv3d": lambda: (nn.Sequential(nn.Conv3d(2, 4, 2), *flat), (2, 3, 3, 3)),
        "transposed": lambda: (nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), *flat), (4, 3, 3)),
    }[build]()
    batch = images(8, *shape)
    model(batch[0].float())
    scores = score(name, model, [batch])
    assert {key: values.shape for key, values in scores.items()} == {k: w.shape for k, w in prunable(model).items()}
    assert len(scores) == 2


def test_a_shared_weight_gets_the_gradient_of_all_its_uses() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    batch = images(8, 4)
    expected = oracle("snip", model, [batch])
    scores = score("snip", model, [batch])
    assert list(scores) == ["first.weight", "head.weight"]
    torch.testing.assert_close(scores["first.weight"], expected["first.weight"], **LOOSE)


@pytest.mark.parametrize("name", available("synflow", "ntk_sap"))
def test_scores_without_data_do_not_depend_on_it(name: str) -> None:
    model = convnet().train()
    first = score(name, model, [images(3, 2, 8, 8, seed=1)])
    second = score(name, model, [images(3, 2, 8, 8, seed=2)])
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all((values >= 0).all() for values in first.values())


def test_synflow_stays_finite_where_float32_overflows() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(60)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    scores = score("synflow", model, [(torch.zeros(1, 64), torch.zeros(1, dtype=torch.long))])
    assert all(values.dtype == torch.float64 for values in scores.values())
    assert flatten(scores).min() > 1e100


def test_synflow_conserves_flow_from_layer_to_layer() -> None:
    model = mlp()
    sums = [float(values.sum()) for values in score("synflow", model, [mlp_batch()]).values()]
    assert sums == pytest.approx([sums[0]] * 3)  # no biases: every layer carries R


def test_random_scores_follow_the_seed() -> None:
    model = convnet()
    one, same, other = (flatten(score("random", model, [], seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_unknown_names_options_and_models_are_refused() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="did you mean 'snip'"):
        score("snipp", model, [])
    with pytest.raises(ValueError, match="'magnitude' has no option 'seed': it has none"):
        score("magnitude", model, [], seed=1)
    with pytest.raises(ValueError, match="'grasp' has no option 'seed': its options are temperature"):
        score("grasp", model, [], seed=1)
    for name in SCORES:
        with pytest.raises(ValueError, match="BatchNorm1d has no prunable weights"):
            score(name, nn.BatchNorm1d(3), [])


@pytest.mark.parametrize("name", [name for name in SCORES if name not in ("random", "magnitude", "l1_filter")])
def test_scores_that_need_batches_say_so(name: str) -> None:
    with pytest.raises(ScoreError, match=f"'{name}' needs .*: give at least one batch"):
        score(name, mlp(), [])


def test_labels_out_of_range_are_refused_by_name() -> None:
    inputs, labels = mlp_batch()
    with pytest.raises(ScoreError, match="batch 1"):
        score("snip", mlp(), [(inputs, labels), (inputs, labels + 1)])


def test_scores_that_mean_nothing_are_errors() -> None:
    inputs, labels = mlp_batch()
    with pytest.raises(ScoreError, match=r"'snip' is not finite for '0.weight'"):
        score("snip", mlp(), [(inputs * torch.nan, labels)])
    dead = mlp()
    with torch.no_grad():
        dead[4].weight.zero_()
        dead[2].weight.zero_()
    with pytest.raises(ScoreError, match="'grasp' is zero for every weight"):
        score("grasp", dead, [mlp_batch()])


def test_scores_are_exported() -> None:
    assert cops.SCORES is SCORES
