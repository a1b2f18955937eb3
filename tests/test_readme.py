"""What the README says, works."""

import re
from pathlib import Path

import pytest
import yaml

from jobs.plan import ScoreTask, Trial, cells
from jobs.settings import Settings
from jobs.spec import Spec
from jobs.trial import compute_score, finish, run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_method_alone() -> None:
    (code,) = [block for block in blocks("python") if "cops.prune" in block]
    exec(code, {})


def test_the_sweep_file_is_valid() -> None:
    (text,) = [block for block in blocks("yaml") if "grid:" in block]
    spec = Spec.model_validate(yaml.safe_load(text))
    assert len(spec.workloads) == 3


def test_your_own_model_and_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in a sweep file as shown, they are scored, pruned and trained."""
    (code,) = [block for block in blocks("python") if "def stripes" in block]
    (line,) = [block for block in blocks("yaml") if "my_lab:mlp" in block]
    (tmp_path / "my_lab.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = Spec.model_validate(
        {
            "name": "own",
            "workloads": yaml.safe_load(line),
            "grid": {"pairs": [{"target": "snip", "controls": ["grasp"]}], "sparsities": [0.8]},
            "training": {"epochs": 10, "batch_size": 16},
        }
    )
    cell = next(cell for cell in cells(spec) if cell.controls)
    scores = {name: compute_score(spec, ScoreTask(cell.model, cell.data, 0, name)) for name in ("snip", "grasp")}
    result = finish(run(spec, Trial(cell, (1.0,), (0.5,)), scores.__getitem__))
    assert result.metrics["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert result.metrics["validation_accuracy"] > 0.5


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
