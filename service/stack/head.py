"""The head of a Ray cluster of one node, with its server of jobs."""

import os
import shutil
import sys
from pathlib import Path

from jobs.errors import UserError
from jobs.local import HOST
from service.stack.probe import get
from service.stack.settings import StackSettings


def answers(settings: StackSettings) -> None:
    """Whether the server of jobs takes our token; else an OSError."""
    get(f"{settings.dashboard_url}/api/jobs/", {"Authorization": f"Bearer {settings.ray_token.read_text()}"})


def command(settings: StackSettings) -> list[str]:
    """Command line of the head."""
    _own(settings.ray_folder)
    sessions = settings.ray_folder / "r"  # which Ray opens to everybody
    for old in sorted(sessions.glob("session_2*"))[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    logs = settings.logs / "ray"
    logs.unlink(missing_ok=True)
    logs.symlink_to(sessions / "session_latest" / "logs")
    ports = {
        "port": settings.stack_ray_port,
        "dashboard-port": settings.stack_dashboard_port,
        "ray-client-server-port": settings.inner(8),
        "node-manager-port": settings.inner(9),
        "object-manager-port": settings.inner(10),
        "dashboard-agent-listen-port": settings.inner(11),
        "dashboard-agent-grpc-port": settings.inner(12),
        "runtime-env-agent-port": settings.inner(13),
        "metrics-export-port": settings.inner(14),
        "min-worker-port": 0,  # any that is free
        "max-worker-port": 0,
    }
    options = {"node-ip-address": HOST, "dashboard-host": HOST, "include-dashboard": "true", **ports}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return [*command, f"--temp-dir={sessions}", *(f"--{name}={value}" for name, value in options.items())]


def _own(folder: Path) -> None:
    """A folder in the temp folder, where others may have been faster."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o077:
        raise UserError(f"{folder} is another user's, or open to others: remove it")
