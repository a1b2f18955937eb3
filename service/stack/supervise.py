"""Start and stop the stack. supervisord keeps the parts; this starts it, and asks the parts whether they answer."""

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Error

import service
from jobs.errors import UserError
from jobs.local import require_free_port
from service.stack import secret
from service.stack.parts import PARTS, Part
from service.stack.processes import end_leftovers
from service.stack.remote import supervisor
from service.stack.settings import StackSettings

UP_SECONDS = 240
DOWN_SECONDS = 60
POLL_SECONDS = 0.3
TRIES = 3  # starts of a part without an answer, before it counts as failed
LOG_LINES = 15
SOCKET_PATH = 100  # characters that a path of a Unix socket may have; some of the 107 are for supervisord's own suffix
STOP_SIGNALS = {"postgres": "INT"}  # at TERM it would wait for its clients to go


@dataclass(frozen=True)
class Status:
    """How a part is.

    Args:
        state: supervisord's word, e.g. RUNNING or FATAL; STOPPED without supervisord.
        pid: 0 if it does not run.
        trouble: why it does not answer; empty if it does.
    """

    part: Part
    state: str
    pid: int
    trouble: str


def up(settings: StackSettings) -> None:
    """Start all parts, those that run already excepted; returns when all of them answer.

    Raises:
        UserError: a port is taken, or a part does not come up; nothing is left running that did not run before.
    """
    _prepare(settings)
    with (settings.folder / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        require_same(settings)
        if not is_up(settings):
            _start(settings)
        try:
            wait(settings)
        except BaseException:
            down(settings)
            raise


def require_same(settings: StackSettings) -> None:
    """Refuse settings that differ from those of a stack that runs.

    Raises:
        UserError: names a port that does.
    """
    if not is_up(settings):
        return
    running: dict[str, int] = json.loads(_ports(settings).read_text())
    for name, port in settings.ports.items():
        before = running.get(name)
        if before != port:
            raise UserError(
                f"{name.split()[0]} = {port}: the stack of COPS_HOME = '{settings.home}' runs with {before}; "
                "set the variable to that, or `cops down` first"
            )


def down(settings: StackSettings) -> bool:
    """Stop all parts and the supervisor; False if nothing was running."""
    pid = _pid(settings)
    found = is_up(settings)
    if found:
        with suppress(OSError, Error), supervisor(settings.socket) as call:
            call.shutdown()
        deadline = time.monotonic() + DOWN_SECONDS
        while is_up(settings) or (pid and _lives(pid)):
            if time.monotonic() > deadline:
                raise UserError(f"supervisord, process {pid}, does not end: see {settings.logs / 'supervisord.log'}")
            time.sleep(POLL_SECONDS / 3)
    return bool(end_leftovers(settings)) or found


def is_up(settings: StackSettings) -> bool:
    """Whether the supervisor answers."""
    with suppress(OSError, Error), supervisor(settings.socket) as call:
        return bool(call.getPID())
    return False


def status(settings: StackSettings) -> list[Status]:
    """How each part is, now."""
    processes: dict[str, Any] = {}
    with suppress(OSError, Error), supervisor(settings.socket) as call:
        processes = {process["name"]: process for process in call.getAllProcessInfo()}
    return [
        Status(
            part, *_state(processes.get(part.name)), trouble=_trouble(part, settings) if processes else "not started"
        )
        for part in PARTS.values()
    ]


def wait(settings: StackSettings, seconds: float = UP_SECONDS) -> None:
    """Return when all parts answer.

    Raises:
        UserError: a part does not; the last lines of its log have been printed.
    """
    deadline = time.monotonic() + seconds
    pids: dict[str, set[int]] = {name: set() for name in PARTS}
    while True:
        late = [one for one in status(settings) if one.trouble]
        if not late:
            return
        for one in late:
            pids[one.part.name] |= {one.pid} - {0}
            over = time.monotonic() > deadline or not is_up(settings)
            if over or one.state == "FATAL" or len(pids[one.part.name]) > TRIES:
                log = settings.logs / f"{one.part.name}.log"
                print(*_last_lines(log), sep="\n", file=sys.stderr)
                raise UserError(f"{one.part.title} does not come up: {one.trouble}; above, the end of {log}")
        time.sleep(POLL_SECONDS)


def _start(settings: StackSettings) -> None:
    end_leftovers(settings)  # of a supervisor that was killed
    for name, port in settings.ports.items():
        require_free_port(name, port)
    _ports(settings).write_text(json.dumps(settings.ports))
    configuration = settings.folder / "supervisord.conf"
    configuration.write_text(_configuration(settings))
    # The parts run the code that runs here.
    paths = [str(Path(service.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
    done = subprocess.run(  # noqa: S603  # fixed command, no shell
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(f"supervisord does not start: {done.stdout} {done.stderr}")


def _ports(settings: StackSettings) -> Path:
    return settings.folder / "ports.json"


def _prepare(settings: StackSettings) -> None:
    if len(str(settings.socket)) > SOCKET_PATH:
        raise UserError(
            f"COPS_HOME = '{settings.home}': too long for sockets in it; name a folder of at most "
            f"{SOCKET_PATH - len('/stack/supervisor.sock')} characters"
        )
    try:
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.folder.chmod(0o700)
        settings.logs.mkdir(exist_ok=True)
        secret.make(settings)
    except OSError as error:
        raise UserError(
            f"COPS_HOME = '{settings.home}' cannot be written: {error.strerror}; name another folder"
        ) from None


def _configuration(settings: StackSettings) -> str:
    here = Path(__file__).parent
    escaped = {"folder": settings.folder, "socket": settings.socket, "python": sys.executable}
    values = {name: str(value).replace("%", "%%") for name, value in escaped.items()}
    values["user"] = "user = root" if os.geteuid() == 0 else ""
    program = (here / "program.conf").read_text()
    programs = [
        program.format(name=name, priority=number, signal=STOP_SIGNALS.get(name, "TERM"), **values)
        for number, name in enumerate(PARTS)
    ]
    return (here / "supervisord.conf").read_text().format(**values) + "".join(programs)


def _pid(settings: StackSettings) -> int:
    try:
        return int((settings.folder / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _state(process: dict[str, Any] | None) -> tuple[str, int]:
    return (process["statename"], process["pid"]) if process else ("STOPPED", 0)


def _trouble(part: Part, settings: StackSettings) -> str:
    try:
        part.answers(settings)
    except OSError as error:
        return str(error)
    return ""


def _last_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
