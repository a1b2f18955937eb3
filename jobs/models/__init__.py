"""The field's networks for images: `name(shape, classes, *, options)`, freshly initialised; one family per file.

`shape` is (channels, height, width) of an input, `classes` the number of outputs; `width` scales the channels.
"""

from collections.abc import Callable

from torch import nn

from jobs.models.libraries import timm, torchvision
from jobs.models.resnet import resnet18, resnet20, resnet32, resnet56, resnet110
from jobs.models.small import convnet, lenet5, lenet300
from jobs.models.vgg import vgg11, vgg16, vgg19
from jobs.models.vit import vit
from jobs.models.wideresnet import wideresnet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "convnet": convnet,
    "lenet300": lenet300,
    "lenet5": lenet5,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet18": resnet18,
    "wideresnet": wideresnet,
    "vit": vit,
    "torchvision": torchvision,
    "timm": timm,
}
