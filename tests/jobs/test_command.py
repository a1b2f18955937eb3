"""The command's previews: they print and run nothing."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jobs.__main__ import main
from jobs.spec import Spec
from service.cli import app
from tests.conftest import SMOKE


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_dry_run_prints_counts_and_runs_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SMOKE), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "sweep 'smoke' would run" in said
    assert "CPU core hours" in said
    assert not home.exists()


def test_dry_run_tells_programs_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SMOKE), "--dry-run", "--json"]) == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert found.pop("hours") > 0
    assert found == {
        "name": "smoke",
        "cells": 3,
        "baselines": 2,
        "search": 4,
        "confirmation": 3,
        "ablation": 0,
        "scores": 3,
        "rounds": 0,
        "unit": "CPU core hours",
    }
    done = CliRunner().invoke(app, ["sweep", str(SMOKE), "--dry-run", "--json"])
    assert (done.exit_code, done.stdout) == (0, said)


def test_explain_prints_a_sweep_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain"]) == 0
    (tmp_path / "defaults.yaml").write_text(capsys.readouterr().out)
    assert Spec.load(tmp_path / "defaults.yaml").training == Spec.model_fields["training"].default
    assert main([str(SMOKE), "--explain"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == Spec.load(SMOKE).model_dump(mode="json")


def test_the_console_command_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schema"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["title"] == "Spec"
    done = CliRunner().invoke(app, ["sweep", "--schema"])
    assert done.exit_code == 0
    assert done.stdout == said
    assert CliRunner().invoke(app, ["sweep", "--dry-run", str(SMOKE)]).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["--smoke"], [str(SMOKE), "--smoke", "--dry-run"], ["--dryrun", "x"], [str(SMOKE), "--json"]],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ({"model": "no_lab:Net", "data": "digits"}, "workloads[1]: model 'no_lab:Net': importing no_lab fails"),
        ({"model": "convnet", "data": "json:dump"}, "workloads[1]: data set 'json:dump': key 'obj' is missing"),
    ],
)
def test_what_cannot_be_imported_is_said_before_anything_starts(
    workload: dict[str, str], words: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(SMOKE.read_text())
    tree["workloads"].append(workload)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    assert main([str(tmp_path / "sweep.yaml")]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not home.exists()
