"""The sweep file: typed and validated before any work starts."""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from cops import SCORES
from jobs.errors import UserError, one_line, unknown
from jobs.workloads import DataReference, ModelReference

DENSE = "dense"
UNSTRUCTURED = "unstructured"
OBJECTIVES = ("validation_accuracy", "flops_share", "dead_share")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def _one_of(what: str, known: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value not in known:
            raise ValueError(unknown(what, str(value), known))
        return value

    return BeforeValidator(check, json_schema_input_type=Literal[known])


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for name, count in Counter(map(str, values)).items():
        if count > 1:
            raise ValueError(f"{name} is named twice: name it once")
    return values


def _layout(value: Any) -> Any:
    if value not in (UNSTRUCTURED, "filter"):
        n, _, m = str(value).partition(":")
        if not (n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m)):  # YAML reads 2:4 without quotes as 124
            raise ValueError("should be unstructured, filter, or n:m with 0 < n < m, such as '2:4', in quotes")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


Count = Annotated[int, BeforeValidator(_no_bool), Field(le=1_000_000_000)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Distinct = AfterValidator(_distinct)
ScoreName = Annotated[str, _one_of("score", tuple(SCORES))]
Objective = Annotated[str, _one_of("objective", OBJECTIVES)]
Sparsity = Annotated[Number, Field(gt=0, lt=1)]


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # Anything may stand for a key; what is no plain value is refused below.
        keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        for key, count in keys.items():
            if count > 1:
                raise ValueError(f"key {key!r} stands twice in one place: keep one")
        return super().construct_mapping(node, deep)


class Section(BaseModel):
    """A part of the sweep file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Workload(Section):
    """A network and the data that it is pruned and trained on."""

    model: Annotated[ModelReference, Field(description="a name, or {name: ..., options: {...}}; see `Models` below")]
    data: Annotated[DataReference, Field(description="likewise; see `Data sets` below")]

    def __str__(self) -> str:
        return f"{self.model} on {self.data}"


class Pair(Section):
    """What a mask is chosen by: the best for the target while every control reaches its tuned level."""

    target: Annotated[
        tuple[ScoreName, ...],
        BeforeValidator(_as_tuple, json_schema_input_type=ScoreName | tuple[ScoreName, ...]),
        Distinct,
        Field(min_length=1, description="a score, or several whose weights are tuned"),
    ]
    controls: Annotated[
        tuple[ScoreName, ...],
        BeforeValidator(_as_tuple, json_schema_input_type=ScoreName | tuple[ScoreName, ...]),
        Distinct,
        Field(min_length=1, description="a score, or several, kept above levels that are tuned"),
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.target) == set(self.controls):
            raise ValueError(f"{self.target[0]} is target and control: it cannot control itself, name another control")
        return self


class Grid(Section):
    """Every combination is a cell with a study of its own; baselines take part but for the pairs."""

    pairs: Annotated[tuple[Pair, ...], Distinct] = Field(
        min_length=1, description="score pairs, each with target and controls"
    )
    sparsities: Annotated[tuple[Sparsity, ...], Distinct] = Field(
        min_length=1, description="fractions of the weights to remove"
    )
    seeds: Annotated[tuple[Annotated[Count, Field(ge=0)], ...], Distinct] = Field(
        (0,), min_length=1, description="of initial weights and scored images, each added to `seed`"
    )
    rounds: Annotated[tuple[Annotated[Count, Field(ge=1, le=10_000)], ...], Distinct] = Field(
        (1,), min_length=1, description="in how many a mask is found; more than one: scores are taken again in each"
    )
    layouts: Annotated[tuple[Annotated[str, BeforeValidator(_layout)], ...], Distinct] = Field(
        (UNSTRUCTURED,), min_length=1, description="unstructured, filter (whole filters), or n:m such as 2:4"
    )


class Pruning(Section):
    """What every mask, baselines included, leaves alone."""

    exclude: tuple[str, ...] = Field((), description="patterns for names of parameters or layers to leave dense")
    min_density: Number = Field(0, ge=0, le=1, description="fraction of every layer that is kept whatever its scores")


class Scoring(Section):
    """The training images that data-driven scores see; the same for every score."""

    batches: Count = Field(1, ge=1, description="number of batches")
    batch_size: Count = Field(256, ge=1, description="images in each")


class Search(Section):
    """How Optuna tunes alpha and target weights, per cell."""

    sampler: Literal["tpe", "gp", "cmaes", "random", "grid"] = Field(
        "tpe",
        description="how Optuna proposes trials; cmaes draws at random where there is a single value to tune",
    )
    trials: Count = Field(8, ge=1, description="distinct trials per cell, those of earlier sweeps included")
    objective: Annotated[
        tuple[Objective, ...],
        BeforeValidator(_as_tuple, json_schema_input_type=Objective | tuple[Objective, ...]),
        Distinct,
        Field(min_length=1, description="validation_accuracy, or a list: then the Pareto front is searched"),
    ] = ("validation_accuracy",)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "validation_accuracy" not in self.objective:
            raise ValueError(f"objective = {list(self.objective)}: validation_accuracy should be among them")
        if self.sampler == "cmaes" and len(self.objective) > 1:
            raise ValueError("sampler cmaes knows one objective only: take tpe, gp, random or grid")
        return self


class Stopping(Section):
    """Search trials that lag behind the others of their cell end early; confirmations never do."""

    scheduler: Literal["none", "asha", "median"] = Field("none", description="how laggards are told")
    grace_epochs: Count = Field(1, ge=1, description="no trial ends before")
    reduction_factor: Count = Field(3, ge=2, description="of asha: one in so many trials goes on from each rung")


class Budget(Section):
    """What a sweep may take in all, however often it is resumed; nothing stands for no limit.

    Once any of it is spent no new search trial starts. Confirmations of the winners count too, and start only while
    hours and GPU hours are left. What runs ends.
    """

    hours: Annotated[Number, Field(gt=0)] | None = Field(None, description="of wall time while the sweep runs")
    gpu_hours: Annotated[Number, Field(gt=0)] | None = Field(None, description="of GPU time in trials")
    trials: Annotated[Count, Field(ge=1)] | None = Field(None, description="search trials started, over all cells")


class Failures(Section):
    """What happens to a trial that fails. Errors that would come again, such as a ValueError, are not retried."""

    retries: Count = Field(2, ge=0, description="of a trial; one whose node was preempted uses up none")
    backoff_seconds: Number = Field(5, ge=0, description="before the first retry; doubles with each")
    limit: Number = Field(0.5, gt=0, le=1, description="share of failed trials above which the sweep ends")


class Training(Section):
    """The recipe by which every masked network is trained."""

    epochs: Count = Field(20, ge=1, description="passes over the training samples")
    batch_size: Count = Field(128, ge=1, description="samples per step")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd has Nesterov momentum")
    learning_rate: Number = Field(0.1, gt=0, description="the highest of the schedule")
    momentum: Number = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: Number = Field(5e-4, ge=0, description="of all parameters; decoupled with adamw")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="cosine ends at zero")
    milestones: tuple[Annotated[Number, Field(gt=0)], ...] = Field(
        (0.5, 0.75), min_length=1, description="of step: epochs, or fractions of `epochs` if all are below 1"
    )
    gamma: Number = Field(0.1, gt=0, lt=1, description="of step: the learning rate's factor at each milestone")
    warmup: Number = Field(0, ge=0, description="epochs in which the learning rate rises linearly")
    label_smoothing: Number = Field(0, ge=0, lt=1, description="share of the label spread over all classes")
    crop: Count = Field(0, ge=0, le=1024, description="pixels of padding from which images are cropped at random")
    flip: bool = Field(False, description="whether images are mirrored at random, left to right")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the forward pass; the others are automatic mixed precision"
    )
    channels_last: bool = Field(False, description="memory format that is faster on GPUs with mixed precision")

    @property
    def milestone_epochs(self) -> tuple[float, ...]:
        """Milestones in epochs."""
        return tuple(one * self.epochs if max(self.milestones) < 1 else one for one in self.milestones)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup = {self.warmup:g} should be less than epochs = {self.epochs}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones = {list(self.milestones)} should rise")
        if self.schedule == "step" and not self.warmup < self.milestone_epochs[0]:
            raise ValueError(f"milestones = {list(self.milestones)} should come after warmup = {self.warmup:g}")
        if self.schedule == "step" and not self.milestone_epochs[-1] < self.epochs:
            raise ValueError(f"milestones = {list(self.milestones)} should come before epochs = {self.epochs}")
        return self


class Resources(Section):
    """What one trial takes; fractions of a GPU let small trials share one."""

    cpu: Number = Field(1, ge=0.01, description="cores")
    gpu: Number = Field(0, ge=0, description="GPUs; 0.25 lets four trials share one")

    @property
    def threads(self) -> int:
        """Threads of a trial's tensor operations on the CPU, which round differently on another number of them."""
        return max(1, math.floor(self.cpu))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.gpu < 0.01:
            raise ValueError(f"gpu = {self.gpu}: give 0, or at least 0.01")
        return self


class Spec(Section):
    """A sweep."""

    name: str = Field(pattern=NAME, description="letters, digits, '.', '_', '-'; at most 100")
    experiment: str = Field("cops", pattern=NAME, description="MLflow experiment that the runs go to; as `name`")
    workloads: Annotated[tuple[Workload, ...], Distinct] = Field(
        min_length=1, description="networks, each with its data"
    )
    grid: Grid
    baselines: Annotated[tuple[Annotated[str, _one_of("baseline", (DENSE, *SCORES))], ...], Distinct] = Field(
        (DENSE, "random", "magnitude", "snip", "grasp", "synflow"),
        description="dense (nothing removed), and single scores without a control",
    )
    pruning: Pruning = Pruning()
    scoring: Scoring = Scoring()
    search: Search = Search()
    stopping: Stopping = Stopping()
    training: Training = Training()
    confirmations: Count = Field(
        3, ge=0, description="runs with fresh training seeds for each cell's winner and each baseline"
    )
    ablations: Annotated[tuple[Literal["shuffle", "reinit"], ...], Distinct] = Field(
        (),
        description="shuffle: each cell's winner again with its mask shuffled within each layer; reinit: with other "
        "initial weights; as often as it is confirmed, at least once",
    )
    seed: Count = Field(0, ge=0, lt=2**31, description="of initial weights, scored images and search")
    samples: Count | None = Field(
        None, ge=16, description="at most so many training, validation and test samples each; for trying out"
    )
    resources: Resources = Resources()
    budget: Budget = Budget()
    failures: Failures = Failures()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stopping.scheduler != "none" and len(self.search.objective) > 1:
            raise ValueError(f"stopping.scheduler {self.stopping.scheduler} needs a single search.objective")
        return self

    def find(self) -> None:
        """Import the models and data sets that are named by import path.

        Raises:
            UserError: names what cannot be imported, or does not take its options.
        """
        for index, workload in enumerate(self.workloads):
            for reference in (workload.model, workload.data):
                try:
                    reference.find()
                except UserError as error:
                    raise UserError(f"workloads[{index}]: {error}") from error

    def look(self) -> None:
        """Look for the files of the data sets.

        Raises:
            UserError: names what is missing.
        """
        for index, workload in enumerate(self.workloads):
            try:
                workload.data.look()
            except UserError as error:
                raise UserError(f"workloads[{index}].data: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a sweep file.

        Raises:
            UserError: one line that names the file, the key, the value and what it should be.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"sweep file '{path}' does not exist: give the path of a YAML file, e.g. jobs/sweeps/demo.yaml"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"sweep file '{path}' cannot be read: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read the text of a sweep file, which is at `where`.

        Raises:
            UserError: as `load`.
        """
        try:
            tree = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
        return cls.of(tree, where)

    @classmethod
    def of(cls, tree: object, where: str) -> Self:
        """A sweep from plain values, found at `where`.

        Raises:
            UserError: as `load`.
        """
        if not isinstance(tree, dict):
            raise UserError(f"{where} must hold keys and values (name: ..., grid: ...), but holds {tree!r}")
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise UserError(f"{where}: {one_line(error, cls)}") from None
