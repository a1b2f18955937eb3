"""From a sweep file to what there is to run: cells, baselines and their trials. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal, Self

from jobs.spec import DENSE, UNSTRUCTURED, Spec

ONE_SHOT = ("random", "magnitude")  # scores that pruning does not change: rounds would find the same mask
Kind = Literal["search", "confirmation", "ablation"]
Ablation = Literal["none", "shuffle", "reinit"]


@dataclass(frozen=True)
class Cell:
    """One target set and control set at one sparsity, on one workload: the unit that has a study of its own.

    A baseline is a cell with a single score and no controls, hence nothing to tune; the dense network is one
    without any score, at sparsity 0.

    Args:
        seed: of the initialisation and the scored images, added to the sweep's.
        rounds: in how many the mask is found; see `cops.prune`, as for `layout`.
    """

    model: str
    data: str
    target: tuple[str, ...]
    controls: tuple[str, ...]
    sparsity: float
    seed: int = 0
    rounds: int = 1
    layout: str = UNSTRUCTURED

    @property
    def method(self) -> str:
        """`snip|grasp`: target before, controls behind the bar; `snip+synflow|grasp x100 2:4` for a weighted target,
        100 rounds and a layout.
        """
        name = "+".join(self.target) or DENSE
        parts = [f"{name}|{','.join(self.controls)}" if self.controls else name]
        if self.rounds > 1:
            parts.append(f"x{self.rounds}")
        if self.layout != UNSTRUCTURED:
            parts.append(self.layout)
        return " ".join(parts)

    @property
    def name(self) -> str:
        """`snip|grasp @0.95`; `snip|grasp @0.95 seed=1` for another initialisation than the sweep's first."""
        name = f"{self.method} @{self.sparsity!r}" if self.target else self.method
        return f"{name} seed={self.seed}" if self.seed else name

    @property
    def tunable(self) -> bool:
        """Whether there is an alpha or a weight to tune."""
        return bool(self.controls) or len(self.target) > 1


@dataclass(frozen=True)
class Trial:
    """One mask, trained once.

    Args:
        cell: where it belongs.
        weights: of the target scores, on the simplex.
        alpha: relative level of each control, in [0, 1].
        training_seed: order of the training samples; 0 while searching, 1, 2, ... afterwards.
        kind: a search trial is compared by validation accuracy alone; the others see the test samples.
        ablation: what is done to the mask ("shuffle" within each layer) or to the weights ("reinit") before training.
    """

    cell: Cell
    weights: tuple[float, ...]
    alpha: tuple[float, ...]
    training_seed: int = 0
    kind: Kind = "search"
    ablation: Ablation = "none"

    @property
    def name(self) -> str:
        """`snip|grasp @0.95 a=0.42`: what a person reads in the MLflow UI."""
        parts = [self.cell.name]
        if self.alpha:
            parts.append("a=" + ",".join(f"{level:.2f}" for level in self.alpha))
        if len(self.weights) > 1:
            parts.append("w=" + ",".join(f"{weight:.2f}" for weight in self.weights))
        if self.ablation != "none":
            parts.append(self.ablation)
        if self.kind != "search":
            parts.append(f"#{self.training_seed}")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for Ray."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**values, "cell": Cell(**values["cell"])})


def cells(spec: Spec) -> list[Cell]:
    """Baselines first, since every result is read beside them; then each pair at each sparsity."""
    return list(_cells(spec))


def _cells(spec: Spec) -> Iterator[Cell]:
    grid = spec.grid
    for workload, seed in product(spec.workloads, grid.seeds):
        cell = Cell(str(workload.model), str(workload.data), target=(), controls=(), sparsity=0.0, seed=seed)
        for baseline in spec.baselines:
            if baseline == DENSE:
                yield cell
                continue
            rounds = (1,) if baseline in ONE_SHOT else grid.rounds
            for sparsity, count, layout in product(grid.sparsities, rounds, grid.layouts):
                yield replace(cell, target=(baseline,), sparsity=sparsity, rounds=count, layout=layout)
        for sparsity, count, layout, pair in product(grid.sparsities, grid.rounds, grid.layouts, grid.pairs):
            paired = replace(cell, target=pair.target, controls=pair.controls)
            yield replace(paired, sparsity=sparsity, rounds=count, layout=layout)


def confirmations(spec: Spec, winner: Trial) -> list[Trial]:
    """The winner of a cell again, with fresh training seeds."""
    return [replace(winner, kind="confirmation", training_seed=seed) for seed in range(1, spec.confirmations + 1)]


def ablations(spec: Spec, winner: Trial) -> list[Trial]:
    """What tells whether the places of the kept weights, or their initial values, made the winner of a cell good.

    The dense network has no mask to ask that of.
    """
    seeds = range(1, max(1, spec.confirmations) + 1) if winner.cell.target else ()
    return [
        replace(winner, kind="ablation", ablation=ablation, training_seed=seed)
        for ablation, seed in product(spec.ablations, seeds)
    ]


@dataclass(frozen=True)
class ScoreTask:
    """One score vector: of the network that `seed`, added to the sweep's, initialises."""

    model: str
    data: str
    seed: int
    score: str


def score_tasks(cell: Cell) -> list[ScoreTask]:
    """The score vectors that a cell's trials share; in rounds none, since each trial scores what it has pruned."""
    names = (*cell.target, *cell.controls) if cell.rounds == 1 else ()
    return [ScoreTask(cell.model, cell.data, cell.seed, name) for name in names]


def scores_needed(spec: Spec) -> list[ScoreTask]:
    """The distinct score vectors of a sweep: each is computed once."""
    return list(dict.fromkeys(task for cell in cells(spec) for task in score_tasks(cell)))
