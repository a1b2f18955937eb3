"""One stack for all tests of this folder, as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import boto3
import mlflow
import psycopg2
import pytest
from mlflow.entities import Run
from psycopg2.extensions import connection

from service.stack.environment import client_environment
from service.stack.settings import BUCKET, StackSettings
from service.stack.supervise import up
from tests.conftest import ROOT, SMOKE
from tests.stack import COPS, started


@dataclass(frozen=True)
class Stack:
    settings: StackSettings
    environment: dict[str, str]  # that makes a command find the stack's settings
    printed: str  # by `cops up`

    def run(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        env = self.environment | extra
        return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=240, check=False)

    def connect(self, database: str) -> connection:
        return psycopg2.connect(self.settings.database_url(database).replace("+psycopg2", ""))

    @property
    def databases(self) -> set[str]:
        with closing(self.connect("postgres")) as open_:
            cursor = open_.cursor()
            cursor.execute("SELECT datname FROM pg_database")
            return {name for (name,) in cursor.fetchall()}

    def runs(self) -> list[Run]:
        client = mlflow.MlflowClient(self.settings.mlflow_url)
        experiments = [one.experiment_id for one in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=1000))

    def objects(self) -> dict[str, bytes]:
        server = boto3.client("s3")
        listed = server.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {
            one["Key"]: server.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
            for one in listed
            if one["Key"] != "probe"
        }


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own that runs."""
    with started(tmp_path_factory.mktemp("stack")) as (settings, environment, printed):
        yield Stack(settings, environment, printed)


@pytest.fixture(scope="module")
def stack(running: Stack) -> Iterator[Stack]:
    """The stack, whose users are the processes of this module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(running.environment):
            patch.delenv(name)
        for name, value in (running.environment | client_environment(running.settings)).items():
            patch.setenv(name, value)
        up(running.settings)  # a test may have stopped it
        yield running


@pytest.fixture(scope="session")
def _smoke_job() -> list[str]:
    """What the smoke sweep's job said; nothing before it has run."""
    return []


@pytest.fixture(scope="module")
def used(stack: Stack, _smoke_job: list[str]) -> Stack:
    """The smoke sweep has run as a job of the stack's Ray, submitted as a user does, after `eval "$(cops env)"`."""
    if not _smoke_job:
        ray = f"{sys.executable} -m ray.scripts.scripts"
        job = f"{ray} job submit --working-dir {ROOT} -- python -m jobs {SMOKE.relative_to(ROOT)}"
        done = stack.run("sh", "-c", f'eval "$({" ".join(COPS)} env)" && {job}')
        assert done.returncode == 0, done.stdout + done.stderr
        _smoke_job.append(done.stdout)
    assert "trials 7/7" in _smoke_job[0]
    return stack
