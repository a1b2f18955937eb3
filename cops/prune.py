"""prune: from scores to a mask, in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cops.levels import normalise, relative_kappa, weighted_target
from cops.lp import Solution, solve
from cops.mask import Mask
from cops.scores import Batches, Scores, score


@dataclass(frozen=True, eq=False)
class Pruning:
    """A mask, the solution of the linear program behind it, and the scores that went in, by score name."""

    mask: Mask
    solution: Solution
    scores: Mapping[str, Scores]


def prune(
    model: nn.Module,
    batches: Batches,
    *,
    target: str | Mapping[str, float],
    controls: Sequence[str] = (),
    sparsity: float,
    alpha: Sequence[float] = (),
    score_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Pruning:
    """Choose the weights of a network to keep: the best for the target while every control reaches its level.

    Args:
        model: left as it was; `Pruning.mask.apply(model)` prunes it.
        batches: (inputs, labels) pairs for the scores.
        target: name of a score, or weights of several, `{name: weight}`, on the simplex.
        controls: names of the `K` control scores.
        sparsity: fraction of the prunable weights to remove, in (0, 1).
        alpha: relative level of each control, `K` numbers in [0, 1]; see `cops.relative_kappa`.
        score_options: options by score name, e.g. `{"random": {"seed": 1}}`.

    Raises:
        ValueError: a name, number or length that is not as above; nothing has been changed.
        ScoreError: see `cops.score`.

    Source: Wimmer et al., arXiv 2107.12673; the relative level alpha is ours.
    """
    check(target, controls, sparsity, alpha)
    options = score_options or {}
    names = dict.fromkeys([*([target] if isinstance(target, str) else target), *controls])
    scores = {name: score(name, model, batches, **options.get(name, {})) for name in names}
    return combine(scores, target=target, controls=controls, sparsity=sparsity, alpha=alpha)


def combine(
    scores: Mapping[str, Scores],
    *,
    target: str | Mapping[str, float],
    controls: Sequence[str] = (),
    sparsity: float,
    alpha: Sequence[float] = (),
) -> Pruning:
    """`prune` for scores that are already there: by score name, then by parameter name.

    Raises:
        ValueError: as `prune`; also where a score is missing.
    """
    check(target, controls, sparsity, alpha)
    weights = {target: 1.0} if isinstance(target, str) else dict(target)
    for name in (*weights, *controls):
        if name not in scores:
            raise ValueError(f"no scores for '{name}': there are {', '.join(scores)}")
    shapes = {name: values.shape for name, values in scores[next(iter(weights))].items()}
    for name in (*weights, *controls):
        if {key: values.shape for key, values in scores[name].items()} != shapes:
            raise ValueError(
                f"scores '{name}' and '{next(iter(weights))}' have different names or shapes of parameters"
            )
    vectors = {name: normalise(flatten(scores[name])) for name in (*weights, *controls)}
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in vectors.values()) else torch.float32
    vectors = {name: vector.to(dtype) for name, vector in vectors.items()}

    goal = weighted_target({name: vectors[name] for name in weights}, weights)
    guards = [vectors[name] for name in controls]
    keep = round((1 - sparsity) * len(goal))
    solution = solve(goal, guards, keep, relative_kappa(alpha, goal, guards, keep))
    settings = {
        "target": target if isinstance(target, str) else weights,
        "controls": list(controls),
        "sparsity": sparsity,
        "alpha": list(alpha),
    }
    return Pruning(Mask(unflatten(solution.mask, shapes), settings), solution, scores)


def check(target: str | Mapping[str, float], controls: Sequence[str], sparsity: float, alpha: Sequence[float]) -> None:
    """Refuse what `prune` cannot mean, before any work starts."""
    if not 0 < sparsity < 1:
        raise ValueError(f"`0 < sparsity < 1` must hold (the fraction removed), but got sparsity={sparsity}")
    if isinstance(controls, str):
        raise ValueError(f"controls must be a sequence of names, but got '{controls}': write ['{controls}']")
    if len(alpha) != len(controls):
        raise ValueError(f"one alpha per control: got {len(alpha)} alpha for {len(controls)} controls")
    for level in alpha:
        if not 0 <= level <= 1:
            raise ValueError(f"`0 <= alpha <= 1` must hold, but got alpha={level}")
    if not target:
        raise ValueError("target must name at least one score, but is empty")


def flatten(scores: Mapping[str, Tensor]) -> Tensor:
    """All scores as one vector `(d,)`, parameter after parameter, row-major."""
    return torch.cat([values.flatten() for values in scores.values()])


def unflatten(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The inverse of `flatten`, for any vector `(d,)`."""
    parts = vector.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
