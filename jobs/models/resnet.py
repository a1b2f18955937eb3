"""CIFAR's ResNets with basic blocks (He et al., CVPR 2016): a 3 x 3 stem, no pooling before the last.

`resnet20`, `resnet32`, `resnet56` and `resnet110` are those of section 4.2, of 0.27M to 1.7M weights; `resnet18` is
ImageNet's (11M) with a stem for small images, which is another thing. Shortcuts between stages are 1 x 1 convolutions.
"""

from itertools import pairwise

from torch import Tensor, nn

from jobs.models.base import Shape, Width, scaled


def resnet20(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's ResNet-20: three stages of three blocks, 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2).

    Shortcuts between stages are 1 x 1 convolutions.
    """
    return _ResNet(shape, classes, scaled((16, 32, 64), width), blocks=3)


def resnet32(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's ResNet-32: as `resnet20`, with five blocks in a stage."""
    return _ResNet(shape, classes, scaled((16, 32, 64), width), blocks=5)


def resnet56(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's ResNet-56: as `resnet20`, with nine blocks in a stage."""
    return _ResNet(shape, classes, scaled((16, 32, 64), width), blocks=9)


def resnet110(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's ResNet-110: as `resnet20`, with eighteen blocks in a stage."""
    return _ResNet(shape, classes, scaled((16, 32, 64), width), blocks=18)


def resnet18(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """ResNet-18 as used for CIFAR: a 3 x 3 stem without pooling, four stages of two blocks, 64 to 512 channels."""
    return _ResNet(shape, classes, scaled((64, 128, 256, 512), width), blocks=2)


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
