"""A data set in memory: three parts that share no sample; and as plain arrays, which processes can share."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

Samples = tuple[Tensor, Tensor]  # inputs (n, channels, height, width), labels (n,) int64


@dataclass(frozen=True)
class Dataset:
    """Real samples in memory, in three parts that share none.

    Training samples fit the weights and are scored, validation samples steer the search, test samples are looked
    at only for confirmed masks.

    Args:
        train: inputs are float32, ready for a network, or uint8 images, which `ready` normalises; as in
        validation: and
        test: the other parts.
        classes: number of labels, which are 0, 1, ...
        statistics: mean and standard deviation of the uint8 training images, each (channels, 1, 1).
    """

    train: Samples
    validation: Samples
    test: Samples
    classes: int
    statistics: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""
        channels, height, width = self.train[0].shape[1:]
        return channels, height, width

    def ready(self, inputs: Tensor) -> Tensor:
        """Inputs as a network takes them, float32."""
        if self.statistics is None:
            return inputs
        mean, std = self.statistics
        return (inputs - mean) / std

    def first(self, count: int | None) -> Self:
        """At most `count` samples of each part; all for None."""

        def some(samples: Samples) -> Samples:
            return samples[0][:count], samples[1][:count]

        parts = some(self.train), some(self.validation), some(self.test)
        return type(self)(*parts, self.classes, self.statistics)

    def to(self, device: torch.device) -> Self:
        """Itself on a device."""

        def moved(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].to(device), pair[1].to(device)

        parts = moved(self.train), moved(self.validation), moved(self.test)
        return type(self)(*parts, self.classes, self.statistics and moved(self.statistics))

    def to_arrays(self) -> dict[str, Any]:
        """Itself as arrays, which Ray's object store gives to all processes of a node without a copy."""
        pairs = {"train": self.train, "validation": self.validation, "test": self.test, "statistics": self.statistics}
        arrays = {name: tuple(tensor.numpy() for tensor in pair) for name, pair in pairs.items() if pair is not None}
        return arrays | {"classes": self.classes}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Self:
        """The inverse of `to_arrays`, without a copy."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes to it
            pairs: dict[str, Any] = {
                name: tuple(map(torch.from_numpy, pair)) for name, pair in arrays.items() if name != "classes"
            }
        return cls(classes=arrays["classes"], **pairs)


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of a data set as arrays: of every sample, label and statistic, with types and shapes."""
    total = hashlib.sha256(str(arrays["classes"]).encode())
    for name in sorted(arrays.keys() - {"classes"}):
        for array in arrays[name]:
            total.update(f"{name} {array.dtype} {array.shape}".encode())
            total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


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
