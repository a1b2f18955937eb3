"""From a sweep file to what there is to run: cells, baselines and their trials. Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from jobs.spec import DENSE, Spec

Kind = Literal["search", "confirmation"]


@dataclass(frozen=True)
class Cell:
    """One target set and control set at one sparsity, on one workload: the unit that has a study of its own.

    A baseline is a cell with a single score and no controls, hence nothing to tune; the dense network is one
    without any score, at sparsity 0.
    """

    model: str
    data: str
    target: tuple[str, ...]
    controls: tuple[str, ...]
    sparsity: float

    @property
    def method(self) -> str:
        """`snip|grasp`: target before, controls behind the bar; `snip+synflow|grasp` for a weighted target."""
        name = "+".join(self.target) or DENSE
        return f"{name}|{','.join(self.controls)}" if self.controls else name

    @property
    def name(self) -> str:
        """`snip|grasp @0.95`."""
        return f"{self.method} @{self.sparsity!r}" if self.target else self.method

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
        training_seed: order of the training samples; 0 while searching, 1, 2, ... for confirmations.
        kind: a search trial is compared by validation accuracy alone; a confirmation sees the test samples.
    """

    cell: Cell
    weights: tuple[float, ...]
    alpha: tuple[float, ...]
    training_seed: int = 0
    kind: Kind = "search"

    @property
    def name(self) -> str:
        """`snip|grasp @0.95 a=0.42`: what a person reads in the MLflow UI."""
        parts = [self.cell.name]
        if self.alpha:
            parts.append("a=" + ",".join(f"{level:.2f}" for level in self.alpha))
        if len(self.weights) > 1:
            parts.append("w=" + ",".join(f"{weight:.2f}" for weight in self.weights))
        if self.kind == "confirmation":
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
    for workload in spec.workloads:
        where = {"model": workload.model, "data": workload.data}
        for baseline in spec.baselines:
            if baseline == DENSE:
                yield Cell(**where, target=(), controls=(), sparsity=0.0)
                continue
            for sparsity in spec.grid.sparsities:
                yield Cell(**where, target=(baseline,), controls=(), sparsity=sparsity)
        for sparsity in spec.grid.sparsities:
            for pair in spec.grid.pairs:
                yield Cell(**where, target=pair.target, controls=pair.controls, sparsity=sparsity)


def scores_needed(spec: Spec) -> list[tuple[str, str, str]]:
    """Distinct (model, data, score): each is computed once per sweep."""
    return list(
        dict.fromkeys(
            (cell.model, cell.data, score) for cell in cells(spec) for score in (*cell.target, *cell.controls)
        )
    )
