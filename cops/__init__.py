"""COPS: combined pruning scores (arXiv 2107.12673).

Keep the weights of a network that are best for a target score while control scores stay above a level: an exact
linear program over all weights, and the scores, masks and files around it.
"""

from cops.health import Health
from cops.levels import relative_kappa
from cops.lp import InfeasibleError, Solution, solve
from cops.mask import Mask
from cops.maskfile import MaskFileError
from cops.path import path
from cops.prune import Pruning, combine, prune
from cops.scores import SCORES, ScoreError, score
from cops.sensitivity import sensitivity

__all__ = [
    "SCORES",
    "Health",
    "InfeasibleError",
    "Mask",
    "MaskFileError",
    "Pruning",
    "ScoreError",
    "Solution",
    "combine",
    "path",
    "prune",
    "relative_kappa",
    "score",
    "sensitivity",
    "solve",
]
