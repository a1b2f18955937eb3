"""Small networks that between them hold what real ones do, and a guard that says whether one was touched."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jobs.models import vgg

Batch = tuple[Tensor, Tensor]


def mlp() -> nn.Sequential:
    """The network of the golden figures: weights `sin(0.7 i + k + 1) / sqrt(fan_in)`, biases 0, float64."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for k, layer in enumerate(layer for layer in model if isinstance(layer, nn.Linear)):
            i = torch.arange(layer.weight.numel(), dtype=torch.float64)
            layer.weight.copy_((torch.sin(0.7 * i + k + 1) / math.sqrt(layer.in_features)).view_as(layer.weight))
            layer.bias.zero_()
    return model


def mlp_batch() -> Batch:
    j, n = torch.arange(6, dtype=torch.float64), torch.arange(24, dtype=torch.float64)[:, None]
    return torch.cos(0.3 * j + n), torch.arange(24) % 3


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Biases, norms and running statistics off their defaults, float64: nothing cancels by accident."""
    draws = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype))
    return model


def convnet() -> nn.Module:
    """Convolutions, one of them grouped, batch norm, pooling and a linear layer; inputs (n, 2, 8, 8), 3 classes."""
    torch.manual_seed(0)
    return randomised(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, groups=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
    )


def images(count: int, *shape: int, classes: int = 3, seed: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *shape, generator=draws, dtype=torch.float64)
    return inputs, torch.randint(classes, (count,), generator=draws)


class Residual(nn.Module):
    """A block with a shortcut, as in a ResNet; inputs (n, 2, 6, 6), 3 classes."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.one = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_two = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.norm_one(self.one(x)))
        x = torch.relu(self.norm_two(self.two(inner)) + x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Tied(nn.Module):
    """Two layers that share one weight; inputs (n, 4), 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return logits


def vgg16(scale: int = 1) -> nn.Module:
    """CIFAR's VGG-16 with batch norm, `scale` times narrower; inputs (n, 3, 32, 32), 10 classes."""
    torch.manual_seed(0)
    return vgg.vgg16((3, 32, 32), 10, width=1 / scale)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside must leave parameters, buffers, gradients, modes, hooks and random state bitwise."""
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype)

    def state() -> list[object]:
        tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
        return [
            [(id(t), t.requires_grad, t.detach().clone()) for t in tensors],
            [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            list(model.state_dict()),
            torch.get_rng_state(),
            torch.is_grad_enabled(),
        ]

    before = state()
    try:
        yield
    finally:
        assert same(before, state())


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
