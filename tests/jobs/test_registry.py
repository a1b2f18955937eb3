"""The model registry: names, what a version holds, and which one is the champion. Real networks, masks and MLflow."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from cops import Mask
from cops.network import prunable
from jobs.champions import LONGEST, Candidate, candidates, model_name
from jobs.network import Origin, Trained
from jobs.plan import Cell, ScoreTask
from jobs.search import Search
from jobs.spec import Spec
from jobs.tracking import Session, Tracker
from jobs.tracking.registry import Registry, store
from jobs.trial import compute_score, finish, run
from jobs.workloads import build_model, load_data
from tests.conftest import SMOKE

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own database code
CELL = Cell("convnet", "digits", ("snip",), ("grasp",), 0.95)
WEIGHTED = replace(CELL, target=("snip", "synflow"), controls=("grasp", "ntk_sap"))
SPEC = Spec.load(SMOKE)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (CELL, "convnet.digits.snip_grasp.0.95"),
        (WEIGHTED, "convnet.digits.snip+synflow_grasp+ntk_sap.0.95"),
        (replace(CELL, controls=(), target=("snip", "grasp")), "convnet.digits.snip+grasp.0.95"),
        (replace(CELL, rounds=100, layout="2:4", seed=3), "convnet.digits.snip_grasp.0.95.x100.2to4.seed3"),
        (replace(CELL, layout="filter"), "convnet.digits.snip_grasp.0.95.filter"),
        (replace(CELL, model="resnet20(width=0.5)"), "resnet20-width=0.5.digits.snip_grasp.0.95"),
        (replace(CELL, model="my_lab.nets:Net"), "my_lab.nets-Net.digits.snip_grasp.0.95"),
    ],
)
def test_a_name_can_be_read(cell: Cell, name: str) -> None:
    assert model_name(SPEC, cell) == name


def test_samples_are_part_of_a_name() -> None:
    """Accuracies on fewer validation samples must not win against those on all."""
    fewer = Spec.model_validate(SPEC.model_dump(mode="json") | {"samples": 32, "seed": 2})
    assert model_name(fewer, CELL) == "convnet.digits.snip_grasp.0.95.seed2.samples32"


def test_names_are_legal_and_tell_cells_apart(tracker: Tracker) -> None:
    models = [
        "convnet",
        "a.b:C",
        "a.b:C.D",
        "a:b",
        "net:f(x=1)",
        'net:f(x="1")',
        "net:f(x=-1)",
        "net:f(x=1, y=2)",
        'net:f(x="1, y=2")',
        'net:f(path="/data/É?#%@.zip")',
        'net:f(path="/data/È?#%@.zip")',
        f'net:f(path="{"long/" * 60}a")',
        f'net:f(path="{"long/" * 60}b")',
    ]
    cells = [
        replace(cell, model=model, layout=layout)
        for model in models
        for cell in (CELL, WEIGHTED)
        for layout in ("unstructured", "1:4")
    ]
    names = [model_name(SPEC, cell) for cell in cells]
    assert len(set(names)) == len(cells)
    assert all(re.fullmatch(r"[\w.+=-]+", name, re.ASCII) and len(name) <= LONGEST + 9 for name in names)
    client = MlflowClient(tracker.uri)
    for name in names[:: len(names) // 13]:
        client.create_registered_model(name)
        client.delete_registered_model(name)


@dataclass
class Swept:
    session: Session
    found: list[Candidate]
    runs: dict[str, str]  # of the trials, by key


def sweep(tracker: Tracker, **changes: Any) -> Swept:
    """A small sweep, without Ray."""
    small = {"samples": 64, "training": {"epochs": 1}, "baselines": [], "search": {"trials": 1}}
    spec = Spec.model_validate(SPEC.model_dump(mode="json") | small | changes)
    session, search, runs = tracker.start_sweep(spec), Search(spec), {}

    @cache
    def score(model: str, name: str) -> dict[str, torch.Tensor]:
        return compute_score(spec, ScoreTask(model, "digits", 0, name))

    while (trial := search.ask()) is not None:
        started = tracker.start_trial(spec, session, trial)
        model = trial.cell.model
        result = finish(run(spec, trial, lambda name, model=model: score(model, name)))  # type: ignore[misc]
        tracker.finish_trial(spec, session, trial, started, result, [])
        search.tell(trial, result.metrics)
        runs[trial.name] = started.artifacts.removeprefix("file://")
    return Swept(session, candidates(search), runs)


def versions(tracker: Tracker, name: str) -> dict[str, Mapping[str, str]]:
    return {str(one.version): one.tags for one in MlflowClient(tracker.uri).search_model_versions(f"name = '{name}'")}


def champion(tracker: Tracker, name: str) -> str:
    return str(MlflowClient(tracker.uri).get_model_version_by_alias(name, "champion").version)


def judged(one: Candidate, validation: float, runs: int = 1) -> Candidate:
    return replace(one, standing=replace(one.standing, validation=validation, runs=runs))


@pytest.fixture(scope="module")
def swept(tracker: Tracker) -> Swept:
    return sweep(tracker, name="first")


def test_only_a_masks_first_confirmation_leaves_its_network(swept: Swept, tracker: Tracker) -> None:
    more = sweep(tracker, name="baselines", baselines=["dense", "magnitude"], confirmations=2, ablations=["reinit"])
    leave = {name for name, folder in more.runs.items() if Path(folder, "weights.safetensors").exists()}
    assert len(more.runs) == 13
    assert leave == {"magnitude @0.9 #1"} | {n for n in more.runs if n.startswith("snip") and re.search(r"\d #1", n)}
    assert len(leave) == 2
    (one,) = swept.found
    assert one.trial not in {candidate.trial for candidate in more.found if candidate.mask != one.mask}


def test_the_same_trial_leaves_the_same_bytes(swept: Swept, tracker: Tracker) -> None:
    """Removed weights are exactly zero; buffers are there."""
    again = sweep(tracker, name="again")
    (name,) = (name for name in swept.runs if name.endswith("#1"))
    first, second = (Path(one.runs[name], "weights.safetensors") for one in (swept, again))
    assert first.read_bytes() == second.read_bytes()
    trained = Trained.load(first)
    mask = Mask.load(Path(swept.runs[name.removesuffix(" #1")], "mask.cops"))
    assert all(bool((trained.state[layer][~kept] == 0).all()) for layer, kept in mask.kept.items())
    assert all(bool((trained.state[layer][kept] != 0).any()) for layer, kept in mask.kept.items())
    assert trained.state.keys() == build_model("convnet", load_data("digits"), 0).state_dict().keys()
    assert any("running_mean" in name for name in trained.state)


def test_a_version_is_the_trained_network_and_says_what_it_is(
    swept: Swept, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = swept.found
    registry = Registry(tracker.uri)
    lines = list(registry.register(swept.session, swept.found))
    assert lines == [f"model registry: {tracker.uri}/#/models (networks: 1, champions: 1)"]
    assert list(registry.register(swept.session, swept.found)) == lines
    assert one.name == "convnet.digits.snip_grasp.0.9.samples64"
    tags = versions(tracker, one.name)["1"]
    assert len(versions(tracker, one.name)) == 1
    assert tags["cops.mask"] == one.mask
    assert float(tags["validation_accuracy"]) == one.standing.validation
    assert tags["cops.sweep_run"] == swept.session.run

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # MLflow looks for pickles itself, then
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    loaded = mlflow.pytorch.load_model(f"models:/{one.name}@champion", dst_path=str(tmp_path))
    (name,) = (name for name in swept.runs if name.endswith("#1"))
    network = Trained.load(Path(swept.runs[name], "weights.safetensors")).build()
    inputs = load_data("digits").test[0]
    with torch.no_grad():
        for size in (1, 3, len(inputs)):
            assert torch.equal(loaded(inputs[:size]), network(inputs[:size]))
    kept = Mask.load(tmp_path / "mask.cops").kept
    weights = dict(loaded.named_parameters())
    assert all(torch.equal(weights[layer] != 0, prunable(network)[layer] != 0) for layer in kept)
    assert all(bool((weights[layer][~places] == 0).all()) for layer, places in kept.items())
    about = mlflow.models.Model.load(tmp_path).metadata
    assert about is not None
    assert about["mask"] == one.mask
    assert about["certificate"].keys() == {
        *("target_kept", "gap", "multiplier_grasp", "control_value_grasp", "control_slack_grasp")
    }
    assert about["settings"] == json.loads(json.dumps(Mask.load(tmp_path / "mask.cops").settings))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth", ".pt")]


def test_the_champion_changes_only_for_a_better_one(swept: Swept, tracker: Tracker) -> None:
    (first,) = swept.found
    longer = sweep(tracker, name="longer", training={"epochs": 2})
    (second,) = longer.found
    assert first.name == second.name
    assert first.recipe != second.recipe
    registry = Registry(tracker.uri)

    def after(one: Candidate) -> str:
        list(registry.register(longer.session, [one]))
        return champion(tracker, one.name)

    assert after(first) == "1"
    accuracy = first.standing.validation
    assert after(judged(second, accuracy)) == "1"
    assert after(judged(second, accuracy + 0.1, runs=2)) == "2"
    assert versions(tracker, first.name)["2"]["confirmations"] == "2"
    assert after(judged(second, accuracy - 0.1, runs=2)) == "2"
    assert after(first) == "2"
    assert len(versions(tracker, first.name)) == 2


def test_the_champion_changes_when_its_own_figure_falls(swept: Swept, tracker: Tracker) -> None:
    (first,) = sweep(tracker, name="falls", seed=7).found
    (second,) = sweep(tracker, name="falls-longer", seed=7, training={"epochs": 2}).found
    registry = Registry(tracker.uri)

    def after(one: Candidate) -> str:
        list(registry.register(swept.session, [one]))
        return champion(tracker, one.name)

    assert after(judged(first, 0.9)) == "1"
    assert after(judged(second, 0.8)) == "1"
    assert after(judged(first, 0.8, runs=2)) == "1"
    assert after(judged(first, 0.7, runs=3)) == "2"
    assert after(judged(second, 0.6, runs=2)) == "1"


def test_a_network_that_cannot_be_kept_is_told_of_and_the_others_are(
    tracker: Tracker, capfd: pytest.CaptureFixture[str]
) -> None:
    models = ["tests.jobs.networks:branching", "lenet300"]
    mixed = sweep(tracker, name="mixed", workloads=[{"model": model, "data": "digits"} for model in models])
    told, summary = Registry(tracker.uri).register(mixed.session, mixed.found)
    assert told.startswith("not in the model registry: tests.jobs.networks-branching.digits.snip_grasp.0.9.samples64: ")
    assert "\n" not in told
    assert capfd.readouterr() == ("", "")  # torch.export has much to say
    assert "(networks: 1, champions: 1)" in summary
    assert len(versions(tracker, "lenet300.digits.snip_grasp.0.9.samples64")) == 1
    assert not versions(tracker, mixed.found[0].name)


def test_a_network_that_fits_one_batch_size_alone_is_refused(tmp_path: Path) -> None:
    name = "tests.jobs.networks:branching(on_size=true)"
    data = load_data("digits")
    trained = Trained.of(build_model(name, data, 0), Origin.of(name, 0, data, "0" * 32))
    with pytest.raises(Exception, match=r"batch|size|shape"):
        store(trained, tmp_path / "model", {})


def test_damaged_weights_are_refused(tracker: Tracker) -> None:
    damaged = sweep(tracker, name="damaged", seed=5)
    (file,) = (Path(folder, "weights.safetensors") for name, folder in damaged.runs.items() if name.endswith("#1"))
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    (told,) = Registry(tracker.uri).register(damaged.session, damaged.found)
    assert "weights.safetensors of its first confirmation is damaged" in told
    assert not versions(tracker, damaged.found[0].name)
