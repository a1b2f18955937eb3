"""Refusal of malformed input, by name and with a remedy."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALL = 2**13  # scores longer than this are found finite, or not, by the pass that reads them


def check(target: Tensor, controls: Sequence[Tensor], keep: int, kappa: Sequence[float]) -> None:
    """Raise a ValueError that names the first malformed argument, its value and a remedy."""
    for name, score in _named(target, controls):
        if score.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} has dtype {score.dtype}: convert it to torch.float32 or torch.float64")
        if score.ndim != 1 or score.shape != target.shape:
            raise ValueError(
                f"{name} has shape {tuple(score.shape)}, target has {tuple(target.shape)}: "
                "flatten all scores to one dimension of equal length"
            )
        if score.dtype != target.dtype or score.device != target.device:
            raise ValueError(
                f"{name} is {score.dtype} on {score.device}, target is {target.dtype} on {target.device}: "
                "convert all scores to one dtype and device"
            )
    if not len(target):
        raise ValueError("target is empty: there is nothing to prune")
    if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= len(target):
        raise ValueError(f"keep is {keep!r}: give a whole number from 0 to the {len(target)} entries of target")
    if len(kappa) != len(controls):
        raise ValueError(f"kappa has {len(kappa)} levels for {len(controls)} controls: give one level per control")
    for k, level in enumerate(kappa):
        if not math.isfinite(level):
            raise ValueError(f"kappa[{k}] is {level}: give a finite level")
    if len(target) <= SMALL:
        check_finite(target, controls)


def check_finite(target: Tensor, controls: Sequence[Tensor]) -> None:
    """Raise a ValueError that names the first score with a NaN or infinite entry."""
    for name, score in _named(target, controls):
        bad = int((~torch.isfinite(score)).sum())
        if bad:
            raise ValueError(
                f"{name} has {bad} NaN or infinite entries: compute it in float64, or replace them (torch.nan_to_num)"
            )


def _named(target: Tensor, controls: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [("target", target), *((f"controls[{k}]", control) for k, control in enumerate(controls))]
