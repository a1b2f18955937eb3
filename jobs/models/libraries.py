"""ImageNet's models from torchvision (extra `vision`) and timm (extra `timm`), untrained, by their names there."""

import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from jobs.errors import UserError

BRANCHED = ("googlenet", "inception_v3")  # while training they answer with more than logits


def torchvision(classes: int, *, arch: str) -> nn.Module:
    """A classifier of torchvision, e.g. arch: resnet50, vit_b_16, mobilenet_v3_small; made for 224 x 224 pixels."""
    models = library("torchvision.models", "vision")
    known = [name for name in models.list_models(module=models) if name not in BRANCHED]
    if arch not in known:
        raise UserError(_unknown("torchvision", arch, known))
    model: nn.Module = models.get_model(arch, weights=None, num_classes=classes)
    return model


def timm(shape: tuple[int, int, int], classes: int, *, arch: str) -> nn.Module:
    """A classifier of timm, e.g. arch: resnet50d, vit_tiny_patch16_224; it says itself which images it takes."""
    found = library("timm", "timm")
    if not found.is_model(arch):
        raise UserError(_unknown("timm", arch, found.list_models()))
    model: nn.Module = found.create_model(arch, pretrained=False, num_classes=classes, in_chans=shape[0])
    return model


def library(name: str, extra: str) -> Any:
    """A library that is not always there.

    Raises:
        UserError: it is missing, or does not go with the torch that is installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}): pip install 'cops-sweep[{extra}]'") from None
    except RuntimeError as error:  # torchvision's compiled part is of another torch
        raise UserError(
            f"{name} cannot be imported ({error}): torch and torchvision should come from one source, both with CUDA "
            "or both without"
        ) from None


def _unknown(where: str, arch: str, known: Sequence[str]) -> str:
    close = get_close_matches(arch, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"{where}.list_models() tells all {len(known)}"
    return f"{where} has no classifier '{arch}': {hint}"
