import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cops import Mask, prune
from cops.network import prunable
from tests.cops.networks import Residual, Tied, convnet, images, unchanged, vgg16

Weight = tuple[Any, ...]


class Graph:
    """A network as a graph of single units, built edge by edge and searched from both ends."""

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self.kept = kept
        self.count = 0
        self.edges: list[tuple[int, int, Weight | None]] = []

    def units(self, *shape: int) -> Tensor:
        size = int(torch.tensor(shape).prod())
        self.count += size
        return torch.arange(self.count - size, self.count).view(shape)

    def conv(self, name: str, inputs: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        kept = self.kept[name]
        _, height, width = inputs.shape
        size = kept.shape[2]
        outputs = self.units(len(kept), *((n + 2 * padding - size) // stride + 1 for n in (height, width)))
        for o, y, x in itertools.product(*map(range, outputs.shape)):
            for i, dy, dx in itertools.product(*map(range, kept.shape[1:])):
                at = (y * stride + dy - padding, x * stride + dx - padding)
                if kept[o, i, dy, dx] and 0 <= at[0] < height and 0 <= at[1] < width:
                    channel = o // (len(kept) // groups) * kept.shape[1] + i
                    self.edges.append((int(inputs[channel][at]), int(outputs[o, y, x]), (name, o, i, dy, dx)))
        return outputs

    def linear(self, name: str, inputs: Tensor) -> Tensor:
        outputs = self.units(len(self.kept[name]))
        for o, i in self.kept[name].nonzero().tolist():
            self.edges.append((int(inputs[i]), int(outputs[o]), (name, o, i)))
        return outputs

    def pool(self, inputs: Tensor, size: int) -> Tensor:
        outputs = self.units(len(inputs), inputs.shape[1] // size, inputs.shape[2] // size)
        for c, y, x in itertools.product(*map(range, outputs.shape)):
            window = inputs[c, y * size : (y + 1) * size, x * size : (x + 1) * size]
            self.edges += [(unit, int(outputs[c, y, x]), None) for unit in window.flatten().tolist()]
        return outputs

    def add(self, one: Tensor, other: Tensor) -> Tensor:
        outputs = self.units(*one.shape)
        for source in (one, other):
            pairs = zip(source.flatten().tolist(), outputs.flatten().tolist(), strict=True)
            self.edges += [(a, b, None) for a, b in pairs]
        return outputs

    def alive(self, inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        ahead, behind = defaultdict(set), defaultdict(set)
        for a, b, _ in self.edges:
            ahead[a].add(b)
            behind[b].add(a)

        def search(start: Tensor, step: Mapping[int, set[int]]) -> set[int]:
            seen, todo = set(start.flatten().tolist()), start.flatten().tolist()
            while todo:
                fresh = step[todo.pop()] - seen
                seen |= fresh
                todo += fresh
            return seen

        reached, reaching = search(inputs, ahead), search(outputs, behind)
        found = {name: torch.zeros_like(kept) for name, kept in self.kept.items()}
        for a, b, weight in self.edges:
            if weight and a in reached and b in reaching:
                found[weight[0]][weight[1:]] = True
        return found


class Stack(nn.Module):
    """Stride, padding, groups, pooling and a linear layer, with functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.three = nn.Conv2d(4, 3, 2, stride=2)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu6(self.norm(self.one(x))), 2)
        x = functional.gelu(self.three(functional.hardswish(self.two(x))))
        logits: Tensor = functional.log_softmax(self.head(x.flatten(1)), dim=1)
        return logits


def search_stack(graph: Graph, inputs: Tensor) -> Tensor:
    x = graph.pool(graph.conv("one.weight", inputs, padding=1), 2)
    x = graph.conv("two.weight", x, padding=1, groups=2)
    return graph.linear("head.weight", graph.conv("three.weight", x, stride=2).flatten())


def search_residual(graph: Graph, inputs: Tensor) -> Tensor:
    x = graph.conv("stem.weight", inputs, padding=1)
    inner = graph.conv("two.weight", graph.conv("one.weight", x, padding=1), padding=1)
    return graph.linear("head.weight", graph.pool(graph.add(x, inner), 6).flatten())


def search_mlp(graph: Graph, inputs: Tensor) -> Tensor:
    return graph.linear("4.weight", graph.linear("2.weight", graph.linear("0.weight", inputs)))


def search_tied(graph: Graph, inputs: Tensor) -> Tensor:
    return graph.linear("head.weight", graph.linear("first.weight", graph.linear("first.weight", inputs)))


def mlp_of(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))


NETWORKS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "relu": (lambda: mlp_of(nn.ReLU(inplace=True)), search_mlp, (6,)),
    "sigmoid": (lambda: mlp_of(nn.Sigmoid()), search_mlp, (6,)),
    "prelu": (lambda: mlp_of(nn.PReLU()), search_mlp, (6,)),
    "stack": (Stack, search_stack, (2, 4, 4)),
    "residual": (Residual, search_residual, (2, 6, 6)),
    "tied": (Tied, search_tied, (4,)),
}


def drawn(model: nn.Module, density: float, seed: int) -> Mask:
    draws = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(w.shape, generator=draws) < density for name, w in prunable(model).items()})


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("density", [0.03, 0.1, 0.3, 0.6])
def test_dead_weights_are_those_that_a_graph_search_finds(network: str, density: float) -> None:
    build, search, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = build().train()
    some_dead = 0
    for seed in range(6):
        mask = drawn(model, density, seed)
        graph = Graph(mask.kept)
        inputs = graph.units(*shape)
        expected = graph.alive(inputs, search(graph, inputs))
        with unchanged(model):
            health = mask.health(model, torch.zeros(2, *shape))
        assert health.dead == {n: int((kept & ~expected[n]).sum()) for n, kept in mask.kept.items()}
        assert health.dead_share == pytest.approx(sum(health.dead.values()) / max(1, mask.count))
        assert health.sparsity == mask.sparsity
        assert health.density == mask.layer_density()
        assert health.emptied == tuple(name for name, kept in mask.kept.items() if not kept.any())
        some_dead += sum(health.dead.values())
    assert some_dead or density > 0.1


def test_a_bias_is_no_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    kept = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.tensor([[True, True]])}
    assert Mask(kept).health(model, torch.zeros(1, 2)).dead == {"0.weight": 0, "2.weight": 1}


def test_a_shortcut_keeps_a_network_with_an_emptied_layer_alive() -> None:
    model = Residual()
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    kept["one.weight"] = torch.zeros_like(kept["one.weight"])
    health = Mask(kept).health(model, torch.zeros(1, 2, 6, 6))
    assert health.emptied == ("one.weight",)
    assert health.dead == {"stem.weight": 0, "one.weight": 0, "two.weight": 81, "head.weight": 0}


def test_depth_makes_nothing_overflow_or_vanish() -> None:
    for scale in (1e-30, 1e30):
        model = nn.Sequential(*(layer for _ in range(150) for layer in (nn.Linear(20, 20), nn.GELU())))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        mask = Mask({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()})
        assert mask.health(model, torch.zeros(1, 20)).dead_share == 0.0


def test_a_collapsed_layer_kills_every_weight_of_a_chain() -> None:
    model = vgg16(scale=8)
    mask = prune(model, [images(1, 3, 32, 32)], target="synflow", sparsity=0.99).mask
    health = mask.health(model, torch.zeros(1, 3, 32, 32))
    assert health.emptied
    assert health.dead_share == 1.0
    dense = Mask({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()})
    shallow = dense.health(model, torch.zeros(1, 3, 32, 32))
    last = ("34.weight", "37.weight", "40.weight")  # 2 x 2 pixels: no weight of a 3 x 3 filter sees only padding
    assert all(not shallow.dead[name] for name in last)
    assert shallow.dead_share == 0.0


def test_what_cannot_be_followed_is_refused_and_the_model_left() -> None:
    model = convnet().train()
    mask = Mask({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()})
    with unchanged(model), pytest.raises(ValueError, match=r"cannot take inputs \(1, 3, 8, 8\)"):
        mask.health(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="for another network"):
        mask.health(Residual(), torch.zeros(1, 2, 6, 6))
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    attention = Mask({"linear1.weight": torch.ones(8, 4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="attention"):
        attention.health(encoder, torch.zeros(1, 3, 4))
    dilated = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, dilation=2))
    with pytest.raises(ValueError, match="max pooling with dilation"):
        Mask({"0.weight": torch.ones(1, 1, 1, 1, dtype=torch.bool)}).health(dilated, torch.zeros(1, 1, 5, 5))
