"""Random: the baseline that every other score has to beat."""

import torch
from torch import nn

from cops.network import prunable
from cops.scores.base import Batches, Scores, scorer

APART = 0x636F7073  # a network that was initialised with the same seed has drawn its weights from the same numbers


@scorer
def random(model: nn.Module, batches: Batches, *, seed: int = 0) -> Scores:
    """`s ~ N(0, 1)` independently, by parameter name and shaped like it.

    Drawn on the CPU, so that a seed gives the same scores on every device. `batches` are not used.
    """
    draws = torch.Generator().manual_seed(APART ^ seed)
    return {
        name: torch.randn(weight.shape, generator=draws, dtype=weight.dtype).to(weight.device)
        for name, weight in prunable(model).items()
    }
