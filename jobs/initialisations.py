"""What several initialisations of one network say together: means, and differences paired by initialisation. Pure.

Chosen by validation accuracy, told in test accuracy. Runs of one initialisation share its mask, so the error of a mean
is that of its initialisations, not of all runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rich import box
from rich.table import Table

from jobs.report import Standing
from jobs.spec import UNSTRUCTURED

COPS, SINGLE = "best COPS mask", "best single score"


@dataclass(frozen=True)
class Mean:
    """A mean over `count` initialisations and its standard error, as fractions; no error for a single one."""

    count: int
    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """The mean of at least one value."""
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(len(values), mean(values), error)


Seeds = Mapping[int, Standing]  # one initialisation's standing each


def methods(found: Iterable[Standing]) -> dict[str, dict[float, Seeds]]:
    """Confirmed standings by method, sparsity and initialisation, of one network and layout.

    COPS is the best combination of each initialisation by validation accuracy; so is the best single score, which is
    what someone could choose who had no combinations. The dense network stands at every sparsity.
    """
    confirmed = [one for one in found if one.test is not None]
    dense = [one for one in confirmed if not one.cell.target]
    pruned = [one for one in confirmed if one.cell.target]
    groups: dict[str, list[Standing]] = {COPS: [one for one in pruned if one.cell.tunable]}
    groups[SINGLE] = [one for one in pruned if not one.cell.tunable and one.cell.target != ("random",)]
    for one in sorted(pruned, key=lambda one: one.cell.tunable):
        groups.setdefault(one.cell.method, []).append(one)
    by_method: dict[str, dict[float, Seeds]] = {}
    for name, standings in groups.items():
        best: dict[float, dict[int, Standing]] = {}
        for one in sorted(standings, key=lambda one: one.validation):
            best.setdefault(one.cell.sparsity, {})[one.cell.seed] = one
        if best:
            by_method[name] = dict(sorted(best.items()))
    if dense and by_method:
        seeds = {one.cell.seed: one for one in dense}
        by_method["dense"] = dict.fromkeys(sorted({one.cell.sparsity for one in pruned}), seeds)
    return by_method


def accuracy(seeds: Seeds) -> Mean:
    """Test accuracy of a method at a sparsity."""
    return Mean.of([one.test for one in seeds.values() if one.test is not None])


def difference(seeds: Seeds, others: Seeds) -> Mean | None:
    """By how much one method's test accuracy exceeds another's, paired by initialisation; None if they share none."""
    pairs = [(seeds[seed].test, others[seed].test) for seed in seeds if seed in others]
    values = [one - other for one, other in pairs if one is not None and other is not None]
    return Mean.of(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """A table of means: a row per method, a column per sparsity.

    Args:
        signed: whether they are differences.
    """

    title: str
    rows: Mapping[str, Mapping[float, Mean | None]]
    signed: bool = False

    @property
    def sparsities(self) -> list[float]:
        """Those of the columns."""
        return sorted({at for row in self.rows.values() for at in row})

    @property
    def count(self) -> int:
        """Initialisations behind most figures; those behind fewer say so."""
        return max(found.count for row in self.rows.values() for found in row.values() if found is not None)

    def text(self, name: str, at: float) -> str:
        """What a person reads, in %: `96.1 ±0.3`, or `+1.2 ±0.4`; `(of 2)` where some initialisations are missing."""
        found = self.rows[name].get(at)
        if found is None:
            return "-"
        error = f" ±{100 * found.error:.1f}" if found.error is not None else ""
        fewer = f" (of {found.count})" if found.count < self.count else ""
        return (f"{100 * found.value:+.1f}" if self.signed else f"{100 * found.value:.1f}") + error + fewer

    def clear(self, name: str, at: float) -> bool:
        """Whether a difference is beyond twice its standard error: no test, since many are looked at."""
        found = self.rows[name].get(at)
        return self.signed and found is not None and found.error is not None and abs(found.value) > 2 * found.error


def comparisons(found: Sequence[Standing]) -> list[Comparison]:
    """Two per network and layout with several initialisations: means, and what COPS adds to each single score."""
    compared = []
    for model, data, layout in dict.fromkeys((one.cell.model, one.cell.data, one.cell.layout) for one in found):
        here = methods(
            one
            for one in found
            if (one.cell.model, one.cell.data) == (model, data) and (one.cell.layout == layout or not one.cell.target)
        )
        count = max((len(seeds) for row in here.values() for seeds in row.values()), default=0)
        if count < 2:
            continue
        title = f"{model} on {data}" + (f", {layout}" if layout != UNSTRUCTURED else "")
        means = {name: {at: accuracy(seeds) for at, seeds in row.items()} for name, row in here.items()}
        said = f"{title}: test accuracy in %, mean ± standard error of {count} initialisations"
        compared.append(Comparison(said, means))
        if COPS in here:
            ours = here[COPS]
            against = {
                name: {at: difference(ours[at], seeds) for at, seeds in row.items() if at in ours}
                for name, row in here.items()
                if not any(one.cell.tunable for seeds in row.values() for one in seeds.values())
            }
            said = f"{title}: test accuracy of the best COPS mask minus that of ..., paired by initialisation"
            compared.append(Comparison(said, against, signed=True))
    return compared


def tables(found: Sequence[Standing]) -> list[Table]:
    """The comparisons, for a terminal; clear differences in bold."""
    drawn = []
    for one in comparisons(found):
        table = Table(title=one.title, title_justify="left", box=box.SIMPLE)
        table.add_column("sparsity")
        for at in one.sparsities:
            table.add_column(f"{at:g}", justify="right")
        for name in one.rows:
            texts = [(one.text(name, at), one.clear(name, at)) for at in one.sparsities]
            table.add_row(name, *(f"[bold]{text}[/]" if clear else text for text, clear in texts))
        drawn.append(table)
    return drawn
