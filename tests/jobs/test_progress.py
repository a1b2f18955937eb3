"""What is noted of a sweep with its run, and read again by those who watch it."""

import pytest

from jobs.identity import sweep_key
from jobs.progress import summary
from jobs.search import Search
from jobs.tracking import Tracker
from tests.jobs.test_search import spec_with

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own database code
SPEC = spec_with(name="watched")


def test_progress_is_read_as_it_was_noted(tracker: Tracker) -> None:
    session = tracker.start_sweep(SPEC)
    search = Search(SPEC)
    tracker.note(session, summary(search), {"hours": 1.5})
    (found,) = tracker.sweeps(sweep_key(SPEC))
    assert (found.run, found.session, found.status, found.control) == (session.run, session.id, "RUNNING", "")
    assert found.spent == {"hours": 1.5}
    assert found.progress["planned"] == search.planned > 0
    assert sum(found.progress["counts"].values()) == search.planned
    assert found.progress["session"] == session.id

    search.close("stopped", "KILLED")
    tracker.end_sweep(session, "KILLED", summary(search))
    (found,) = tracker.sweeps(sweep_key(SPEC))
    assert found.status == "KILLED"
    assert found.ended is not None
    assert found.progress["closed"] == "stopped"
    assert found.spent == {"hours": 1.5}


def test_a_large_sweep_keeps_its_first_cells(tracker: Tracker) -> None:
    """A tag holds 8,000 characters, and MLflow would cut it off in the middle."""
    spec = spec_with(name="large")
    session = tracker.start_sweep(spec)
    best = [{"name": f"snip|grasp @0.{at}", "validation_accuracy": at / 1000} for at in range(1000)]
    tracker.note(session, {"best": best, "planned": 9})
    (found,) = tracker.sweeps(sweep_key(spec))
    kept = found.progress["best"]
    assert 50 < len(kept) < 1000
    assert kept == best[: len(kept)]
    assert found.progress["planned"] == 9
