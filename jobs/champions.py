"""Which networks of a sweep the model registry keeps, and under which names. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.identity import key, mask_key, mask_settings, recipe_key, trial_key
from jobs.plan import Cell, confirmations
from jobs.report import Standing, standing
from jobs.search import Search
from jobs.spec import UNSTRUCTURED, Spec

LONGEST = 200  # characters of a name; MLflow's database takes 256
# `name(option=value, ...)` with values that stay apart without the punctuation: replacing it loses nothing.
PLAIN = re.compile(r"[\w.]+(:\w+)?(\(\w+=[\w.]+(, \w+=[\w.]+)*\))?", re.ASCII)


@dataclass(frozen=True)
class Candidate:
    """The confirmed winner of a cell.

    Args:
        name: of its cell in the model registry.
        mask: content key, as are
        recipe: that of its training, and
        trial: the trial that trained the network, the first confirmation.
        settings: all that decides the mask.
        standing: how good it is.
    """

    name: str
    mask: str
    recipe: str
    trial: str
    settings: Mapping[str, object]
    standing: Standing


def candidates(search: Search) -> list[Candidate]:
    """The confirmed winners of all cells with something to tune."""
    spec, found = search.spec, []
    for cell in search.cells.values():
        one = standing(cell) if cell.cell.tunable else None
        if one is not None and one.confirmed:
            trained = trial_key(spec, confirmations(spec, one.trial)[0])
            keys = mask_key(spec, one.trial), recipe_key(spec), trained
            found.append(Candidate(model_name(spec, cell.cell), *keys, mask_settings(spec, one.trial), one))
    return found


def model_name(spec: Spec, cell: Cell) -> str:
    """`convnet.digits.snip+synflow_grasp.0.95`: what MLflow, a URL and a shell all take as it is.

    What is not at its default follows: `x100` rounds, layout `2to4`, `seed1`, `samples32`. Distinct cells have
    distinct names: where replacing characters would lose something, the name carries a hash of what it was.
    """
    method = "_".join(filter(None, ("+".join(cell.target), "+".join(cell.controls))))
    seed = spec.seed + cell.seed
    options = {
        f"x{cell.rounds}": cell.rounds != 1,
        cell.layout.replace(":", "to"): cell.layout != UNSTRUCTURED,
        f"seed{seed}": seed != 0,
        f"samples{spec.samples}": spec.samples is not None,
    }
    parts = [_plain(cell.model), _plain(cell.data), method, repr(cell.sparsity)]
    name = ".".join([*parts, *(option for option, shown in options.items() if shown)])
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{key('name', name)[:8]}"


def _plain(reference: str) -> str:
    text = re.sub(r"[^\w.=]+", "-", reference.replace('"', ""), flags=re.ASCII).strip("-")
    return text if PLAIN.fullmatch(reference) else f"{text}-{key('name', reference)[:8]}"
