"""Sweeps through the API of a real stack: submitted, followed, stopped, resumed; and how their states are told."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.request import urlopen

import httpx
import pytest
import yaml

from jobs.tracking import SweepRun
from service.launcher import Job
from service.sweeps import status
from tests.conftest import SMOKE
from tests.service.conftest import Stack

SECONDS = 200
NOW = 1_000_000.0
RUN = SweepRun("r", "1", "0" * 32, "s", "RUNNING", NOW - 500, None, "mine", "", {}, {"session": "mine", "at": NOW - 3})
JOB = Job(f"cops-{'0' * 32}-1", "0" * 32, "s", "RUNNING", "", NOW - 510, None)
OVER = replace(JOB, status="FAILED", ended=NOW - 100)


@pytest.mark.parametrize(
    ("run", "job", "state"),
    [
        (None, replace(JOB, status="PENDING", started=None), "pending"),
        (None, replace(OVER), "failed"),
        (None, replace(OVER, status="STOPPED"), "stopped"),
        (RUN, JOB, "running"),
        (RUN, None, "running"),  # by a driver that is no job
        (RUN, OVER, "running"),  # likewise, after a job
        (replace(RUN, control="stop"), JOB, "stopping"),
        (replace(RUN, progress={}), JOB, "pending"),
        (replace(RUN, session="next"), JOB, "pending"),
        (replace(RUN, progress={"session": "mine", "at": NOW - 60}), None, "lost"),
        (RUN, replace(OVER, ended=NOW - 2), "lost"),  # its driver has just been killed
        (replace(RUN, status="FINISHED", ended=NOW - 9), replace(OVER, status="SUCCEEDED"), "finished"),
        (replace(RUN, status="KILLED", ended=NOW - 9), OVER, "stopped"),
        (replace(RUN, status="KILLED", ended=NOW - 9), JOB, "stopped"),  # its job is about to end
        (replace(RUN, status="KILLED", ended=NOW - 900), JOB, "pending"),  # resumed
        (replace(RUN, status="FAILED", ended=NOW - 9), None, "failed"),
    ],
)
def test_a_sweeps_state(run: SweepRun | None, job: Job | None, state: str) -> None:
    assert status(run, job, None, NOW).state == state


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.settings.api_url, timeout=60) as client:
        yield client


def until(client: httpx.Client, id_: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while True:
        found: dict[str, Any] = client.get(f"/v1/sweeps/{id_}").json()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


def test_submit_follow_stop_resume(client: httpx.Client) -> None:
    """One sweep all the way; the first part lasts long enough to be stopped in."""
    tree = yaml.safe_load(SMOKE.read_text()) | {"name": "by-api", "search": {"trials": 3}, "baselines": ["random"]}
    tree |= {"training": {"epochs": 12}, "confirmations": 1}
    answer = client.post("/v1/sweeps", json=tree)
    assert answer.status_code == 202, answer.text
    id_ = answer.json()["id"]
    assert answer.headers["Location"] == f"/v1/sweeps/{id_}"
    assert answer.json()["job"]["id"] == f"cops-{id_}-1"
    again = client.post("/v1/sweeps", json=tree)
    assert again.status_code == 409
    assert again.json()["link"] == f"/v1/sweeps/{id_}"

    lines: list[tuple[str, str]] = []

    def follow() -> None:
        url = f"/v1/sweeps/{id_}/logs?follow=true"
        with httpx.stream("GET", str(client.base_url).rstrip("/") + url, timeout=None) as told:
            lines.extend((client.get(f"/v1/sweeps/{id_}").json()["state"], line) for line in told.iter_lines())

    follower = threading.Thread(target=follow)
    follower.start()
    running = until(client, id_, lambda one: one["state"] == "running")
    assert running["planned"] == 6
    assert running["page"].endswith(running["run"])
    assert client.post(f"/v1/sweeps/{id_}/stop").json()["state"] == "stopping"
    stopped = until(client, id_, lambda one: one["state"] == "stopped")
    assert stopped["closed"] == "stopped"
    follower.join(SECONDS)
    assert not follower.is_alive()
    assert any("starting MLflow" in line for _, line in lines)
    assert [line for state, line in lines if state in ("pending", "running", "stopping")]  # while it ran

    until(client, id_, lambda one: one["job"]["status"] == "FAILED")  # the exit code of what was stopped
    resumed = client.post(f"/v1/sweeps/{id_}/resume")
    assert resumed.status_code == 202, resumed.text
    assert resumed.json()["job"]["id"] == f"cops-{id_}-2"
    ended = until(client, id_, lambda one: one["state"] == "finished")
    assert ended["planned"] == sum(ended["counts"].values()) == 6
    assert ended["counts"]["done"] + ended["counts"]["reused"] == 6
    assert {one["name"] for one in ended["best"]} == {"random @0.9", "snip|grasp @0.9"}
    log = client.get(f"/v1/sweeps/{id_}/logs").text
    assert "best COPS mask" in log

    query: dict[str, str | float] = {"model": "convnet", "data": "digits", "sparsity": 0.9}
    best = client.get("/v1/masks/best", params=query).json()
    file = client.get(f"/v1/masks/{best['id']}/file").content
    told = client.get(f"/v1/masks/{best['id']}/url").json()
    with urlopen(told["url"], timeout=60) as signed:
        assert signed.read() == file


def test_two_at_once_start_one(client: httpx.Client) -> None:
    """And one that has not begun is ended by ending its job."""
    tree = yaml.safe_load(SMOKE.read_text()) | {"name": "twice"}
    found: list[httpx.Response] = []
    url = f"{str(client.base_url).rstrip('/')}/v1/sweeps"
    threads = [threading.Thread(target=lambda: found.append(httpx.post(url, json=tree, timeout=60))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.status_code for one in found) == [202, 409, 409, 409]
    id_ = next(one.json()["id"] for one in found if one.status_code == 202)
    assert client.post(f"/v1/sweeps/{id_}/cancel").status_code == 202
    until(client, id_, lambda one: one["state"] == "stopped")
    assert client.post(f"/v1/sweeps/{id_}/cancel").status_code == 409


def test_ready_with_ray(client: httpx.Client) -> None:
    assert client.get("/readyz").json() == {"parts": {"catalog": "ok", "mlflow": "ok", "ray": "ok"}}
