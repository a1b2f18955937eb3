"""Retention: what nothing refers to any more, and its removal. What is not recognisably ours is never touched."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial

from pyarrow import fs
from rich import box
from rich.console import Console
from rich.table import Table

from jobs.checkpoints import checkpoint_store
from jobs.filestore import FileStore
from jobs.identity import key, score_settings
from jobs.local import mlflow_server
from jobs.plan import scores_needed
from jobs.scorestore import SUFFIX
from jobs.settings import Settings
from jobs.tracking.inventory import Inventory, Known
from service.show import print_json

HOUR = 3600.0
RUN = re.compile(r"[0-9a-f]{32}")  # MLflow's ids of runs
NAMES = ("mask.cops", "layers.json", "weights.safetensors", "sweep.yaml", "sweep.log", "report.html")
PART = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part")  # what a killed upload to a folder leaves
DELETED, ORPHAN, UNFINISHED = "files of deleted runs", "files of runs that MLflow does not know", "of unfinished trials"
SCORES, CHECKPOINT = "score vectors of no sweep", "checkpoints of trials that do not run"


@dataclass(frozen=True)
class Waste:
    """A file that can go: of which sort, where it is, its bytes, and what removes it."""

    what: str
    path: str
    size: int
    remove: Callable[[], object]


def collect(settings: Settings, hours: float, *, delete: bool, as_json: bool = False) -> None:
    """Print what is older than so many hours and can go, and remove it if told to.

    Raises:
        UserError: MLflow or a store cannot be used.
    """
    console = Console()
    with mlflow_server(settings) as uri:
        found, remarks = waste(Inventory(uri), settings, hours)
        sizes: dict[str, list[int]] = defaultdict(list)
        for one in found:
            sizes[one.what].append(one.size)
            if delete:
                one.remove()
    if as_json:
        files = [{"what": one.what, "path": one.path, "bytes": one.size} for one in found]
        print_json({"deleted": delete, "files": files, "remarks": remarks})
        return
    table = Table("removed" if delete else "would be removed", "files", "MB", box=box.SIMPLE)
    for what, sizes_of in sizes.items():
        table.add_row(what, str(len(sizes_of)), f"{sum(sizes_of) / 1e6:.1f}")
    console.print(table if found else "nothing to remove")
    for remark in remarks:
        console.print(remark, soft_wrap=True, markup=False)
    if found and not delete:
        console.print("nothing has been removed: `cops gc --delete` does it")


def waste(inventory: Inventory, settings: Settings, hours: float) -> tuple[list[Waste], list[str]]:
    """What can go, and remarks on what is kept and why."""
    folders = inventory.folders()
    registered = inventory.registered()
    runs = {run.id: run for run in inventory.runs()}
    sweeps = [run for run in runs.values() if run.kind == "sweep" and not run.deleted]
    running = [sweep.name for sweep in sweeps if sweep.status == "RUNNING"]
    remarks = []
    if running and hours < 1:
        remarks.append(f"sweep '{running[0]}' runs: what is younger than an hour is kept")
        hours = 1.0
    for run, version in registered.items():
        if run not in runs or runs[run].deleted:
            remarks.append(f"files of deleted run '{run}' are kept: {version} needs them")
    before = time.time() - hours * HOUR
    found: list[Waste] = []
    for folder in dict.fromkeys(folders):
        try:
            found += _files(folder, runs, registered.keys(), before)
        except (OSError, ValueError) as error:
            remarks.append(f"{folder} cannot be listed, so all there is kept: {error}")
    try:
        found += _scores(inventory, sweeps, settings, before)
    except _UnreadableError as error:
        remarks.append(f"all score vectors are kept: {error}")
    try:
        found += _checkpoints(settings.checkpoints_url, before)
    except OSError as error:
        remarks.append(f"all checkpoints are kept: {error}")
    return found, remarks


def _files(folder: str, runs: dict[str, Known], registered: Set[str], before: float) -> Iterator[Waste]:
    """Files of runs that can go, of one experiment."""
    files, root = fs.FileSystem.from_uri(folder)
    for one in files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True)):
        run, _, name = one.path.removeprefix(root).lstrip("/").partition("/artifacts/")
        if not one.is_file or not RUN.fullmatch(run) or one.mtime_ns / 1e9 > before:
            continue
        sort = _sort(runs.get(run), name)
        if sort is not None and (sort == UNFINISHED or run not in registered):
            yield Waste(sort, one.path, one.size, partial(files.delete_file, one.path))


def _sort(run: Known | None, name: str) -> str | None:
    """Why a file of a run can go; None if it stays."""
    part = PART.fullmatch(name)
    ours = (part[1] if part else name) in NAMES
    if run is None:
        return ORPHAN if ours else None
    if not run.kind:
        return None
    if run.deleted:
        return DELETED
    lost = run.status in ("FAILED", "KILLED") and run.kind != "sweep"  # nobody is given the mask of such a trial
    return UNFINISHED if ours and (lost or part) else None


class _UnreadableError(Exception):
    """What a sweep refers to is not known."""


def _scores(inventory: Inventory, sweeps: list[Known], settings: Settings, before: float) -> list[Waste]:
    """Score vectors that no sweep refers to.

    Raises:
        _UnreadableError: a sweep, or the store, cannot be read.
    """
    wanted = set()
    for sweep in sweeps:
        try:
            spec = inventory.sweep_file(sweep)
        except Exception as error:  # whatever a store, YAML or a later version's file gives
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise _UnreadableError(f"the file of sweep '{sweep.name}' ({sweep.id}) cannot be read: {reason}") from None
        wanted |= {key("score", score_settings(spec, task)) for task in scores_needed(spec)}
    store = FileStore(settings.store_url, SUFFIX)
    try:
        listed = store.files()
    except OSError as error:
        raise _UnreadableError(str(error)) from None
    return [
        Waste(SCORES, name, size, partial(store.remove, name))
        for name, size, written in listed
        if name not in wanted and written < before
    ]


def _checkpoints(url: str, before: float) -> Iterator[Waste]:
    """Checkpoints that nobody goes on from: a trial that runs saves one every few minutes."""
    store = checkpoint_store(url)
    for name, size, written in store.files():
        if written < before:
            yield Waste(CHECKPOINT, name, size, partial(store.remove, name))
