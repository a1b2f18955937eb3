"""What a sweep found: its cells' standings and the table of the best masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev

from rich import box
from rich.table import Table

from jobs.known import Outcome
from jobs.plan import Cell, Trial
from jobs.search import CellSearch, Search
from jobs.studies import MAXIMISED

BEST, COLLAPSED = "▸", "†"
ABLATED = {"shuffle": "mask shuffled", "reinit": "weights drawn anew"}


@dataclass(frozen=True)
class Standing:
    """A cell's winner, judged by its confirmation runs; by its search run alone where there are none.

    Args:
        trial: the winner, as searched.
        runs: how many runs the figures are the mean of.
        confirmed: whether those are confirmations; a search run's accuracy is biased upward by having won.
        validation: mean accuracy, in [0, 1].
        error: standard error of `validation`; None for a single run.
        test: mean test accuracy; None without confirmations.
        collapsed: whether the mask empties a layer.
        ablations: mean validation accuracy by ablation, where there are any.
    """

    cell: Cell
    trial: Trial
    runs: int
    confirmed: bool
    validation: float
    error: float | None
    test: float | None
    collapsed: bool
    ablations: Mapping[str, float]


def standing(search: CellSearch) -> Standing | None:
    """Where a cell stands; None while it has no result."""
    winner = search.winner
    if winner is None:
        return None
    ended = [(trial, outcome) for trial, outcome in search.outcomes.items() if outcome is not None]
    confirmations = [outcome for trial, outcome in ended if trial.kind == "confirmation"]
    judged = confirmations or [outcome for trial, outcome in ended if trial == winner]
    validation = [outcome["validation_accuracy"] for outcome in judged]
    test = [outcome["test_accuracy"] for outcome in confirmations]
    return Standing(
        cell=search.cell,
        trial=winner,
        runs=len(judged),
        confirmed=bool(confirmations),
        validation=mean(validation),
        error=stdev(validation) / len(validation) ** 0.5 if len(validation) > 1 else None,
        test=mean(test) if test else None,
        collapsed=any(outcome.get("emptied_layers", 0) > 0 for outcome in judged),
        ablations={
            name: mean(outcome["validation_accuracy"] for trial, outcome in ended if trial.ablation == name)
            for name in dict.fromkeys(trial.ablation for trial, _ in ended if trial.kind == "ablation")
        },
    )


def standings(search: Search) -> list[Standing]:
    """Standings of all cells that have one."""
    return [found for cell in search.cells.values() if (found := standing(cell)) is not None]


def best_masks(found: Sequence[Standing]) -> dict[float, Standing]:
    """The best COPS mask of each sparsity, by validation accuracy, confirmed ones first; test accuracy has no say."""
    cops = sorted(
        (one for one in found if one.cell.tunable),
        key=lambda one: (one.cell.sparsity, not one.confirmed, -one.validation),
    )
    return {sparsity: next(group) for sparsity, group in groupby(cops, key=lambda one: one.cell.sparsity)}


def tables(found: Sequence[Standing]) -> list[Table]:
    """One table per network and initialisation: a column per sparsity, the best COPS mask above, baselines below."""
    titles = dict.fromkeys(_title(one.cell) for one in found)
    return [_table(name, [one for one in found if _title(one.cell) == name]) for name in titles]


def front(searched: Mapping[Trial, Outcome], objective: Sequence[str]) -> list[Trial]:
    """Trials that no other is at least as good as in every objective, best in the first one first; of equals, one."""

    def costs(trial: Trial) -> list[float]:
        return [-searched[trial][name] if name in MAXIMISED else searched[trial][name] for name in objective]

    found: list[Trial] = []
    for trial in sorted(searched, key=costs):  # what comes later is never better than what came before
        mine = costs(trial)
        if not any(all(a <= b for a, b in zip(costs(other), mine, strict=True)) for other in found):
            found.append(trial)
    return found


def fronts(search: Search) -> list[Table]:
    """One table per network and initialisation of its Pareto front, where several objectives are searched."""
    objective = search.spec.search.objective
    if len(objective) == 1:
        return []
    searched: dict[str, dict[Trial, Outcome]] = {}
    for trial, outcome in search.outcomes.items():
        if outcome is not None and trial.kind == "search" and all(name in outcome for name in objective):
            searched.setdefault(_title(trial.cell), {})[trial] = outcome
    tables = []
    for title, outcomes in searched.items():
        table = Table(title=f"{title}: Pareto front of the search runs, in %", title_justify="left", box=box.SIMPLE)
        for name in ("method", "sparsity", "alpha", *objective):
            table.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
        for trial in front(outcomes, objective):
            values = (f"{100 * outcomes[trial][name]:.1f}" for name in objective)
            table.add_row(trial.cell.method, f"{trial.cell.sparsity!r}", _numbers(trial.alpha), *values)
        tables.append(table)
    return tables


def legend(found: Sequence[Standing]) -> str:
    """What the tables' figures are, and how far they can be trusted."""
    first = f"Validation accuracy in %, test accuracy in brackets; {BEST} the best of a column by validation."
    return "\n".join([first, *trust(found)])


def trust(found: Sequence[Standing]) -> list[str]:
    """Lines on how far the figures can be trusted."""
    runs = max((one.runs for one in found if one.confirmed), default=0)
    lines = []
    if runs:
        lines += [
            f"{'Means ± standard error of' if runs > 1 else 'Of'} {runs} run{'s' if runs > 1 else ''} with fresh "
            "training seeds, on one initialisation.",
            "The best COPS mask is still the best of several cells by these very figures, which flatters it:",
            "to compare it with a single score, look at test accuracy, which picked nothing.",
        ]
    if not all(one.confirmed for one in found):
        lines.append("* one search run, not confirmed: a winner's accuracy is biased upward.")
    if any(one.collapsed for one in found):
        lines.append(
            f"{COLLAPSED} the mask empties a layer. Scores are taken once; SynFlow as published prunes in 100 rounds."
        )
    return lines


def failures(search: Search) -> list[str]:
    """A line for each reason why trials failed, with the first of them and how many there are."""
    by_reason: dict[str, list[Trial]] = {}
    for trial, reason in search.failures.items():
        by_reason.setdefault(reason, []).append(trial)
    return [
        f"failed: {trials[0].name}{f' and {len(trials) - 1} more' if len(trials) > 1 else ''}: {reason}"
        for reason, trials in by_reason.items()
    ]


def _title(cell: Cell) -> str:
    name = f"{cell.model} on {cell.data}"
    return f"{name}, seed {cell.seed}" if cell.seed else name


def _table(title: str, found: Sequence[Standing]) -> Table:
    best = best_masks(found)
    baselines = {(one.cell.method, one.cell.sparsity): one for one in found if not one.cell.tunable}
    sparsities = sorted({one.cell.sparsity for one in found if one.cell.target})
    table = Table(title=title, title_justify="left", box=box.SIMPLE)  # three columns fit 80 characters
    table.add_column("sparsity")
    for sparsity in sparsities:
        table.add_column(f"{sparsity!r}", justify="right", overflow="fold")

    columns = [best.get(sparsity) for sparsity in sparsities]
    ranked = sorted(found, key=lambda one: (one.confirmed, one.validation))
    first = {one.cell.sparsity: one for one in ranked}
    table.add_row("best COPS mask", *(_accuracy(one, first) for one in columns))
    table.add_row("target|control", *(one.cell.method if one else "" for one in columns))
    table.add_row("alpha", *(_numbers(one.trial.alpha) if one else "" for one in columns))
    if any(one and len(one.trial.weights) > 1 for one in columns):
        table.add_row("target weights", *(_weights(one) for one in columns))
    for ablation in dict.fromkeys(name for one in columns if one for name in one.ablations):
        values = (one.ablations.get(ablation) if one else None for one in columns)
        table.add_row(
            f"its {ABLATED[ablation]}", *(f"{100 * value:.1f}" if value is not None else "" for value in values)
        )
    table.add_section()
    for method in dict.fromkeys(one.cell.method for one in found if not one.cell.tunable and one.cell.target):
        table.add_row(method, *(_accuracy(baselines.get((method, sparsity)), first) for sparsity in sparsities))
    dense = next((one for one in found if not one.cell.target), None)
    if dense is not None:
        table.add_row("dense", *[_accuracy(dense, {})] * len(sparsities))
    return table


def _accuracy(one: Standing | None, first: Mapping[float, Standing]) -> str:
    if one is None:
        return "-"
    text = f"{100 * one.validation:.1f}"
    text += f" ±{100 * one.error:.1f}" if one.error is not None else ""
    text += f" ({100 * one.test:.1f})" if one.test is not None else "*"
    text += COLLAPSED if one.collapsed else ""
    return f"[bold]{BEST}{text}[/]" if first.get(one.cell.sparsity) is one else text


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _weights(one: Standing | None) -> str:
    return _numbers(one.trial.weights) if one is not None and len(one.trial.weights) > 1 else ""
