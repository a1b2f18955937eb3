"""Networks for small grey images, and for trying out."""

from itertools import pairwise

from torch import nn

from jobs.models.base import Shape, Width, scaled


def convnet(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """Three 3 x 3 convolutions with batch norm, average pool, one linear layer; for small images."""
    widths = [shape[0], *scaled((16, 32, 64), width)]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if index:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def lenet300(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """LeNet-300-100: three linear layers (LeCun et al., 1998)."""
    first, second = scaled((300, 100), width)
    size = shape[0] * shape[1] * shape[2]
    layers = [nn.Linear(size, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def lenet5(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) as it is used today: two 5 x 5 convolutions with max pooling, three linear layers;
    images of 28 x 28 pixels are padded to 32 x 32, as in the paper.
    """
    one, two, three, four = scaled((6, 16, 120, 84), width)
    channels, height, wide = shape
    border = 2 if (height, wide) == (28, 28) else 0
    size = two * ((height + 2 * border - 4) // 2 - 4 >> 1) * ((wide + 2 * border - 4) // 2 - 4 >> 1)
    convolutions = [nn.Conv2d(channels, one, 5, padding=border), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(one, two, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    linear = [nn.Linear(size, three), nn.ReLU(), nn.Linear(three, four), nn.ReLU(), nn.Linear(four, classes)]
    return nn.Sequential(*convolutions, *linear)
