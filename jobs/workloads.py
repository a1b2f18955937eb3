"""Models and data sets, by the names that sweep files use."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

Samples = tuple[Tensor, Tensor]  # inputs (n, channels, height, width) float32, labels (n,) int64


@dataclass(frozen=True)
class Dataset:
    """Real samples in memory, in three parts that share none.

    Training samples fit the weights and are scored, validation samples steer the search, test samples are looked
    at only for confirmed masks.
    """

    train: Samples
    validation: Samples
    test: Samples
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""
        channels, height, width = self.train[0].shape[1:]
        return channels, height, width


def digits() -> Dataset:
    """1,797 real handwritten digits of 8 x 8 pixels, shipped with scikit-learn; 60 / 20 / 20 %, a fixed split.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation, test = order.split([1077, 360, 360])
    inputs = (inputs - inputs[train].mean()) / inputs[train].std()
    fit, steer, final = ((inputs[part], labels[part]) for part in (train, validation, test))
    return Dataset(fit, steer, final, classes=10)


def convnet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Three 3 x 3 convolutions with batch norm, average pool, one linear layer; for small images."""
    widths = [shape[0], 16, 32, 64]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        if index:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


MODELS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {"convnet": convnet}
DATA: dict[str, Callable[[], Dataset]] = {"digits": digits}


@cache
def load_data(name: str) -> Dataset:
    """A data set by name, read once per process."""
    return DATA[name]()


def build_model(name: str, data: Dataset, seed: int) -> nn.Module:
    """A freshly initialised network; the same weights for the same seed, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](data.shape, data.classes)


def scoring_batches(data: Dataset, batches: int, batch_size: int, seed: int) -> list[Samples]:
    """The training samples that scores see: `batches` pairs of inputs and labels, drawn by `seed`."""
    inputs, labels = data.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: batches * batch_size]
    return [(inputs[part], labels[part]) for part in order.split(batch_size)]
