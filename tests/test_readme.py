"""What the README says, works."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import cops
from jobs.plan import ScoreTask, Trial, cells
from jobs.settings import Settings
from jobs.spec import Spec, Training
from jobs.train import Trainer
from jobs.trial import compute_score, finish, run
from jobs.workloads import build_model, load_data, scoring_batches

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


def test_deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained network, its ONNX file and the smaller network's answer alike, each smaller than the last."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (code,) = [block for block in blocks("python") if "shrink(" in block]
    monkeypatch.chdir(tmp_path)
    data = load_data("digits")
    model = build_model("convnet", data, seed=0)
    batch = scoring_batches(data, 1, 64, 0)
    mask = cops.prune(model, batch, target="snip", sparsity=0.5, layout="filter", exclude=["13"]).mask
    trainer = Trainer(model, mask, data, Training(epochs=2), seed=0)
    for _ in range(2):
        trainer.epoch()
    mask.save("mask.cops")
    save_file(model.state_dict(), "weights.safetensors")
    names: dict[str, Any] = {}
    exec(code, names)

    inputs = data.ready(data.test[0])
    with torch.no_grad():
        expected = model.eval()(inputs)
        torch.testing.assert_close(names["small"](inputs), expected, rtol=1e-4, atol=1e-4)
    for name in ("pruned.onnx", "small.onnx"):
        session = onnxruntime.InferenceSession(name)
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    assert Path("small.onnx").stat().st_size < 0.8 * Path("pruned.onnx").stat().st_size
    assert float((expected.argmax(1) == data.test[1]).float().mean()) > 0.5


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
