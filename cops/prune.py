"""prune: from scores to a mask, in one call."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cops.flat import flatten, unflatten
from cops.layout import Layout
from cops.levels import normalise, weighted_target
from cops.lp import Solution
from cops.mask import Mask
from cops.network import prunable
from cops.restrict import solve_within
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
    rounds: int = 1,
    layout: str = "unstructured",
    exclude: Sequence[str] = (),
    min_density: float = 0.0,
    score_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Pruning:
    """Choose the weights of a network to keep: the best for the target while every control reaches its level.

    SynFlow as published is `target="synflow", rounds=100`. Filter pruning by entropy (Luo and Wu, arXiv 1706.05791) is
    `target="entropy_filter", layout="filter"` with images as batches; by filter norm (Li et al., ICLR 2017)
    `target="l1_filter", layout="filter"`. Both publications leave the classifier dense: name it in `exclude`, since its
    rows compete with the filters otherwise.

    Args:
        model: left as it was; `Pruning.mask.apply(model)` prunes it.
        batches: (inputs, labels) pairs for the scores.
        target: name of a score, or weights of several, `{name: weight}`, on the simplex.
        controls: names of the `K` control scores.
        sparsity: fraction of all prunable weights to remove, in (0, 1); `sigma = round((1 - sparsity) * d)` is the most
            that is kept. Whole filters may leave less than a few filters' weights of it unused.
        alpha: relative level of each control, `K` numbers in [0, 1]; see `cops.relative_kappa`.
        rounds: prune in `n` rounds, to the density `(1 - sparsity) ** (r / n)` in round `r`, with the scores of the
            network pruned so far. A removed weight stays removed.
        layout: "unstructured", "filter" (whole output filters) or n:m such as "2:4" (at most n of every m consecutive
            inputs, the n best for the target); see `cops.layout`.
        exclude: patterns as in `fnmatch` for names of parameters or layers to leave dense. They count among the `d`
            prunable weights: the others are pruned the more.
        min_density: fraction, in [0, 1], of every layer that is kept whatever its scores, rounded up: those best for
            the target. Any positive value prevents that a layer is emptied.
        score_options: options by score name, e.g. `{"random": {"seed": 1}}`.

    Returns:
        The mask, the solution and the scores of the last round.

    Raises:
        ValueError: a name, number or length that is not as above, or settings that no mask fulfils together; nothing
            has been changed.
        ScoreError: see `cops.score`.

    Source: Wimmer et al., arXiv 2107.12673; the relative level alpha is ours.
    """
    check(target, controls, sparsity, alpha)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, but got {rounds!r}")
    shapes = {name: weight.shape for name, weight in prunable(model).items()}
    form = Layout(layout, shapes, model, exclude, min_density)
    keep, size = form.keep(sparsity), sum(shape.numel() for shape in shapes.values())
    options = score_options or {}
    names = dict.fromkeys([*([target] if isinstance(target, str) else target), *controls])
    network, alive = model, None
    for step in range(1, rounds + 1):
        scores = {name: score(name, network, batches, **options.get(name, {})) for name in names}
        now = keep if step == rounds else round((1 - sparsity) ** (step / rounds) * size)
        solution = _choose(scores, form, target=target, controls=controls, keep=now, alpha=alpha, alive=alive)
        if step < rounds:
            alive = solution.mask
            network = Mask(unflatten(alive, shapes)).apply(deepcopy(model))
    settings = {"target": target, "controls": controls, "sparsity": sparsity, "alpha": alpha}
    settings |= {"layout": layout, "exclude": exclude, "min_density": min_density, "rounds": rounds}
    return Pruning(Mask(unflatten(solution.mask, shapes), _plain(settings)), solution, scores)


def combine(
    scores: Mapping[str, Scores],
    *,
    target: str | Mapping[str, float],
    controls: Sequence[str] = (),
    sparsity: float,
    alpha: Sequence[float] = (),
    layout: str = "unstructured",
    exclude: Sequence[str] = (),
    min_density: float = 0.0,
    model: nn.Module | None = None,
) -> Pruning:
    """`prune` in one round, for scores that are already there: by score name, then by parameter name.

    `model` is the network that was scored. Only a layout of filters needs it; without it, the order of parameters, in
    which ties break, is that of the first of the scores.

    Raises:
        ValueError: as `prune`; also where a score is missing, or is of another network.
    """
    check(target, controls, sparsity, alpha)
    for name in (*([target] if isinstance(target, str) else target), *controls):
        if name not in scores:
            raise ValueError(f"no scores for '{name}': there are {', '.join(scores)}")
    first = next(iter(scores))
    shapes = {name: values.shape for name, values in scores[first].items()}
    if model is not None:
        own = {name: weight.shape for name, weight in prunable(model).items()}
        if not shapes.items() <= own.items():
            raise ValueError(f"scores '{first}' are of another network than the model")
        shapes = {name: own[name] for name in own if name in shapes}  # files of tensors do not keep the order
    form = Layout(layout, shapes, model, exclude, min_density)
    keep = form.keep(sparsity)
    solution = _choose(scores, form, target=target, controls=controls, keep=keep, alpha=alpha, alive=None)
    settings = {"target": target, "controls": controls, "sparsity": sparsity, "alpha": alpha}
    settings |= {"layout": layout, "exclude": exclude, "min_density": min_density}
    return Pruning(Mask(unflatten(solution.mask, shapes), _plain(settings)), solution, scores)


def _choose(
    scores: Mapping[str, Scores],
    form: Layout,
    *,
    target: str | Mapping[str, float],
    controls: Sequence[str],
    keep: int,
    alpha: Sequence[float],
    alive: Tensor | None,
) -> Solution:
    """Normalise the scores over the weights still `alive` (d,), combine them and solve."""
    weights = {target: 1.0} if isinstance(target, str) else target
    vectors: dict[str, Tensor] = {}
    for name in (*weights, *controls):
        if {key: values.shape for key, values in scores[name].items()} != form.shapes:
            raise ValueError(f"scores '{name}' are of another network than scores '{next(iter(scores))}'")
        vector = flatten({key: scores[name][key] for key in form.shapes})
        vectors[name] = vector if alive is None else vector.masked_fill(~alive, 0)
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in vectors.values()) else torch.float32
    vectors = {name: vector.to(dtype) for name, vector in vectors.items()}
    goal = weighted_target({name: vectors[name] for name in weights}, weights)
    guards = [normalise(vectors[name]) for name in controls]
    alive = torch.ones_like(goal, dtype=torch.bool) if alive is None else alive
    return solve_within(form, goal, guards, keep=keep, alpha=alpha, alive=alive)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values, without the options that have their default."""
    defaults: dict[str, Any] = {"layout": "unstructured", "exclude": [], "min_density": 0.0, "rounds": 1}
    plain = {
        name: value if isinstance(value, str | int | float) else dict(value) if name == "target" else list(value)
        for name, value in settings.items()
    }
    return {name: value for name, value in plain.items() if name not in defaults or value != defaults[name]}


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
