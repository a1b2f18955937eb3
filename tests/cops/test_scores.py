import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cops
from cops import Mask
from cops.flat import flatten
from cops.network import prunable
from cops.scores import SCORES, ScoreError, Scores, score
from tests.cops.networks import Residual, Tied, convnet, images, mlp, mlp_batch, randomised, unchanged


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


@pytest.mark.parametrize(
    "key",
    [
        *(f"{name}/{mode}" for name in ("magnitude", "snip", "grasp") for mode in ("eval", "train")),
        "synflow/eval",
        "gradnorm/train",
    ],
)
def test_golden_figures_of_the_public_implementations(shared: Path, key: str) -> None:
    expected = torch.tensor(json.loads((shared / "golden" / "scores_mlp.json").read_text())[key], dtype=torch.float64)
    name, mode = key.split("/")
    vector = flatten(score(name, mlp().train(mode == "train"), [mlp_batch()]))
    if name in ("snip", "grasp", "gradnorm"):
        vector = vector / vector.abs().sum()
    assert vector.dtype == torch.float64
    torch.testing.assert_close(vector, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()) * 1e-3)


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "gradnorm", "force"])
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


@pytest.mark.parametrize("name", ["snip", "grasp", "gradnorm", "force", "fisher", "entropy_filter"])
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
    body = convnet()
    model = nn.Sequential(body, nn.Dropout(0.5)).train(mode == "train")
    body.get_submodule("1").eval()  # modes are restored for each module
    body.get_parameter("0.weight").requires_grad_(False)
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
    builds: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "tied": (Tied(), (4,)),
        "conv1d": (nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), *flat), (4, 9)),
        "conv3d": (nn.Sequential(nn.Conv3d(2, 4, 2), *flat), (2, 3, 3, 3)),
        "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), *flat), (4, 3, 3)),
    }
    model, shape = builds[build]
    batch = images(8, *shape)
    model(batch[0].float())
    scores = score(name, model, [batch])
    assert {key: values.shape for key, values in scores.items()} == {k: w.shape for k, w in prunable(model).items()}
    assert len(scores) == 2


@pytest.mark.parametrize("name", SCORES)
def test_a_layer_registered_twice_is_put_back(name: str) -> None:
    torch.manual_seed(0)
    layer, activation = nn.Linear(4, 4), nn.PReLU()
    model = nn.Sequential(layer, activation, layer, activation, nn.Linear(4, 3)).double()
    with unchanged(model):
        scores = score(name, model, [images(8, 4)])
    assert list(scores) == ["0.weight", "4.weight"]
    if name == "snip":
        torch.testing.assert_close(scores["0.weight"], oracle("snip", model, [images(8, 4)])["0.weight"])


def test_a_shared_weight_gets_the_gradient_of_all_its_uses() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    batch = images(8, 4)
    expected = oracle("snip", model, [batch])
    scores = score("snip", model, [batch])
    assert list(scores) == ["first.weight", "head.weight"]
    torch.testing.assert_close(scores["first.weight"], expected["first.weight"], rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", ["synflow", "ntk_sap"])
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


@pytest.mark.parametrize("seed", [0, 7])
def test_random_scores_know_nothing_of_the_initial_weights(seed: int) -> None:
    """Even of those that the same seed gave."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 100), nn.Linear(100, 10))
    scores = score("random", model, [], seed=seed)
    for name, values in scores.items():
        pair = torch.stack([values.flatten(), model.get_parameter(name).detach().flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / values.numel() ** 0.5, name


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
        dead.get_parameter("4.weight").zero_()
        dead.get_parameter("2.weight").zero_()
    with pytest.raises(ScoreError, match="'grasp' is zero for every weight"):
        score("grasp", dead, [mlp_batch()])


def test_fisher_is_the_mean_square_of_the_samples_own_gradients() -> None:
    model = convnet().train()
    inputs, labels = images(6, 2, 8, 8)
    scores = score("fisher", model, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])])
    model.eval()
    weights = prunable(model)
    squares = dict.fromkeys(weights, torch.tensor(0.0))
    for n in range(6):
        loss = cross_entropy(model(inputs[n : n + 1]), labels[n : n + 1])
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            squares[name] = squares[name] + gradient**2
    for name, weight in weights.items():
        expected = weight.detach() ** 2 * squares[name] / 6
        torch.testing.assert_close(scores[name], expected, rtol=1e-10, atol=1e-20)


def test_force_is_the_dense_weight_times_the_pruned_networks_gradient() -> None:
    model = convnet().train()
    batches = [images(6, 2, 8, 8)]
    draws = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(w.shape, generator=draws) < 0.7 for name, w in prunable(model).items()})
    pruned = mask.apply(copy.deepcopy(model))
    gradient = oracle("gradnorm", pruned, batches)
    scores = score("force", model, batches, mask=mask)
    for name, weight in prunable(model).items():
        torch.testing.assert_close(scores[name], weight.detach().abs() * gradient[name].sqrt(), rtol=1e-8, atol=1e-12)
    assert any(scores[name][~kept].any() for name, kept in mask.kept.items())  # removed weights may come back
    with pytest.raises(ValueError, match="the mask is for another network"):
        score("force", mlp(), [mlp_batch()], mask=mask)


def test_ntk_sap_of_a_linear_model_is_its_closed_form() -> None:
    model = nn.Linear(5, 3, bias=False).double()
    with torch.no_grad():
        model.weight[0, 1] = model.weight[2, 4] = 0.0  # removed
    batch = (torch.zeros(7, 5), torch.zeros(7))
    scores = score("ntk_sap", model, [batch], epsilon=0.1, seed=3, draws=2)["weight"]
    draws = torch.Generator().manual_seed(3)
    mask = (model.weight != 0).double()
    total = torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(2):
        x, _theta, delta = (
            torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((7, 5), (3, 5), (3, 5))
        )
        total += 2 * 0.1**2 * delta * ((mask * delta) @ x.T @ x)
    torch.testing.assert_close(scores, (mask * total).abs(), rtol=1e-9, atol=1e-15)
    assert scores[0, 1] == scores[2, 4] == 0


def test_ntk_sap_sees_the_mask_of_the_weights_and_nothing_else_of_them() -> None:
    model = convnet().train()
    batch = images(6, 2, 8, 8)
    first = score("ntk_sap", model, [batch])
    with torch.no_grad():
        for weight in prunable(model).values():
            weight.mul_(-3)
        model.get_buffer("1.running_mean").add_(5)
    again = score("ntk_sap", model, [batch])
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = score("ntk_sap", model, [batch], seed=1)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    with torch.no_grad():
        model.get_parameter("0.weight")[0].zero_()
    pruned = score("ntk_sap", model, [batch])
    assert not pruned["0.weight"][0].any()
    assert not torch.equal(first["9.weight"], pruned["9.weight"])
    for bad in ({"draws": 0}, {"epsilon": 0.0}, {"epsilon": float("nan")}):
        with pytest.raises(ValueError, match="must hold, but got draws="):
            score("ntk_sap", model, [batch], **bad)


FILTERS: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5)),
    (lambda: nn.ConvTranspose1d(4, 3, 2), (4, 5)),
    (lambda: nn.Conv3d(2, 4, 2), (2, 3, 3, 3)),
    (lambda: nn.Linear(4, 6), (4,)),
]


def weights_of_filter(layer: Any, shape: tuple[int, ...], filter_: int) -> Tensor:
    """The weights that output channel `filter_` depends on, found by autograd."""
    inputs = torch.rand(2, *shape, dtype=torch.float64)
    channel = layer(inputs)[:, filter_].sum()
    found: Tensor = torch.autograd.grad(channel, layer.weight)[0] != 0
    return found


@pytest.mark.parametrize(("build", "shape"), FILTERS)
def test_filter_scores_are_shared_by_the_weights_of_an_output_channel(build: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = build().double()
    inputs = torch.rand(30, *shape, dtype=torch.float64)
    norms = score("l1_filter", layer, [])["weight"]
    entropies = score("entropy_filter", layer, [(inputs, torch.zeros(30))], bins=7)["weight"]
    outputs = layer(inputs).relu().detach()
    pooled = outputs.mean(tuple(range(2, outputs.ndim))) if outputs.ndim > 2 else outputs
    for filter_ in range(pooled.shape[1]):
        members = weights_of_filter(layer, shape, filter_)
        norm = layer.weight.detach()[members].abs().sum()
        torch.testing.assert_close(norms[members], norm.expand(int(members.sum())))
        counts = torch.histc(pooled[:, filter_], 7, float(pooled.min()), float(pooled.max()))
        shares = (counts[counts > 0] / 30).double()
        entropy = float(-(shares * shares.log()).sum())
        assert entropies[members].tolist() == pytest.approx([entropy] * int(members.sum()))


def test_entropy_is_that_of_the_activation_behind_batch_norm() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.unused = nn.Linear(3, 3)
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.relu_(self.norm(self.conv(x))).mean((2, 3)))
            return logits

    torch.manual_seed(0)
    model = Functional().double().train()
    inputs, labels = images(40, 2, 6, 6)
    with torch.no_grad():
        model.norm.bias.copy_(torch.tensor([0.0, -100.0, 2.0]))  # filter 1 never fires
    for shared_range in (True, False):
        scores = score("entropy_filter", model, [(inputs, labels)], bins=5, shared_range=shared_range)
        model.eval()
        pooled = model.norm(model.conv(inputs)).relu().mean((2, 3)).detach()
        ends = (pooled, pooled, pooled) if shared_range else pooled.split(1, 1)
        for filter_ in (0, 2):
            low, high = float(ends[filter_].min()), float(ends[filter_].max())
            shares = torch.histc(pooled[:, filter_], 5, low, high) / 40
            expected = float(torch.special.entr(shares).sum())
            assert scores["conv.weight"][filter_].flatten().tolist() == pytest.approx([expected] * 18)
        assert not scores["conv.weight"][1].any()
        assert not scores["unused.weight"].any()
    with pytest.raises(ValueError, match="bins=1"):
        score("entropy_filter", model, [(inputs, labels)], bins=1)
    with pytest.raises(ScoreError, match="zero for every weight"):
        score("entropy_filter", model, [(inputs[:1], labels[:1])], shared_range=False)


def test_scores_are_exported() -> None:
    assert cops.SCORES is SCORES
