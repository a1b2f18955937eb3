"""Real scores at full size: VGG-16 on CIFAR-10 images."""

import os
import random
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cops import score
from cops.flat import flatten
from cops.levels import normalise
from tests.cops.networks import vgg16

COUNT = 128
SHARED = Path(os.environ.get("COPS_SHARED", Path(__file__).parents[2].parent / "shared"))
IMAGES_FILE = SHARED / "data" / "cifar10-jpeg.zip"
NAMES = ("snip", "grasp", "magnitude", "fisher")


def cifar10(images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Training images of CIFAR-10, `(n, 3, 32, 32)` with each channel standardised, and their classes `(n,)`."""
    with zipfile.ZipFile(IMAGES_FILE) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/") and name.endswith(".jpg"))
        classes = sorted({name.split("/")[1] for name in names})
        drawn = random.Random(seed).sample(names, images)
        pixels = []
        for name in drawn:
            with archive.open(name) as file:
                pixels.append(np.asarray(Image.open(file).convert("RGB")))
    inputs = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    inputs = (inputs - inputs.mean((0, 2, 3), keepdim=True)) / inputs.std((0, 2, 3), keepdim=True)
    return inputs, torch.tensor([classes.index(name.split("/")[1]) for name in drawn])


@cache
def _vector(name: str) -> Tensor:
    torch.manual_seed(0)
    return normalise(flatten(score(name, vgg16(), [cifar10(COUNT)])))


def scores(count: int) -> list[Tensor]:
    """The first `count` of SNIP, GraSP, magnitude and Fisher scores, float32 `(14715584,)` of l1 norm 1."""
    return [_vector(name) for name in NAMES[:count]]
