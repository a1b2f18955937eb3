"""What several tests need: free ports, and one smoke sweep that really ran."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

# The suite asserts no timing, and a busy machine takes any.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# The networks are small and workers share the cores: more threads would only wait for one another.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "jobs" / "sweeps" / "smoke.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Home:
    """An embedded MLflow's folder and ports, as environment variables."""

    path: Path
    mlflow_port: int
    api_port: int

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COPS_", "MLFLOW_", "RAY_"))}
        return kept | {
            "COPS_HOME": str(self.path),
            "COPS_MLFLOW_PORT": str(self.mlflow_port),
            "COPS_API_PORT": str(self.api_port),
            "RAY_USAGE_STATS_ENABLED": "0",
        }


def new_home(path: Path) -> Home:
    return Home(path, free_port(), free_port())


def run_command(home: Home, *arguments: str, timeout: float = 240, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` from the repository as a user would."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=home.environment | extra,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True)
class Swept:
    """A finished smoke sweep."""

    home: Home
    output: str


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The smoke sweep, run once by its command on a local Ray; real digits, real training, real MLflow."""
    home = new_home(tmp_path_factory.mktemp("swept") / "home")
    done = run_command(home, "-m", "jobs", str(SMOKE))
    assert done.returncode == 0, done.stdout + done.stderr
    return Swept(home, done.stdout)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the golden figures: COPS_SHARED, or `shared` beside the checkout."""
    given = os.environ.get("COPS_SHARED")
    folder = Path(given) if given else ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden figures: '{folder}' has no folder 'golden'; set COPS_SHARED to the folder that has")
    return folder
