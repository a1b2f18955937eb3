"""The shipped sweep files for GPUs: they can be planned anywhere, by the command, without their data."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from jobs.estimate import Estimate, dry_run, estimates
from jobs.plan import cells
from jobs.spec import Spec
from tests.conftest import ROOT

FOR_GPUS = [path for path in sorted((ROOT / "jobs" / "sweeps").glob("*.yaml")) if Spec.load(path).resources.gpu]
PUBLISHED = {"dense", "random", "magnitude", "snip", "grasp", "synflow x100", "force x100"}


@pytest.mark.parametrize("path", FOR_GPUS, ids=lambda path: path.stem)
def test_what_it_costs_is_told_without_its_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.downloads._fetched", lambda *_: pytest.fail("a dry run downloads nothing"))
    console = Console(width=140)
    with console.capture() as capture:
        console.print(dry_run(Spec.load(path)))
    stated = re.search(rf"`{path.stem}\.yaml` .* (\S+) \|\n", (ROOT / "README.md").read_text())
    assert stated is not None
    assert re.search(rf"GPU hours +{re.escape(stated[1])} ", capture.get())
    assert "10 TFLOP/s per GPU" in capture.get()


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tinyimagenet"])
def test_the_baselines_are_those_of_the_literature(data: str) -> None:
    folder = ROOT / "jobs" / "sweeps"
    found = [cell for name in (data, f"{data}-rounds") for cell in cells(Spec.load(folder / f"{name}.yaml"))]
    assert {cell.method for cell in found if not cell.tunable} == PUBLISHED
    for method in {cell.method for cell in found} - {"dense"}:
        assert {cell.sparsity for cell in found if cell.method == method} == {0.9, 0.95, 0.98, 0.99, 0.995}


def test_a_gpu_computes_or_waits() -> None:
    """A large network is bound by its operations, a small one by starting its kernels: then others share the GPU."""
    large = Estimate(1, 0, 0, rounds=0, operations=3.6e16, calls=1e6)
    small = Estimate(1, 0, 0, rounds=0, operations=3.6e14, calls=1.2e7)
    assert large.hours(1) == large.hours(0.1) == pytest.approx(1)
    assert small.hours(1) == pytest.approx(1)
    assert small.hours(0.25) == pytest.approx(0.25)
    assert small.hours(0) == pytest.approx(10)


def test_hours_of_a_known_network_are_of_the_right_size() -> None:
    """VGG-16 on CIFAR-10, 160 epochs: half an hour on a GPU such as a V100; ResNet-20 no less than a third of that."""
    every = estimates(Spec.load(ROOT / "jobs" / "sweeps" / "cifar10.yaml"))
    hours = {cell.model: one.hours(1) / one.trials for cell, one in every.items() if cell.method == "dense"}
    assert 0.3 < hours["vgg16"] < 0.7
    assert 0.1 < hours["resnet20"] < 0.4
