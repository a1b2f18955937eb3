"""What a sweep will cost, before anything is run: its counts are exact, its hours assume a speed."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

from rich.table import Table

from cops.flops import multiply_adds
from jobs.plan import Cell, Trial, ablations, cells, confirmations, scores_needed
from jobs.spec import Spec
from jobs.studies import STEP as VALUE_STEP
from jobs.studies import grid
from jobs.workloads import build_model, outlined

GPU_SPEED, CORE_SPEED = 1e13, 1e10  # operations per second that training gets out of a GPU, and out of a CPU core
GPU_CALL = (
    3e-4  # seconds to start a layer's kernels in a step, normalisation and update included: small layers take longer
)
STEP = 3  # a training step costs about three forward passes


@dataclass(frozen=True)
class Estimate:
    """What there is to run, for one cell or for several together.

    Args:
        search: number of search trials.
        confirmation: number of confirmation runs.
        ablation: number of ablation runs.
        rounds: number of score vectors that trials take again in their rounds.
        operations: floating-point operations of all that, of which a multiply-add is two.
        calls: layers times training steps of all that.
    """

    search: int
    confirmation: int
    ablation: int
    rounds: int
    operations: float
    calls: float

    @property
    def trials(self) -> int:
        """Number of trials of all kinds."""
        return self.search + self.confirmation + self.ablation

    def hours(self, gpu: float) -> float:
        """GPU hours, or CPU core hours if a trial takes no GPU.

        A GPU computes or waits for the next layer to be started; while it waits, trials that share it go on.
        """
        seconds = max(self.operations / GPU_SPEED, gpu * self.calls * GPU_CALL) if gpu else self.operations / CORE_SPEED
        return seconds / 3600


def estimates(spec: Spec) -> dict[Cell, Estimate]:
    """What each cell takes if nothing of it has been run before.

    Builds the networks and reads the data whose sizes are not known; downloads, trains and scores nothing.

    Raises:
        UserError: a network cannot be built, or data cannot be read.
    """

    @cache
    def forward(model: str, data: str) -> tuple[float, int, int, int]:
        """Operations of one sample's forward pass, number of layers; numbers of training and of validation samples."""
        dataset = outlined(data).first(spec.samples)
        network = build_model(model, dataset, spec.seed)
        cost = multiply_adds(network, dataset.ready(dataset.train[0][:1]))
        return 2 * sum(cost.values()), len(cost), len(dataset.train[1]), len(dataset.validation[1])

    found = {}
    for cell in cells(spec):
        winner = Trial(cell, (), ())
        counts = _search_trials(spec, cell), len(confirmations(spec, winner)), len(ablations(spec, winner))
        cost, layers, training, validation = forward(cell.model, cell.data)
        scores = len((*cell.target, *cell.controls)) * cell.rounds if cell.rounds > 1 else 0
        scoring = min(spec.scoring.batches * spec.scoring.batch_size, training)
        passes = spec.training.epochs * (STEP * training + validation) + STEP * scores * scoring
        steps = spec.training.epochs * -(-training // spec.training.batch_size) + scores * spec.scoring.batches
        total = sum(counts)
        found[cell] = Estimate(*counts, total * scores, operations=total * passes * cost, calls=total * steps * layers)
    return found


@dataclass(frozen=True)
class Preview:
    """What a sweep would run.

    Args:
        name: of the sweep.
        cells: of its grid, baselines included.
        baselines: cells with nothing to tune.
        search: number of search trials, like
        confirmation: runs, and
        ablation: runs.
        scores: distinct score vectors, each computed once for all trials.
        rounds: score vectors that trials take again in their rounds.
        hours: rough guess, in
        unit: of them.
    """

    name: str
    cells: int
    baselines: int
    search: int
    confirmation: int
    ablation: int
    scores: int
    rounds: int
    hours: float
    unit: Literal["GPU hours", "CPU core hours"]


def preview(spec: Spec) -> Preview:
    """The counts and hours of a sweep.

    Raises:
        UserError: as `estimates`.
    """
    every = estimates(spec)
    counted = ("search", "confirmation", "ablation", "rounds")
    return Preview(
        name=spec.name,
        cells=len(every),
        baselines=sum(not cell.tunable for cell in every),
        scores=len(scores_needed(spec)),
        hours=sum(one.hours(spec.resources.gpu) for one in every.values()),
        unit="GPU hours" if spec.resources.gpu else "CPU core hours",
        **{name: sum(getattr(one, name) for one in every.values()) for name in counted},
    )


def dry_run(spec: Spec) -> Table:
    """The same as a table to print.

    Raises:
        UserError: as `estimates`.
    """
    found = preview(spec)
    total = asdict(found)
    kinds = [f"{total[kind]} {kind}" for kind in ("search", "confirmation", "ablation") if total[kind]]
    trials = found.search + found.confirmation + found.ablation
    gpu = spec.resources.gpu
    speed = "10 TFLOP/s per GPU, 0.3 ms per layer and step" if gpu else "10 GFLOP/s per CPU core"

    table = Table(title=f"sweep '{spec.name}' would run", title_justify="left", box=None, show_header=False)
    table.add_row("cells", str(found.cells), f"{found.cells - found.baselines} tuned, {found.baselines} baselines")
    table.add_row("trials", str(trials), f"{', '.join(kinds)}; fewer where earlier sweeps ran the same")
    table.add_row("score computations", str(found.scores), "distinct, each once for all trials")
    if found.rounds:
        table.add_row("", str(found.rounds), "taken again within trials, in rounds")
    table.add_row(
        found.unit,
        f"{float(f'{found.hours:.2g}'):,g}",
        f"a rough guess: multiply-adds of training, at {speed}; none is stopped early",
    )
    return table


def _search_trials(spec: Spec, cell: Cell) -> int:
    """No more than there are points in what is tuned."""
    if not cell.tunable:
        return 1
    values = len(cell.controls) + len(cell.target) - 1
    if spec.search.sampler == "grid":
        return len(grid(spec.search.trials, values))
    levels: int = round(1 / VALUE_STEP) + 1
    return min(spec.search.trials, int(levels**values))
