"""What masks of full-size networks are like before any training, from real scores on CIFAR-10 images.

    python -m tests.benchmarks.masks IMAGES [--to FOLDER] [--json]

IMAGES is a folder or zip archive that holds train/CLASS/* and test/CLASS/*. Every result is written down as soon as it
is there, as are score vectors: the same command goes on where it ended. Tables and figures (PNG) are of all results.

Seconds are of one run, on one thread: the CPU's, which other work on the machine makes little longer.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_data_path
from torch import Tensor

from cops import Mask, path, prune, score
from cops.flat import flatten, unflatten
from cops.gradient import gradient_norm
from cops.levels import normalise, weighted_target
from cops.network import prunable
from cops.scores import Scores
from jobs.data import Dataset, Samples
from jobs.scorestore import ScoreStore
from jobs.workloads import build_model, load_data, scoring_batches
from tests.benchmarks import drawn
from tests.benchmarks.show import markdown

MODELS = ("resnet20", "vgg16")
SAMPLES = 128  # training images that scores and gradients see
SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
FEW = (0.9, 0.99)  # in the figures of similarities, where the others lie in between
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
MIDDLE = 0.5  # where the masks of pairs are looked at more closely
PAIRS = {  # target weights, and the control
    "snip|grasp": ({"snip": 1.0}, "grasp"),
    "grasp|snip": ({"grasp": 1.0}, "snip"),
    "synflow|grasp": ({"synflow": 1.0}, "grasp"),
    "snip|synflow": ({"snip": 1.0}, "synflow"),
    "snip+synflow|grasp": ({"snip": 0.5, "synflow": 0.5}, "grasp"),
}
SINGLE = ("random", "magnitude", "snip", "grasp", "synflow")
TIMED = (*SINGLE, "gradnorm", "force", "fisher", "ntk_sap", "l1_filter", "entropy_filter")
ROUNDS = 100  # of SynFlow as published
METHODS = (*SINGLE, f"synflow x{ROUNDS}", *PAIRS)
Record = dict[str, Any]


@dataclass
class Notes:
    """Results by key, in a file of one JSON line each."""

    file: Path
    found: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            lines = self.file.read_text().splitlines()
            self.found = {line["key"]: line for line in map(json.loads, lines)}

    def once(self, key: str, make: Callable[[], Record]) -> None:
        """Make and keep the result of a key, unless it is there."""
        if key not in self.found:
            self.found[key] = {"key": key} | make()
            with self.file.open("a") as file:
                file.write(json.dumps(self.found[key]) + "\n")
            print(key, flush=True)

    def of(self, model: str, kind: str) -> list[Record]:
        """Results of one kind on one network."""
        return [one for one in self.found.values() if (one["model"], one["kind"]) == (model, kind)]


@dataclass
class Subject:
    """A network as it is initialised, the images that it is scored on, and its score vectors."""

    name: str
    images: Callable[[], Dataset]
    store: ScoreStore
    vectors: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def model(self) -> torch.nn.Module:
        return build_model(self.name, self.images(), 0)

    @cached_property
    def batches(self) -> list[Samples]:
        return scoring_batches(self.images(), 1, SAMPLES, 0)

    def scores(self, name: str) -> tuple[Scores, Record]:
        """Scores, which are kept, and what they cost."""
        model, batches = self.model, self.batches  # loaded by now
        started = time.thread_time()
        scores = score(name, model, batches)
        took = {"cpu_seconds": time.thread_time() - started}
        self.store.put(f"{self.name}-{name}", scores)
        return scores, took

    def vector(self, name: str) -> Tensor:
        """Scores (d,) of l1 norm 1."""
        if name not in self.vectors:
            scores = self.store.get(f"{self.name}-{name}") or self.scores(name)[0]
            in_order = {key: scores[key] for key in prunable(self.model)}  # the store keeps none
            self.vectors[name] = normalise(flatten(in_order))
        return self.vectors[name]

    def mask(self, kept: Tensor) -> Mask:
        return Mask(unflatten(kept, {name: weight.shape for name, weight in prunable(self.model).items()}))

    def look(self, mask: Mask) -> Record:
        """Emptied layers, dead share, and the gradient that is left."""
        health = mask.health(self.model, self.batches[0][0][:1])
        return {
            "emptied": len(health.emptied),
            "dead_share": health.dead_share,
            "gradient": gradient_norm(self.model, mask.kept, self.batches),
        }


def keeps(size: int) -> dict[int, float]:
    """Number of weights that each sparsity leaves, and the sparsity."""
    return {round((1 - sparsity) * size): sparsity for sparsity in SPARSITIES}


def measure(subject: Subject, notes: Notes) -> None:
    """All results of one network that are not there yet."""
    name = subject.name

    def dense() -> Record:
        gradient = gradient_norm(subject.model, {}, subject.batches)
        size = sum(weight.numel() for weight in prunable(subject.model).values())
        return {"model": name, "kind": "dense", "weights": size, "gradient": gradient}

    notes.once(f"{name} dense", dense)
    size = notes.found[f"{name} dense"]["weights"]
    for one in TIMED:
        notes.once(f"{name} {one}", partial(timed, subject, one))
    for one in SINGLE:
        for keep, sparsity in keeps(size).items():
            notes.once(f"{name} {one} @{sparsity:g}", partial(single, subject, one, keep))
    for pair in PAIRS:
        for keep, sparsity in keeps(size).items():
            notes.once(f"{name} {pair} @{sparsity:g}", partial(paired, subject, pair, keep))
    for sparsity in SPARSITIES:
        notes.once(f"{name} synflow x{ROUNDS} @{sparsity:g}", partial(in_rounds, subject, sparsity))


def timed(subject: Subject, name: str) -> Record:
    """What a score costs."""
    return {"model": subject.name, "kind": "score", "score": name} | subject.scores(name)[1]


def single(subject: Subject, name: str, keep: int) -> Record:
    """A single score's own mask."""
    ((_, _, solution),) = path(subject.vector(name), [], [keep], [0.0])
    return _record(subject, name, keep) | subject.look(subject.mask(solution.mask))


def paired(subject: Subject, pair: str, keep: int) -> Record:
    """The masks of a pair at all levels, and a closer look at the one in the middle.

    Similarities are Jaccard's, to the masks of the target and of the control alone.
    """
    weights, control = PAIRS[pair]
    vectors = {name: subject.vector(name) for name in (*weights, control)}
    dtype = max((vector.dtype for vector in vectors.values()), key=lambda dtype: dtype.itemsize)
    vectors = {name: vector.to(dtype) for name, vector in vectors.items()}
    target = weighted_target({name: vectors[name] for name in weights}, weights)
    masks = {}
    for _, alpha, solution in path(target, [vectors[control]], [keep], ALPHAS):
        masks[alpha] = solution.mask
    ((_, _, other),) = path(vectors[control], [], [keep], [0.0])
    similar = {
        "target": [_jaccard(mask, masks[0.0]) for mask in masks.values()],
        "control": [_jaccard(mask, other.mask) for mask in masks.values()],
    }
    return _record(subject, pair, keep) | similar | subject.look(subject.mask(masks[MIDDLE]))


def in_rounds(subject: Subject, sparsity: float) -> Record:
    """SynFlow as published."""
    mask = prune(subject.model, subject.batches, target="synflow", sparsity=sparsity, rounds=ROUNDS).mask
    return _record(subject, f"synflow x{ROUNDS}", mask.count) | {"sparsity": sparsity} | subject.look(mask)


def _record(subject: Subject, method: str, keep: int) -> Record:
    size = sum(weight.numel() for weight in prunable(subject.model).values())
    return {"model": subject.name, "kind": "mask", "method": method, "sparsity": keeps(size).get(keep), "kept": keep}


def _jaccard(one: Tensor, other: Tensor) -> float:
    return int((one & other).sum()) / max(1, int((one | other).sum()))


def tables(notes: Notes) -> Iterator[str]:
    """Markdown."""
    models = [name for name in MODELS if notes.of(name, "score")]
    sizes = {name: notes.found[f"{name} dense"]["weights"] for name in models}
    yield f"CPU seconds of a score, {SAMPLES} images, one thread\n"
    yield markdown(
        ["score", *(f"{name}, {sizes[name]:,} weights" for name in models)],
        [[one, *(f"{notes.found[f'{name} {one}']['cpu_seconds']:.1f}" for name in models)] for one in TIMED],
    )
    for name in models:
        dense = notes.found[f"{name} dense"]["gradient"]
        by_method: dict[str, Mapping[float, Record]] = {}
        for one in notes.of(name, "mask"):
            by_method.setdefault(one["method"], {})[one["sparsity"]] = one  # type: ignore[index]

        def cell(one: Record | None, dense: float = dense) -> str:
            if one is None:
                return ""
            return f"{drawn.living(one['gradient'] / dense):.2g} / {one['emptied']} / {100 * one['dead_share']:.1f}"

        yield f"{name}: gradient norm / dense, emptied layers, dead weights in %; pairs at alpha {MIDDLE:g}\n"
        yield markdown(
            ["mask", *(f"{100 * at:g}%" for at in SPARSITIES)],
            [[one, *(cell(by_method[one].get(at)) for at in SPARSITIES)] for one in METHODS if one in by_method],
        )


def main() -> None:
    """Measure what is not there yet, print tables, draw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder or zip archive: train/CLASS/*, test/CLASS/*")
    parser.add_argument("--to", type=Path, default=user_data_path("cops") / "masks", help="folder of results")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="networks; all by default")
    parser.add_argument("--json", action="store_true", help="print all results as JSON instead of tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.to.mkdir(parents=True, exist_ok=True)
    notes = Notes(given.to / "masks.jsonl")
    loaded: list[Dataset] = []

    def images() -> Dataset:
        if not loaded:
            loaded.append(load_data(f"image_folder(path={json.dumps(given.images)})"))
        return loaded[0]

    for name in given.models:
        measure(Subject(name, images, ScoreStore((given.to / "scores").absolute().as_uri())), notes)
    masks = {name: (notes.found[f"{name} dense"]["gradient"], notes.of(name, "mask")) for name in given.models}
    drawn.gradients(masks, SPARSITIES, MIDDLE).savefig(given.to / "gradients.png", dpi=drawn.DPI)
    for name, (_, found) in masks.items():
        figure = drawn.similarities([one for one in found if one["sparsity"] in FEW], ALPHAS, name)
        figure.savefig(given.to / f"similarities-{name}.png", dpi=drawn.DPI)
    print(json.dumps(list(notes.found.values()), indent=1) if given.json else "\n".join(tables(notes)))


if __name__ == "__main__":
    main()
