"""Public data sets by name, through torchvision (extra `vision`): downloaded once, checked, split by a seed.

They are kept in COPS_DATA, by default the folder `data` of COPS_HOME; files that are there already are not downloaded.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from jobs.data import Dataset, Samples
from jobs.errors import UserError
from jobs.files import opened
from jobs.images import Seed, Share, decode, parted
from jobs.models.libraries import library
from jobs.settings import Settings

TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"  # and its MD5
# Images without any content stand for a data set whose cost is wanted: shape, classes, training and test samples.
Size = tuple[tuple[int, int, int], int, int, int]
GREY = (1, 28, 28)
SIZES: dict[str, Size] = {
    "mnist": (GREY, 10, 60_000, 10_000),
    "fashion_mnist": (GREY, 10, 60_000, 10_000),
    "kmnist": (GREY, 10, 60_000, 10_000),
    "emnist": (GREY, 47, 112_800, 18_800),
    "cifar10": ((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": ((3, 32, 32), 100, 50_000, 10_000),
    "tiny_imagenet": ((3, 64, 64), 200, 100_000, 10_000),
}


KINDS: dict[str, tuple[str, dict[str, str]]] = {  # torchvision's classes and their options
    "mnist": ("MNIST", {}),
    "fashion_mnist": ("FashionMNIST", {}),
    "kmnist": ("KMNIST", {}),
    "emnist": ("EMNIST", {"split": "balanced"}),
    "cifar10": ("CIFAR10", {}),
    "cifar100": ("CIFAR100", {}),
}


def mnist(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """MNIST: 70,000 handwritten digits of 28 x 28 pixels (LeCun et al., 1998)."""
    return _loaded("mnist", validation, seed)


def fashion_mnist(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """Fashion-MNIST: 70,000 articles of clothing of 28 x 28 pixels, 10 classes (Xiao et al., 2017)."""
    return _loaded("fashion_mnist", validation, seed)


def kmnist(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """Kuzushiji-MNIST: 70,000 cursive Japanese characters of 28 x 28 pixels, 10 classes (Clanuwat et al., 2018)."""
    return _loaded("kmnist", validation, seed)


def emnist(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """EMNIST Balanced: 131,600 letters and digits of 28 x 28 pixels, 47 classes (Cohen et al., 2017)."""
    return _loaded("emnist", validation, seed)


def cifar10(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """CIFAR-10: 60,000 photographs of 32 x 32 pixels, 10 classes (Krizhevsky, 2009).

    Its files are pickles: torchvision reads them only if their MD5 is the published one.
    """
    return _loaded("cifar10", validation, seed)


def cifar100(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """CIFAR-100: 60,000 photographs of 32 x 32 pixels, 100 classes (Krizhevsky, 2009); read as CIFAR-10."""
    return _loaded("cifar100", validation, seed)


def tiny_imagenet(*, validation: Share = 0.1, seed: Seed = 0) -> Dataset:
    """Tiny ImageNet: 110,000 photographs of 64 x 64 pixels, 200 classes (Stanford, CS231n); 1.4 GB in memory.

    Test samples are its validation images, as in all papers: the labels of its test images are not public.
    """
    path = str(_archive())
    with opened(path, None, "download it again") as (names, read):
        training: dict[str, list[str]] = {}
        for name in names:
            _, part, *inner = name.split("/")
            if part == "train" and name.endswith(".JPEG"):
                training.setdefault(inner[0], []).append(name)
        final: dict[str, list[str]] = {}
        for line in read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines():
            file, kind, *_ = line.split("\t")
            final.setdefault(kind, []).append(f"tiny-imagenet-200/val/images/{file}")
        classes = sorted(training)
        samples = (decode(path, read, part, classes, None) for part in (training, final))
        return parted("data set tiny_imagenet", next(samples), next(samples), len(classes), validation, seed)


def outline(size: Size, validation: float) -> Dataset:
    """A data set of that size, of images that take no memory: what a sweep on it costs can be told without it."""
    shape, classes, training, test = size

    def part(count: int) -> Samples:
        return torch.zeros(1, dtype=torch.uint8).expand(count, *shape), torch.zeros(1, dtype=torch.int64).expand(count)

    steer = round(validation * training)
    statistics = torch.zeros(shape[0], 1, 1), torch.ones(shape[0], 1, 1)
    return Dataset(part(training - steer), part(steer), part(test), classes, statistics)


def look(name: str) -> None:
    """Download a data set, unless it is there.

    Raises:
        UserError: it cannot be had.
    """
    if name == "tiny_imagenet":
        _archive()
    else:
        _parts(name)


def _loaded(name: str, validation: float, seed: int) -> Dataset:
    parts = _parts(name)
    train, test = (_samples(part) for part in parts)
    return parted(f"data set {name}", train, test, len(parts[0].classes), validation, seed)


def _parts(name: str) -> list[Any]:
    """Training and test part, as torchvision reads them."""
    kind, options = KINDS[name]
    build = getattr(library("torchvision.datasets", "vision"), kind)
    return list(
        _fetched(name, lambda at: [build(at, train=train, download=True, **options) for train in (True, False)])
    )


def _archive() -> Path:
    """Tiny ImageNet's zip archive."""
    utils = library("torchvision.datasets.utils", "vision")

    def fetch(folder: Path) -> Path:
        utils.download_url(TINY[0], folder, "tiny-imagenet-200.zip", TINY[1])
        return folder / "tiny-imagenet-200.zip"

    return Path(_fetched("tiny_imagenet", fetch))


def _samples(part: Any) -> Samples:
    """Images (n, channels, height, width) uint8 and labels, of what torchvision has read."""
    images: Tensor = torch.as_tensor(part.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(part.targets, dtype=torch.int64)


def _fetched(name: str, fetch: Callable[[Path], Any]) -> Any:
    """What `fetch` gives, one process of a node after the other.

    Raises:
        UserError: it cannot be downloaded, or is damaged.
    """
    folder = Settings.read().data_folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        try:
            return fetch(folder)
        except (OSError, RuntimeError) as error:  # no network, a full disk, a wrong checksum
            raise UserError(
                f"data set {name} cannot be had: {error}; where there is no network, put its files into {folder}, "
                "as torchvision does, or name another folder by COPS_DATA"
            ) from None
