"""The field's small networks for images: `name(shape, classes, *, options)`, freshly initialised.

`shape` is (channels, height, width) of an input, `classes` the number of outputs; `width` scales the channels.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

Shape = tuple[int, int, int]
Width = Annotated[float, Field(gt=0, le=16)]


def convnet(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """Three 3 x 3 convolutions with batch norm, average pool, one linear layer; for small images."""
    widths = [shape[0], *_scaled((16, 32, 64), width)]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if index:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def lenet300(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """LeNet-300-100: three linear layers (LeCun et al., 1998)."""
    first, second = _scaled((300, 100), width)
    size = shape[0] * shape[1] * shape[2]
    layers = [nn.Linear(size, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def vgg16(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's VGG-16 with batch norm: 13 convolutions, average pool, one linear layer; at least 16 x 16 pixels.

    14,715,584 prunable weights for CIFAR-10, as in the COPS paper (arXiv 2107.12673).
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for size in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if not size:
            layers.append(nn.MaxPool2d(2))
            continue
        (filters,) = _scaled((size,), width)
        convolution = nn.Conv2d(channels, filters, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet20(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's ResNet-20: three stages of three blocks, 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2).

    Shortcuts between stages are 1 x 1 convolutions.
    """
    return _ResNet(shape, classes, _scaled((16, 32, 64), width), blocks=3)


def resnet18(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """ResNet-18 as used for CIFAR: a 3 x 3 stem without pooling, four stages of two blocks, 64 to 512 channels."""
    return _ResNet(shape, classes, _scaled((64, 128, 256, 512), width), blocks=2)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "convnet": convnet,
    "lenet300": lenet300,
    "vgg16": vgg16,
    "resnet20": resnet20,
    "resnet18": resnet18,
}


class _ResNet(nn.Module):
    def __init__(self, shape: Shape, classes: int, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(shape[0], widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential()
        for stage, (before, after) in enumerate(pairwise([widths[0], *widths])):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                self.blocks.append(_Block(after if block else before, after, stride))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(inputs)))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(before, after, stride),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            _convolution(after, after),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if (before, stride) != (after, 1):
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.relu(self.inner(inputs) + self.shortcut(inputs))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


def _scaled(channels: tuple[int, ...], width: float) -> list[int]:
    return [max(1, round(width * count)) for count in channels]
