"""A data set of image files: train/CLASS/* and test/CLASS/* in a folder or in a zip archive."""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from jobs.data import Dataset, Samples
from jobs.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png"}
LAYOUT = "give a folder or zip archive that holds train/CLASS/* and test/CLASS/* (JPEG or PNG files)"
Read = Callable[[str], bytes]


def image_folder(
    *,
    path: str,
    size: Annotated[int, Field(ge=1, le=4096)] | None = None,
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Dataset:
    """Images of a folder or a zip archive, decoded once and kept as uint8.

    Args:
        path: holds train/CLASS/* and test/CLASS/*, JPEG or PNG files; classes are numbered in alphabetical order.
        size: height and width that every image is resized to; None where all have one size already.
        validation: fraction of each class's training images that steers the search instead.
        seed: of that split.

    Raises:
        UserError: no such path, no images, classes that differ, an image that cannot be decoded or has another size.
    """
    with _opened(path) as (names, read):
        train, test = _listed(path, names)
        classes = list(train)
        inputs, labels = _decode(path, read, train, classes, size)
        final = _decode(path, read, test, classes, size or tuple(inputs.shape[2:]))
    order = torch.randperm(len(final[1]), generator=torch.Generator().manual_seed(seed))  # some first ones: all classes
    fit, steer = _split(labels, validation, seed)
    if not len(steer) or not len(fit):
        raise UserError(
            f"data set '{path}': options.validation = {validation} of {len(labels)} training images leaves "
            f"{len(fit)} for training and {len(steer)} for validation: neither can do without"
        )
    statistics = _statistics(inputs[fit])
    return Dataset(
        (inputs[fit], labels[fit]),
        (inputs[steer], labels[steer]),
        (final[0][order], final[1][order]),
        len(classes),
        statistics,
    )


def look(path: str) -> None:
    """Look for the images of a path, without decoding any.

    Raises:
        UserError: no such path, no images, or classes that differ.
    """
    with _opened(path) as (names, _):
        _listed(path, names)


@contextmanager
def _opened(path: str) -> Iterator[tuple[list[str], Read]]:
    """Names of all files below `path`, sorted, with `/`; and what reads one. Threads may read at once."""
    root = Path(path).expanduser()
    if root.is_dir():
        files = (Path(folder, file) for folder, _, inside in os.walk(root) for file in inside)
        yield sorted(file.relative_to(root).as_posix() for file in files), lambda name: (root / name).read_bytes()
    elif root.is_file():
        try:
            with zipfile.ZipFile(root) as archive:
                yield sorted(archive.namelist()), archive.read
        except zipfile.BadZipFile as error:
            raise UserError(f"data set '{path}' is no zip archive: {error}; {LAYOUT}") from None
    else:
        raise UserError(f"data set '{path}' does not exist: {LAYOUT}")


def _listed(path: str, names: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Image files of train and of test, by class."""
    train, test = (_by_class(path, names, part) for part in ("train", "test"))
    if foreign := sorted(set(test) - set(train)):
        raise UserError(f"data set '{path}': test/{foreign[0]} has images, train/{foreign[0]} has none")
    return train, test


def _by_class(path: str, names: Sequence[str], part: str) -> dict[str, list[str]]:
    """Image files of `train` or `test`, by class, in alphabetical order."""
    found: dict[str, list[str]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) > 2 and parts[0] == part and PurePosixPath(name).suffix.lower() in SUFFIXES:
            found.setdefault(parts[1], []).append(name)
    if not found:
        raise UserError(f"data set '{path}' has no images in {part}/CLASS/: {LAYOUT}")
    return found


def _decode(
    path: str, read: Read, files: dict[str, list[str]], classes: list[str], size: int | tuple[int, ...] | None
) -> Samples:
    """Images (n, 3, height, width) uint8 and labels (n,), class by class."""
    names = [name for kind in files.values() for name in kind]
    labels = torch.tensor([classes.index(kind) for kind, group in files.items() for _ in group])

    def decode(name: str) -> Image.Image:
        try:
            with Image.open(BytesIO(read(name))) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            raise UserError(f"data set '{path}': {name} cannot be decoded: {error}") from None
        return picture.resize((size, size), Image.Resampling.BILINEAR) if isinstance(size, int) else picture

    height, width = size if isinstance(size, tuple) else np.asarray(decode(names[0])).shape[:2]
    images = np.empty((len(names), 3, height, width), np.uint8)

    def place(start: int) -> None:
        for index in range(start, min(start + step, len(names))):
            pixels = np.asarray(decode(names[index]))
            if pixels.shape[:2] != (height, width):
                raise UserError(
                    f"data set '{path}': {names[index]} has {pixels.shape[0]} x {pixels.shape[1]} pixels, others have "
                    f"{height} x {width}: give options.size, which resizes all"
                )
            images[index] = pixels.transpose(2, 0, 1)

    step = 256  # files per task: small enough to share the work out, large enough to cost nothing
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes without holding the interpreter's lock
        for _ in pool.map(place, range(0, len(names), step)):
            pass
    return torch.from_numpy(images), labels


def _split(labels: Tensor, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions for training and for validation: the same fraction of every class, each part in random order."""
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=draws)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        mine = order[labels[order] == label]
        chosen[mine[: round(validation * len(mine))]] = True
    return order[~chosen[order]], order[chosen[order]]


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (channels, 1, 1); exact, since they come from counts of 0..255."""
    levels = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ levels
    std = (shares @ levels**2 - mean**2).clamp(min=1).sqrt()  # a channel without any contrast stays what it is
    return mean.float()[:, None, None], std.float()[:, None, None]
