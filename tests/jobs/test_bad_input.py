"""Bad input: one line that names key, value and remedy, exit code 2, nothing started, nothing written."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.__main__ import main
from jobs.errors import UserError
from jobs.spec import Spec
from tests.conftest import SMOKE, free_port

GOOD = yaml.safe_load(SMOKE.read_text())


def damaged(path: str, value: Any, whole: bool = False) -> dict[str, Any]:
    """The smoke sweep, with all its defaults if it is to be `whole`, with one key, `a.b[0].c`, set to `value`."""
    tree: Any = Spec.load(SMOKE).model_dump(mode="json") if whole else yaml.safe_load(SMOKE.read_text())
    parts = path.replace("[", ".[").split(".")
    at = tree
    for part in parts[:-1]:
        at = at[int(part[1:-1])] if part.startswith("[") else at.setdefault(part, {})
    at[int(parts[-1][1:-1]) if parts[-1].startswith("[") else parts[-1]] = value
    return dict(tree)


CASES = {
    "unknown key": (damaged("sparsities", [0.9]), ["unknown key 'sparsities'", "known are"]),
    "misspelt nested key": (damaged("training.epoch", 3), ["'training.epoch'", "did you mean 'training.epochs'"]),
    "unknown score": (damaged("grid.pairs[0].target", "snap"), ["grid.pairs[0].target", "'snap'", "'snip'"]),
    "unknown control": (damaged("grid.pairs[0].controls", ["grap"]), ["controls[0]", "'grap'", "'grasp'"]),
    "unknown baseline": (damaged("baselines", ["magnitud"]), ["baselines[0]", "'magnitud'", "'magnitude'"]),
    "unknown model": (damaged("workloads[0].model", "vgg"), ["workloads[0].model", "'vgg'", "convnet"]),
    "unknown data": (damaged("workloads[0].data", "mnists"), ["workloads[0].data", "'mnists'", "digits"]),
    "sparsity of 1": (damaged("grid.sparsities", [0.9, 1]), ["grid.sparsities[1]", "1", "less than 1"]),
    "sparsity of 0": (damaged("grid.sparsities", [0]), ["grid.sparsities[0]", "0", "greater than 0"]),
    "sparsity in percent": (damaged("grid.sparsities", [90]), ["grid.sparsities[0]", "90", "less than 1"]),
    "sparsity NaN": (damaged("grid.sparsities", [float("nan")]), ["grid.sparsities[0]", "nan"]),
    "sparsity twice": (damaged("grid.sparsities", [0.9, 0.9]), ["grid", "0.9 is named twice"]),
    "empty grid": (damaged("grid.pairs", []), ["grid.pairs", "at least 1"]),
    "no sparsities": (damaged("grid.sparsities", []), ["grid.sparsities", "at least 1"]),
    "no controls": (damaged("grid.pairs[0].controls", []), ["grid.pairs[0].controls", "at least 1"]),
    "no trials": (damaged("search.trials", 0), ["search.trials", "0", "greater than or equal to 1"]),
    "unknown sampler": (damaged("search.sampler", "tpee"), ["search.sampler", "'tpee'", "'tpe'"]),
    "target as its own control": (
        damaged("grid.pairs[0].controls", ["snip"]),
        ["grid.pairs[0]", "cannot control itself"],
    ),
    "too small a share": (damaged("resources.cpu", 1e-9), ["resources.cpu = 1e-09", "greater than or equal to 0.01"]),
    "more cores than there are": (damaged("resources.cpu", 5000), ["resources.cpu = 5000", "this machine has"]),
    "a name of two lines": (damaged("workloads[0].model", "a\nb"), ["workloads[0].model", r"'a\nb'"]),
    "a likeness in the last part alone": (
        damaged("grid.pairs[0].alfa", 1),
        ["unknown key 'grid.pairs[0].alfa': known"],
    ),
    "a word for a list": (damaged("grid.sparsities", 0.9), ["grid.sparsities = 0.9", "should be a list"]),
    "a list for keys": (damaged("training", [1]), ["training = [1]", "should hold keys and values"]),
    "nothing": (damaged("grid.sparsities", None), ["grid.sparsities = None", "should be a list"]),
    "true for a number": (damaged("search.trials", True), ["search.trials = True", "not true or false"]),
    "true for a fraction": (damaged("grid.sparsities", [True]), ["grid.sparsities[0] = True", "not true or false"]),
    "a number beyond sense": (damaged("training.epochs", 10**30), ["training.epochs", "less than or equal to"]),
    "negative confirmations": (damaged("confirmations", -1), ["confirmations", "-1"]),
    "a word for a number": (damaged("training.epochs", "many"), ["training.epochs", "'many'", "integer"]),
    "bad name": (damaged("name", "my sweep/1"), ["name", "'my sweep/1'"]),
    "mistyped key": (
        {("workload" if key == "workloads" else key): value for key, value in GOOD.items()},
        ["unknown key 'workload'", "'workloads'"],  # rather than that the right one is missing
    ),
    "missing key": ({key: value for key, value in GOOD.items() if key != "grid"}, ["'grid' is missing"]),
}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], home: Path) -> str:
    """The one line that the command says."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert not home.exists()
    return said.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("case", CASES)
def test_damaged_sweep_file(case: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, words = CASES[case]
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(tree))
    line = refused([str(file)], capsys, home)
    for word in (*([] if "cores" in case else [str(file)]), *words):
        assert word in line


def leaves(tree: Any, path: str = "") -> Iterator[str]:
    """Paths, `a.b[0].c`, of all plain values of a tree."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(tree, list) and tree:
        for index, inner in enumerate(tree):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path


EVERY_KEY = list(leaves(Spec.load(SMOKE).model_dump(mode="json")))


@pytest.mark.parametrize(
    "value", [{"no": "such"}, [["list"]], "\x00 word", -1e300], ids=["keys", "list", "word", "number"]
)
@pytest.mark.parametrize("path", EVERY_KEY)
def test_every_key_damaged_in_every_way(path: str, value: Any) -> None:
    """Whatever stands in its place, it is named, and nothing else is."""
    with pytest.raises(UserError) as caught:
        Spec.of(damaged(path, value, whole=True), "sweep.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert path in line


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: a\nname: b", "key 'name' stands twice"),
        (f"seed: {'9' * 5000}", "not YAML"),
        ("seed: 2020-13-45", "not YAML"),
        ("[" * 3000, "not YAML"),
        ("name: [", "not YAML"),
        ("- 1", "keys and values"),
        ("", "keys and values"),
    ],
)
def test_not_a_sweep_file(text: str, word: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    assert word in refused([str(file)], capsys, home)


def test_missing_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["nowhere.yaml"], capsys, home)
    assert "'nowhere.yaml' does not exist" in line
    assert "demo.yaml" in line


def test_folder_for_a_file(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in refused([str(tmp_path)], capsys, home)


def test_port_in_use(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("COPS_MLFLOW_PORT", str(port))
    with socket.create_server(("127.0.0.1", port)):
        line = refused([str(SMOKE)], capsys, home)
    assert f"port {port} is in use" in line
    assert "COPS_MLFLOW_PORT" in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("COPS_HOME", "/proc", "cannot be written"),
        ("MLFLOW_TRACKING_URI", "foo:///x", "http(s) address"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", "no MLflow server answers"),
        ("COPS_API_PORT", "5050", "both 5050"),
        ("COPS_MLFLOW_PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_environment_that_cannot_work(
    name: str, value: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("COPS_MLFLOW_PORT", "5050" if name == "COPS_API_PORT" else str(free_port()))
    monkeypatch.setenv(name, value)
    assert main([str(SMOKE)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert name in line
    assert words in line
    assert not home.exists()


def test_bad_environment(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPS_MLFLOW_PORT", "http")
    line = refused([str(SMOKE)], capsys, home)
    assert "COPS_MLFLOW_PORT" in line
    assert "'http'" in line


@pytest.mark.parametrize(("folder", "words"), [("nowhere", "does not exist"), ("empty", "has no images in train/")])
def test_no_images(folder: str, words: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    data = {"name": "image_folder", "options": {"path": str(tmp_path / folder)}}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(damaged("workloads[0].data", data)))
    line = refused([str(file)], capsys, home)
    assert "workloads[0].data: data set" in line
    assert words in line
    assert "train/CLASS/*" in line
