"""What we write into Optuna's tables is what Optuna itself writes and reads."""

import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from jobs.storage import STORE_SECONDS, Direction, Studies


def ended_trials(directions: list[Direction]) -> list[FrozenTrial]:
    """Trials of all kinds, as they end in a study in memory."""
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True))
    study.enqueue_trial({"alpha": 0.25})
    ended = []
    for number in range(6):
        trial = study.ask({"alpha": optuna.distributions.FloatDistribution(0, 1, step=0.01)})
        trial.set_user_attr("cops.trial", f"{number:032x}")
        if len(directions) == 1:
            trial.report(0.1 * number, 1)
            trial.report(math.inf if number == 2 else math.nan, 2)
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 3]
        values = [0.1 * number, -math.inf][: len(directions)] if state is TrialState.COMPLETE else None
        ended.append(study.tell(trial, values, state))
    return ended


def told(trial: FrozenTrial) -> dict[str, object]:
    """All of a trial but its row; as text, where NaN equals NaN."""
    shown = {name: getattr(trial, name) for name in ("number", "state", "values", "params", "distributions")}
    shown |= {name: getattr(trial, name) for name in ("user_attrs", "system_attrs", "datetime_start")}
    return shown | {"complete": trial.datetime_complete, "steps": repr(trial.intermediate_values)}


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_rows_are_as_optuna_writes_them(tmp_path: Path, directions: list[Direction]) -> None:
    url, ended = f"sqlite:///{tmp_path / 'studies.db'}", ended_trials(directions)
    theirs = optuna.create_study(study_name="theirs", storage=url, directions=directions)
    theirs.add_trials(ended)
    for part in (ended[:4], ended[4:]):  # numbers go on
        studies = Studies(url)
        studies.load("ours", directions)
        for trial in part:
            studies.keep("ours", trial)
        studies.close()
    ours = optuna.load_study(study_name="ours", storage=url)
    assert [told(trial) for trial in ours.trials] == [told(trial) for trial in theirs.trials]
    assert [trial.number for trial in ours.trials] == list(range(6))
    if len(directions) == 1:
        assert ours.best_trial.number == theirs.best_trial.number


def test_a_study_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    studies = Studies(f"sqlite:///{tmp_path / 'studies.db'}")
    studies.keep("never loaded", ended_trials(["maximize"])[0])
    studies.close()
    assert "were not stored" in caplog.text


def test_what_could_not_be_stored_is_stored_later(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    studies = Studies(f"sqlite:///{file}")
    studies.load("ours", ["maximize"])
    with closing(sqlite3.connect(file)) as other:
        other.execute("ALTER TABLE trials RENAME TO away")
        for trial in ended_trials(["maximize"]):
            studies.keep("ours", trial)
        time.sleep(3 * STORE_SECONDS)
        other.execute("ALTER TABLE away RENAME TO trials")
    studies.close()
    ours = optuna.load_study(study_name="ours", storage=f"sqlite:///{file}")
    assert [trial.number for trial in ours.trials] == list(range(6))
