"""CIFAR's VGGs with batch norm: 3 x 3 convolutions, average pool, one linear layer.

The configurations A, D and E of Simonyan and Zisserman (ICLR 2015) without their large linear layers, as the field
prunes them. At least 16 x 16 pixels: four poolings.
"""

from torch import nn

from jobs.models.base import Shape, Width, scaled

POOL = 0
VGG11 = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512)
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)
VGG19 = (64, 64, POOL, 128, 128, POOL, *(256,) * 4, POOL, *(512,) * 4, POOL, *(512,) * 4)


def vgg11(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's VGG-11 with batch norm: 8 convolutions, average pool, one linear layer; at least 16 x 16 pixels."""
    return _vgg(VGG11, shape, classes, width)


def vgg16(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's VGG-16 with batch norm: 13 convolutions, average pool, one linear layer; at least 16 x 16 pixels.

    14,715,584 prunable weights for CIFAR-10, as in the COPS paper (arXiv 2107.12673).
    """
    return _vgg(VGG16, shape, classes, width)


def vgg19(shape: Shape, classes: int, *, width: Width = 1.0) -> nn.Module:
    """CIFAR's VGG-19 with batch norm: 16 convolutions, average pool, one linear layer; at least 16 x 16 pixels."""
    return _vgg(VGG19, shape, classes, width)


def _vgg(sizes: tuple[int, ...], shape: Shape, classes: int, width: float) -> nn.Module:
    layers: list[nn.Module] = []
    channels = shape[0]
    for size in sizes:
        if size == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        (filters,) = scaled((size,), width)
        convolution = nn.Conv2d(channels, filters, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
