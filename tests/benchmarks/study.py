"""Does it help? What the studies found, over initialisations: tables in Markdown, figures as PNG files.

    python -m jobs jobs/sweeps/study-convnet.yaml       # and the others; each goes on where it ended
    python -m tests.benchmarks.study FILE ... [--to FOLDER] [--json]

Reads what the sweeps left in MLflow. Masks are chosen by validation accuracy; test accuracy is that of confirmation
runs, which chose nothing. Errors are standard errors over initialisations, not over runs.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from platformdirs import user_data_path

from jobs.initialisations import COPS, Comparison, Mean, comparisons, methods
from jobs.known import Outcome
from jobs.local import mlflow_server
from jobs.plan import Trial
from jobs.proxies import PROXIES, rank_correlation
from jobs.report import standings
from jobs.search import Search
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.tracking.runs import Runs
from tests.benchmarks import drawn
from tests.benchmarks.show import markdown

Levels = dict[str, dict[float, dict[float, Mean]]]  # by method, sparsity and alpha


@dataclass(frozen=True)
class Study:
    """A sweep of one network with several initialisations, as far as it has come."""

    search: Search

    @property
    def title(self) -> str:
        """Network and data."""
        (workload,) = self.search.spec.workloads
        return f"{workload.model.name} on {workload.data.options.get('path', workload.data.name)}"

    @property
    def ended(self) -> dict[Trial, Outcome]:
        """Trials that came to their end."""
        return {trial: outcome for trial, outcome in self.search.outcomes.items() if outcome is not None}

    def tables(self) -> list[Comparison]:
        """Mean test accuracies, and what COPS adds, paired by initialisation."""
        return comparisons(standings(self.search))

    def chosen(self) -> dict[float, Counter[str]]:
        """By sparsity, how often the best COPS mask of an initialisation is a single score's own, or a combination."""
        found = methods(standings(self.search)).get(COPS, {})
        return {at: Counter(kind(one.trial) for one in seeds.values()) for at, seeds in found.items()}

    def levels(self, *, against: float | None = None) -> Levels:
        """Validation accuracy of search trials at each alpha, mean over initialisations; no choice is in it.

        Args:
            against: alpha whose accuracy, in the same initialisation, is taken off.
        """
        found: dict[str, dict[float, dict[float, dict[int, float]]]] = {}
        for trial, outcome in self.ended.items():
            if trial.kind == "search" and trial.alpha:
                cell = trial.cell
                row = found.setdefault(cell.method, {}).setdefault(cell.sparsity, {})
                row.setdefault(trial.alpha[0], {})[cell.seed] = outcome["validation_accuracy"]
        return {
            method: {at: _means(row, against) for at, row in sorted(rows.items())} for method, rows in found.items()
        }

    def proxies(self, *, living: bool) -> dict[float, dict[str, Mean | None]]:
        """By sparsity, each proxy's rank correlation with validation accuracy within an initialisation, mean over them.

        Args:
            living: leave out masks that empty a layer.
        """
        masks: dict[float, dict[int, list[Outcome]]] = {}
        for trial, outcome in self.ended.items():
            if trial.kind == "search" and trial.cell.target and not (living and outcome["emptied_layers"]):
                masks.setdefault(trial.cell.sparsity, {}).setdefault(trial.cell.seed, []).append(outcome)

        def correlation(proxy: str, found: Sequence[Outcome]) -> float | None:
            pairs = [(one[proxy], one["validation_accuracy"]) for one in found if proxy in one]
            return rank_correlation([a for a, _ in pairs], [b for _, b in pairs])

        rows: dict[float, dict[str, Mean | None]] = {}
        for at, seeds in sorted(masks.items()):
            for proxy in PROXIES:
                values = [value for found in seeds.values() if (value := correlation(proxy, found)) is not None]
                rows.setdefault(at, {})[proxy] = Mean.of(values) if values else None
        return rows


def kind(trial: Trial) -> str:
    """What a COPS mask is in effect."""
    ends = {0.0: "the target's own", 1.0: "the control's own"}
    return ends.get(trial.alpha[0], "a combination") if len(trial.alpha) == 1 else "a combination"


def _means(row: Mapping[float, Mapping[int, float]], against: float | None) -> dict[float, Mean]:
    base = row.get(against, {}) if against is not None else {}
    found = {
        alpha: [value - base.get(seed, 0.0) for seed, value in seeds.items() if against is None or seed in base]
        for alpha, seeds in sorted(row.items())
    }
    return {alpha: Mean.of(values) for alpha, values in found.items() if values}


def _text(value: Mean | None, scale: float = 100.0, digits: int = 1, sign: str = "+") -> str:
    if value is None:
        return "-"
    error = f" ±{scale * value.error:.{digits}f}" if value.error is not None else ""
    return f"{scale * value.value:{sign}.{digits}f}{error}"


def told(study: Study) -> Iterator[str]:
    """A study's tables."""
    spec, kinds = study.search.spec, Counter(trial.kind for trial in study.ended)
    hours = sum(outcome["seconds_training"] for outcome in study.ended.values()) / 3600
    yield f"## {study.title}\n"
    yield (
        f"{len(spec.grid.seeds)} initialisations; of {study.search.planned} trials have ended {kinds['search']} of the "
        f"search and {kinds['confirmation']} confirmations; {hours:.1f} h of training.\n"
    )
    for one in study.tables():
        yield f"{study.title}:{one.title.rpartition(':')[2]}\n"
        rows = [
            [
                name,
                *(f"**{one.text(name, at)}**" if one.clear(name, at) else one.text(name, at) for at in one.sparsities),
            ]
            for name in one.rows
        ]
        yield markdown(["", *(f"{100 * at:g}%" for at in one.sparsities)], rows)
    yield "The best COPS mask of an initialisation is ... (number of initialisations)\n"
    chosen = study.chosen()
    effects = dict.fromkeys(effect for counts in chosen.values() for effect in counts)
    yield markdown(
        ["", *(f"{100 * at:g}%" for at in chosen)],
        [[effect, *(str(counts[effect]) for counts in chosen.values())] for effect in effects],
    )
    yield "Validation accuracy at alpha 0.5 minus that of the target alone / of the control alone, in %\n"
    lower, upper = study.levels(against=0.0), study.levels(against=1.0)
    sparsities = sorted({at for rows in lower.values() for at in rows})
    yield markdown(
        ["", *(f"{100 * at:g}%" for at in sparsities)],
        [
            [
                method,
                *(f"{_text(lower[method][at].get(0.5))} / {_text(upper[method][at].get(0.5))}" for at in sparsities),
            ]
            for method in lower
        ],
    )
    for living, title in ((False, "all masks"), (True, "masks that empty no layer")):
        yield f"Rank correlation with validation accuracy: {title}\n"
        yield markdown(
            ["sparsity", *PROXIES.values()],
            [
                [f"{100 * at:g}%", *(_text(row[proxy], 1, 2) for proxy in PROXIES)]
                for at, row in study.proxies(living=living).items()
            ],
        )


def plain(study: Study) -> dict[str, Any]:
    """A study's tables as JSON values."""

    def rows(one: Comparison) -> dict[str, Any]:
        return {
            name: {f"{at:g}": [m.value, m.error, m.count] for at, m in row.items() if m}
            for name, row in one.rows.items()
        }

    return {
        "tables": {one.title: rows(one) for one in study.tables()},
        "chosen": {f"{at:g}": dict(counts) for at, counts in study.chosen().items()},
        "seconds_of_a_trial": mean([outcome["seconds_training"] for outcome in study.ended.values()] or [0.0]),
    }


def main() -> None:
    """Print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="sweep files that have run")
    parser.add_argument("--to", type=Path, default=user_data_path("cops") / "study", help="folder of the figures")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with mlflow_server(Settings.read()) as uri:
        specs = [Spec.load(file) for file in given.sweeps]
        studies = [Study(Search(spec, Runs(uri).known(spec))) for spec in specs]
    given.to.mkdir(parents=True, exist_ok=True)
    drawn.accuracies({study.title: study.tables() for study in studies}).savefig(
        given.to / "accuracy.png", dpi=drawn.DPI
    )
    for study in studies:
        file = given.to / f"{study.search.spec.name}-levels.png"
        drawn.levels(study.levels(), study.title).savefig(file, dpi=drawn.DPI)
    if given.json:
        print(json.dumps({study.title: plain(study) for study in studies}, indent=1))
    else:
        print("\n".join(line for study in studies for line in told(study)))


if __name__ == "__main__":
    main()
