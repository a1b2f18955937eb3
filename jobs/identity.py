"""What makes two trials, two masks or two score vectors the same: content keys.

A key is the hash of all that decides the result, less what stands at its default: a new option whose default keeps
the old behaviour keeps the old keys.
"""

import hashlib
import json
from typing import Any

from jobs.plan import Cell, ScoreTask, Trial
from jobs.spec import UNSTRUCTURED, Spec

# Raised when the same settings give something else than before, so that what was wrong is not found again.
# 2: vectors from the store are combined in the network's order; `random` is drawn apart from the initial weights.
REVISION = 2
RANDOM = "random"


def key(kind: str, settings: Any) -> str:
    """32 hex digits; `kind` keeps keys of different things apart. Settings must be plain JSON values."""
    text = json.dumps([kind, settings], sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def score_settings(spec: Spec, task: ScoreTask) -> dict[str, Any]:
    """All that decides a score vector."""
    settings = {
        "model": task.model,
        "data": task.data,
        "seed": spec.seed + task.seed,
        "scoring": spec.scoring.model_dump(mode="json", exclude_defaults=True),
        "score": task.score,
    }
    options: dict[str, tuple[Any, Any]] = {  # value and default
        "samples": (spec.samples, None),
        "threads": (_threads(spec), 1),
        "revision": (REVISION if task.score == RANDOM else 1, 1),
    }
    return settings | _unusual(options)


def mask_settings(spec: Spec, trial: Trial) -> dict[str, Any]:
    """All that decides a mask."""
    cell = trial.cell
    settings = {
        "model": cell.model,
        "data": cell.data,
        "seed": spec.seed + cell.seed,
        "scoring": spec.scoring.model_dump(mode="json", exclude_defaults=True),
        "target": dict(zip(cell.target, trial.weights, strict=True)),
        "controls": list(cell.controls),
        "alpha": list(trial.alpha),
        "sparsity": cell.sparsity,
    }
    shuffle = trial.training_seed if trial.ablation == "shuffle" else None
    options: dict[str, tuple[Any, Any]] = {  # value and default
        "rounds": (cell.rounds, 1),
        "layout": (cell.layout, UNSTRUCTURED),
        "pruning": (spec.pruning.model_dump(mode="json", exclude_defaults=True), {}),
        "samples": (spec.samples, None),
        "shuffle": (shuffle, None),
        "threads": (_threads(spec), 1),
        "revision": (_revision(cell), 1),
    }
    return settings | _unusual(options)


def trial_settings(spec: Spec, trial: Trial) -> dict[str, Any]:
    """All that decides a trial's accuracy."""
    settings = {
        "mask": mask_settings(spec, trial),
        "training": recipe_settings(spec),
        "training_seed": trial.training_seed,
    }
    return settings if trial.ablation == "none" else settings | {"ablation": trial.ablation}


def recipe_settings(spec: Spec) -> dict[str, Any]:
    """All that decides how a masked network is trained, but for the seed."""
    settings = spec.training.model_dump(mode="json", exclude_defaults=True)
    return settings if spec.samples is None else settings | {"samples": spec.samples}


def recipe_key(spec: Spec) -> str:
    """Content key of the training recipe: accuracies under different recipes are not averaged."""
    return key("recipe", recipe_settings(spec))


def mask_key(spec: Spec, trial: Trial) -> str:
    """Content key of the trial's mask; what the API calls the mask's id."""
    return key("mask", mask_settings(spec, trial))


def trial_key(spec: Spec, trial: Trial) -> str:
    """Content key of a trial: equal keys give the same mask and, on one kind of device, the same accuracy."""
    return key("trial", trial_settings(spec, trial))


def study_key(spec: Spec, cell: Cell) -> str:
    """Content key of a cell's study: sweeps that search the same cell for the same end go on in one study."""
    blank = mask_settings(spec, Trial(cell, (0.0,) * len(cell.target), ()))
    settings = {"mask": blank | {"target": list(cell.target)}, "training": recipe_settings(spec)}
    return key("study", settings | {"objective": list(spec.search.objective)})


def sweep_key(spec: Spec) -> str:
    """Content key of a sweep: the same file, or one that differs in what it may cost alone, resumes it."""
    cost = {"resources", "budget", "failures"}
    return key("sweep", spec.model_dump(mode="json", exclude_defaults=True, exclude=cost))


def _threads(spec: Spec) -> int:
    """Those that scores and training run on; on a GPU they decide nothing."""
    return 1 if spec.resources.gpu else spec.resources.threads


def _revision(cell: Cell) -> int:
    """That of a mask; one of a single score, or whose scores are taken anew in rounds, is what it was."""
    names = (*cell.target, *cell.controls)
    return REVISION if RANDOM in names or (len(names) > 1 and cell.rounds == 1) else 1


def _unusual(options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Values that are not their defaults."""
    return {name: value for name, (value, default) in options.items() if value != default}
