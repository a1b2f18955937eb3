"""Servers are killed while a sweep runs, and stay away for a while: it goes on, and nothing is lost or done twice."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from jobs.scorestore import ScoreStore
from jobs.storage import Studies
from jobs.tracking import artifacts
from service.stack import postgres
from service.stack.settings import BUCKET
from tests.chaos.count import right
from tests.chaos.servers import outages
from tests.jobs.test_storage import ended_trials
from tests.service.conftest import Stack
from tests.stack import held_down


@pytest.mark.timeout(290)
def test_a_sweep_survives_every_server(stack: Stack, tmp_path: Path) -> None:
    found = outages(stack.settings, tmp_path, seconds=4, trials=5)
    assert (found["kills"], found["starts"]) == (3, 1)
    assert found["finished"] > 40
    assert right(found), found


def test_files_and_scores_wait_for_their_server(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "mask.cops").write_bytes(b"mask")
    store, where = ScoreStore(f"s3://{BUCKET}/waiting"), f"s3://{BUCKET}/waiting/{tmp_path.name}"
    vectors = {"weight": torch.ones(3)}
    with ThreadPoolExecutor() as pool:
        with held_down(stack.settings, "s3"):
            upload, put = pool.submit(artifacts.upload, where, tmp_path), pool.submit(store.put, "key", vectors)
            reading = pool.submit(store.get, "other")
            time.sleep(3)
            assert not upload.done()
            assert not put.done()
            assert not reading.done()
        upload.result(timeout=120)
        put.result(timeout=120)
        assert reading.result(timeout=120) is None
    assert stack.objects()[f"waiting/{tmp_path.name}/mask.cops"] == b"mask"
    found = store.get("key")
    assert found is not None
    assert torch.equal(found["weight"], vectors["weight"])


def test_a_database_that_was_away_gets_each_trial_once(stack: Stack) -> None:
    studies = Studies(stack.settings.database_url(postgres.STUDIES))
    studies.load("away", ["maximize"])
    trials = ended_trials(["maximize"])
    studies.keep("away", trials[0])
    with held_down(stack.settings, "postgres"):
        for trial in trials[1:]:
            studies.keep("away", trial)
        time.sleep(3)
    studies.close()
    stored = Studies(stack.settings.database_url(postgres.STUDIES))
    assert [one.user_attrs for one in stored.load("away", ["maximize"])] == [one.user_attrs for one in trials]
    stored.close()
