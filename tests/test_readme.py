"""What the README says, works."""

import re
from pathlib import Path

import pytest
import yaml

from jobs.settings import Settings
from jobs.spec import Spec

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_method_alone() -> None:
    (code,) = [block for block in blocks("python") if "cops.prune" in block]
    exec(code, {})


def test_the_sweep_file_is_valid() -> None:
    (text,) = blocks("yaml")
    spec = Spec.model_validate(yaml.safe_load(text))
    assert len(spec.workloads) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweep_files_are_valid(path: Path) -> None:
    assert Spec.load(path).name == path.stem


def test_settings_are_all_there_with_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COPS_MLFLOW_PORT", "COPS_API_PORT"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.read()
    assert f"| `COPS_MLFLOW_PORT` | {settings.mlflow_port} |" in TEXT
    assert f"| `COPS_API_PORT` | {settings.api_port} |" in TEXT


def test_files_and_make_targets_that_it_names_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z]+)", TEXT, re.MULTILINE)) <= targets
    for path in re.findall(r"\bjobs/[\w./]+\.(?:yaml|py)\b", TEXT):
        assert (ROOT / path).exists(), path
