"""Wide ResNets (Zagoruyko and Komodakis, BMVC 2016): normalisation and activation before each convolution."""

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from jobs.models.base import Shape, Width, scaled


def _depth(value: int) -> int:
    if value % 6 != 4:
        raise ValueError("should be 6 n + 4, such as 16, 22, 28 or 40")
    return value


Depth = Annotated[int, Field(ge=10, le=1000), AfterValidator(_depth)]


def wideresnet(
    shape: Shape,
    classes: int,
    *,
    depth: Depth = 28,
    widen: Annotated[int, Field(ge=1, le=64)] = 10,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    width: Width = 1.0,
) -> nn.Module:
    """WRN-depth-widen for CIFAR, WRN-28-10 by default (36.5M weights): three stages of (depth - 4) / 6 blocks of
    16, 32 and 64 channels, `widen` times as many.
    """
    stem, *stages = scaled((16, 16 * widen, 32 * widen, 64 * widen), width)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], stem, 3, padding=1, bias=False)]
    for stage, (before, after) in enumerate(pairwise([stem, *stages])):
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            layers.append(_Block(after if block else before, after, stride, dropout))
    layers += [nn.BatchNorm2d(stages[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(stages[-1], classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.inner = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if (before, stride) != (after, 1) else None

    def forward(self, inputs: Tensor) -> Tensor:
        active = self.first(inputs)
        around = inputs if self.shortcut is None else self.shortcut(active)
        summed: Tensor = self.inner(active) + around
        return summed
