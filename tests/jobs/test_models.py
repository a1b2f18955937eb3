"""The shipped networks: as published, scalable, prunable through and through."""

import importlib
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import cops
from cops.network import prunable
from jobs.data import Dataset
from jobs.errors import UserError
from jobs.models import MODELS
from jobs.models.libraries import BRANCHED
from jobs.workloads import ModelReference, build_model

PRUNABLE = {  # weights of convolutions and linear layers, for CIFAR-10
    "vgg11": 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256**2 + 256 * 512 + 3 * 512**2) + 5120,
    "vgg16": 14_715_584,  # METHOD of the COPS paper; without biases and norms
    "vgg19": 20_024_000,
    "resnet20": 268_336 + 16 * 32 + 32 * 64,  # He et al.'s 0.27M, and two 1 x 1 shortcuts
    "resnet32": 461_872 + 16 * 32 + 32 * 64,  # 0.46M
    "resnet56": 848_944 + 16 * 32 + 32 * 64,  # 0.85M
    "resnet110": 1_719_856 + 16 * 32 + 32 * 64,  # 1.7M
    "resnet18": 11_164_352,
    "lenet300": 3072 * 300 + 300 * 100 + 100 * 10,
    "lenet5": 3 * 6 * 25 + 6 * 16 * 25 + 400 * 120 + 120 * 84 + 84 * 10,
    "convnet": 3 * 16 * 9 + 16 * 32 * 9 + 32 * 64 * 9 + 640,
    "wideresnet": 36_461_232,
    "vit": 48 * 192 + 6 * 12 * 192 * 192 + 192 * 10,
}
PARAMETERS = {  # of all kinds, as the papers and other libraries count them
    ("lenet300", 1, 28, 10): 266_610,
    ("lenet5", 1, 28, 10): 61_706,
    ("wideresnet", 3, 32, 10): 36_479_194,  # Zagoruyko and Komodakis: 36.5M
    ("wideresnet(depth=16, widen=8)", 3, 32, 10): 10_961_370,  # 11.0M
    ("wideresnet(depth=40, widen=4)", 3, 32, 10): 8_949_210,  # 8.9M
    ("resnet18", 3, 32, 10): 11_173_962,
}
BEFORE = {  # what version 0.1 initialised, which sweeps have scored and trained: all weights of seed 0, width 1/4
    "convnet": 9.968460,
    "lenet300": -2.433215,
    "vgg16": -180.287687,
    "resnet20": -63.696588,
    "resnet18": -462.265020,
}
SHIPPED = [name for name in MODELS if name in PRUNABLE]


def data(*shape: int, classes: int = 10) -> Dataset:
    samples = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
    return Dataset(samples, samples, samples, classes)


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("name", SHIPPED)
def test_sizes_are_those_of_the_field(name: str) -> None:
    model = build_model(name, data(3, 32, 32), 0)
    assert sum(weight.numel() for weight in prunable(model).values()) == PRUNABLE[name]
    assert model.training


@pytest.mark.parametrize(("case", "count"), PARAMETERS.items())
def test_parameters_are_as_many_as_published(case: tuple[str, int, int, int], count: int) -> None:
    name, channels, pixels, classes = case
    assert parameters(build_model(name, data(channels, pixels, pixels, classes=classes), 0)) == count


@pytest.mark.parametrize("name", SHIPPED)
def test_width_scales_and_other_shapes_fit(name: str) -> None:
    narrow = build_model(f"{name}(width=0.25)", data(1, 28, 28, classes=7), 0)
    assert sum(w.numel() for w in prunable(narrow).values()) < 0.4 * PRUNABLE[name]
    assert narrow(torch.rand(3, 1, 28, 28)).shape == (3, 7)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(1)
    first = build_model(f"{name}(width=0.25)", data(3, 32, 32), 5)
    state = torch.get_rng_state()
    second = build_model(f"{name}(width=0.25)", data(3, 32, 32), 5)
    assert torch.equal(state, torch.get_rng_state())
    other = build_model(f"{name}(width=0.25)", data(3, 32, 32), 6)
    pairs = list(zip(prunable(first).values(), prunable(second).values(), prunable(other).values(), strict=True))
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


@pytest.mark.parametrize(("name", "value"), BEFORE.items())
def test_weights_of_a_seed_are_what_they_were(name: str, value: float) -> None:
    model = build_model(f"{name}(width=0.25)", data(3, 32, 32), 0)
    weights = torch.cat([values.double().flatten() for values in model.state_dict().values()])
    assert float(weights @ torch.linspace(-1, 1, len(weights), dtype=torch.float64)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("name", ["wideresnet(depth=10, widen=1)", "vit(depth=2, width=0.25)"])
def test_every_score_knows_the_new_kinds_of_network(name: str) -> None:
    model = build_model(name, data(3, 16, 16, classes=4), 0)
    batches = [(torch.randn(8, 3, 16, 16), torch.arange(8) % 4)]
    for score in cops.SCORES:
        cops.score(score, model, batches)
    mask = cops.prune(model, batches, target="snip", controls=["grasp"], sparsity=0.8, alpha=[0.5]).mask
    assert mask.sparsity == pytest.approx(0.8, abs=1e-3)


def test_grasp_of_attention_is_the_product_with_the_hessian() -> None:
    """Against finite differences of the gradient, in float64."""
    model = build_model("vit(depth=1, heads=1, width=0.1)", data(3, 8, 8, classes=4), 0).double()
    batch = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4)
    weights = prunable(model)

    def gradient() -> list[torch.Tensor]:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return list(torch.autograd.grad(loss, list(weights.values())))

    score, first, step = cops.score("grasp", model, [batch], temperature=1.0), gradient(), 1e-5
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, slope in zip(weights.values(), first, strict=True):
                weight.add_(slope, alpha=sign * step)
        found.append(gradient())
        with torch.no_grad():
            for weight, slope in zip(weights.values(), first, strict=True):
                weight.sub_(slope, alpha=sign * step)
    for (name, weight), above, below in zip(weights.items(), *found, strict=True):
        torch.testing.assert_close(score[name], weight.detach() * (above - below) / (2 * step), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wideresnet(depth=20)", "depth = 20: should be 6 n [+] 4"),
        ("wideresnet(widen=0)", "widen = 0: should be greater"),
        ("torchvision", "key 'arch' is missing"),
    ],
)
def test_options_that_make_no_network_are_named(name: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelReference.model_validate(name)


@pytest.mark.usefixtures("torchvision")
class TestTorchvision:
    @pytest.mark.parametrize(
        ("arch", "count"),
        [
            ("resnet50", 25_557_032),
            ("vit_b_16", 86_567_656),
            ("mobilenet_v3_small", 2_542_856),
        ],  # its own documentation
    )
    def test_models_of_imagenet_by_name(self, arch: str, count: int) -> None:
        model = build_model(f'torchvision(arch="{arch}")', data(3, 224, 224, classes=1000), 0)
        assert parameters(model) == count

    def test_small_networks_are_those_of_another_implementation(self) -> None:
        """Up to the stem for ImageNet's images, and VGG's large linear layers."""
        import torchvision

        with torch.device("meta"):
            theirs = torchvision.models.resnet18(num_classes=10)
            features = {
                name: getattr(torchvision.models, f"{name}_bn")().features for name in ("vgg11", "vgg16", "vgg19")
            }
        ours = build_model("resnet18", data(3, 32, 32), 0)
        assert parameters(ours) == parameters(theirs) - 3 * 64 * (49 - 9)
        for name, other in features.items():
            assert parameters(build_model(name, data(3, 32, 32), 0)) == parameters(other) + 5130

    def test_the_heavy_edge_is_pruned_and_trained(self) -> None:
        """224 x 224 pixels, one step."""
        images = torch.randn(2, 3, 224, 224), torch.arange(2)
        model = build_model('torchvision(arch="resnet18")', data(3, 224, 224, classes=4), 0)
        mask = cops.prune(model, [images], target="snip", controls=["grasp"], sparsity=0.9, alpha=[0.5]).mask
        mask.apply(model)
        nn.functional.cross_entropy(model(images[0]), images[1]).backward()
        assert mask.health(model, images[0]).dead_share < 0.5

    @pytest.mark.parametrize(
        ("arch", "words"),
        [("resnet5", "no classifier 'resnet5': did you mean resnet50"), (BRANCHED[0], "no classifier 'googlenet'")],
    )
    def test_names_that_it_does_not_have(self, arch: str, words: str) -> None:
        with pytest.raises(UserError, match=words):
            build_model(f'torchvision(arch="{arch}")', data(3, 64, 64), 0)


@pytest.mark.usefixtures("torchvision")
def test_timm_knows_its_models_by_name() -> None:
    pytest.importorskip("timm")
    model = build_model('timm(arch="vit_tiny_patch16_224")', data(3, 224, 224, classes=1000), 0)
    assert parameters(model) == 5_717_416
    grey = build_model('timm(arch="resnet18")', data(1, 64, 64, classes=7), 0)
    assert grey(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(UserError, match="did you mean resnet50"):
        build_model('timm(arch="resnet5o")', data(3, 64, 64), 0)


def test_a_library_that_is_missing_or_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Any:
        def load(name: str) -> None:
            raise error

        return load

    for error, words in (
        (ImportError("No module named 'torchvision'"), r"pip install 'cops-sweep\[vision\]'"),
        (RuntimeError("operator torchvision::nms does not exist"), "torch and torchvision should come from one source"),
    ):
        monkeypatch.setattr(importlib, "import_module", fails(error))
        with pytest.raises(UserError, match=words):
            build_model('torchvision(arch="resnet18")', data(3, 32, 32), 0)
