"""A data set of image files: train/CLASS/* and test/CLASS/* in a folder or a zip archive, here or in S3."""

import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import PurePosixPath
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from jobs.data import Dataset, Samples
from jobs.errors import UserError
from jobs.files import Read, opened

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
SUFFIXES = {".jpg", ".jpeg", ".png"}
LAYOUT = "give a folder or zip archive that holds train/CLASS/* and test/CLASS/* (JPEG or PNG files)"


def image_folder(
    *,
    path: str,
    size: Annotated[int, Field(ge=1, le=4096)] | None = None,
    validation: Share = 0.1,
    seed: Seed = 0,
    test: Annotated[str, Field(pattern=r"[^/]+")] = "test",
    sha256: Annotated[str, Field(pattern="[0-9a-f]{64}")] | None = None,
) -> Dataset:
    """Images of a folder or a zip archive, here or in S3, decoded once and kept as uint8.

    Args:
        path: holds train/CLASS/* and test/CLASS/*, JPEG or PNG files; classes are numbered in alphabetical order. An
            archive in S3, s3://bucket/images.zip, is fetched once per node; of a folder there, each image by itself.
        size: height and width that every image is resized to; None where all have one size already.
        validation: fraction of each class's training images that steers the search instead.
        seed: of that split.
        test: folder of the test images, such as ImageNet's val.
        sha256: of an archive, which is refused if it has another.

    Raises:
        UserError: no such path, no images, classes that differ, an image that cannot be decoded or has another size,
            an archive with another checksum, or more than fits in memory.
    """
    with opened(path, sha256, LAYOUT) as (names, read):
        training, final = _listed(path, names, test)
        classes = list(training)
        inputs, labels = decode(path, read, training, classes, size)
        rest = decode(path, read, final, classes, size or tuple(inputs.shape[2:]))
    return parted(f"data set '{path}'", (inputs, labels), rest, len(classes), validation, seed)


def look(path: str, test: str = "test", sha256: str | None = None) -> None:
    """Look for the images of a path, without decoding any.

    Raises:
        UserError: no such path, no images, or classes that differ.
    """
    with opened(path, sha256, LAYOUT) as (names, _):
        _listed(path, names, test)


def parted(where: str, train: Samples, test: Samples, classes: int, validation: float, seed: int) -> Dataset:
    """A data set of uint8 images: the same fraction of every class becomes validation samples, drawn by `seed`.

    Raises:
        UserError: a part is left without samples.
    """
    inputs, labels = train
    order = torch.randperm(len(test[1]), generator=torch.Generator().manual_seed(seed))  # some first ones: all classes
    fit, steer = _split(labels, validation, seed)
    if not len(steer) or not len(fit):
        raise UserError(
            f"{where}: options.validation = {validation} of {len(labels)} training images leaves "
            f"{len(fit)} for training and {len(steer)} for validation: neither can do without"
        )
    parts = (inputs[fit], labels[fit]), (inputs[steer], labels[steer]), (test[0][order], test[1][order])
    return Dataset(*parts, classes, _statistics(parts[0][0]))


def _listed(path: str, names: Sequence[str], test: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Image files of train and of test, by class."""
    training, final = (_by_class(path, names, part) for part in ("train", test))
    if foreign := sorted(set(final) - set(training)):
        raise UserError(f"data set '{path}': {test}/{foreign[0]} has images, train/{foreign[0]} has none")
    return training, final


def _by_class(path: str, names: Sequence[str], part: str) -> dict[str, list[str]]:
    """Image files of one part, by class, in alphabetical order."""
    found: dict[str, list[str]] = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) > 2 and parts[0] == part and PurePosixPath(name).suffix.lower() in SUFFIXES:
            found.setdefault(parts[1], []).append(name)
    if not found:
        raise UserError(f"data set '{path}' has no images in {part}/CLASS/: {LAYOUT}")
    return found


def decode(
    path: str, read: Read, files: dict[str, list[str]], classes: list[str], size: int | tuple[int, ...] | None
) -> Samples:
    """Images (n, 3, height, width) uint8 and labels (n,), class by class.

    Raises:
        UserError: an image cannot be decoded, or is not of the others' size; or they do not fit in memory.
    """
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
    _fits_memory(path, len(names) * 3 * height * width)
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


def _fits_memory(path: str, size: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * size > memory:  # once as decoded, once as parted
        raise UserError(
            f"data set '{path}': its images are {size / 1e9:.0f} GB, twice that while they are read, and this machine "
            f"has {memory / 1e9:.0f} GB: data are kept in memory, give a smaller options.size"
        )


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
