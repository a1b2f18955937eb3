"""The real stack, as a user starts it: loopback only, secrets kept, sweeps through it, every part killed."""

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import boto3
import mlflow
import psutil
import psycopg2
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from cops import Mask
from service.stack import postgres, secret
from service.stack.parts import PARTS
from service.stack.processes import of_part
from service.stack.settings import BUCKET, USER
from service.stack.supervise import down, is_up, status, up, wait
from tests.conftest import ROOT
from tests.service.conftest import Stack
from tests.stack import COPS

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def smoke_runs(used: Stack) -> list[Run]:
    """Of the sweep and its trials: others have been here, too."""
    return [run for run in used.runs() if run.data.tags.get("cops.sweep_name") == "smoke"]


def test_up_says_where_the_parts_listen(stack: Stack) -> None:
    first = stack.settings.stack_postgres_port
    assert all(f":{port}" in stack.printed for port in (first, first + 1, first + 2, first + 4, first + 5))


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    processes = set().union(*(of_part(stack.settings, name) for name in PARTS))
    sockets = [one for process in processes for one in process.net_connections("inet")]
    listening = {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= LOOPBACK


def test_secrets_are_the_owners_alone(stack: Stack) -> None:
    settings = stack.settings
    files = [settings.pgpass, settings.s3_keys, settings.ray_token]
    assert {path.stat().st_mode & 0o777 for path in [*files, settings.socket]} == {0o600}
    assert settings.folder.stat().st_mode & 0o777 == 0o700
    assert settings.ray_folder.stat().st_mode & 0o777 == 0o700
    keys = secret.s3_keys(settings)
    words = [secret.password(settings), keys["AWS_SECRET_ACCESS_KEY"], settings.ray_token.read_text()]
    seen = " ".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    seen += stack.run(*COPS, "env").stdout + stack.run(*COPS, "doctor").stdout
    seen += "".join(path.read_text() for path in settings.logs.glob("*.log"))
    assert str(settings.folder) in seen
    assert not [word for word in words if word in seen]


def test_who_has_no_secret_gets_in_nowhere(stack: Stack) -> None:
    settings = stack.settings
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host="127.0.0.1", port=settings.stack_postgres_port, user=USER, password="x", dbname="mlflow")
    stranger = boto3.client("s3", aws_access_key_id="x", aws_secret_access_key="y")
    with pytest.raises(stranger.exceptions.ClientError, match="InvalidAccessKeyId"):
        stranger.list_objects_v2(Bucket=BUCKET)
    done = stack.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{settings.dashboard_url}/api/jobs/")
    assert done.stdout == "401"


def test_a_job_finds_everything_by_itself(used: Stack, tmp_path: Path) -> None:
    masks = [run for run in smoke_runs(used) if run.data.tags["cops.kind"] == "search" and "cops.mask" in run.data.tags]
    assert {run.info.status for run in masks} == {"FINISHED"}
    key = masks[0].info.artifact_uri.removeprefix(f"s3://{BUCKET}/") + "/mask.cops"
    path = tmp_path / "mask.cops"
    path.write_bytes(used.objects()[key])
    assert Mask.load(path).sparsity == pytest.approx(masks[0].data.metrics["sparsity"])
    assert any(name.startswith("scores/") for name in used.objects())
    with closing(used.connect(postgres.STUDIES)) as studies:
        cursor = studies.cursor()
        cursor.execute("SELECT count(*) FROM trials")
        assert cursor.fetchall()[0][0] > 0


def test_a_jobs_champion_is_loaded_from_s3(used: Stack) -> None:
    network = mlflow.pytorch.load_model("models:/convnet.digits.snip_grasp.0.9@champion")
    with torch.no_grad():
        assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    champion = MlflowClient().get_model_version_by_alias("convnet.digits.snip_grasp.0.9", "champion")
    assert champion.source is not None
    assert champion.source.startswith(f"s3://{BUCKET}/")
    assert {run.data.tags["cops.code"] for run in smoke_runs(used)} == {version("cops-sweep")}  # a package has no git


@pytest.mark.parametrize("names", [["postgres"], ["s3"], ["mlflow", "ray", "api"]])
def test_a_killed_part_comes_back_with_its_data(used: Stack, names: list[str]) -> None:
    """Its first process alone is killed: what that leaves behind must not stand in the way of the next."""
    settings = used.settings
    before = (
        {run.info.run_id: run.data.metrics for run in used.runs()},
        used.objects(),
        used.databases,
    )
    firsts = [psutil.Process(one.pid) for one in status(settings) if one.part.name in names]
    left = set().union(*(of_part(settings, name) for name in names))
    for first in firsts:
        first.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive
    wait(settings, 90)
    assert (
        {run.info.run_id: run.data.metrics for run in used.runs()},
        used.objects(),
        used.databases,
    ) == before


def test_two_at_once_start_one(stack: Stack) -> None:
    before = [one.pid for one in status(stack.settings)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: up(stack.settings), range(2)))
    assert [one.pid for one in status(stack.settings)] == before


def test_doctor_is_content(stack: Stack) -> None:
    done = stack.run(*COPS, "doctor", COLUMNS="300")
    assert done.returncode == 0, done.stdout
    assert all(part.title in done.stdout for part in PARTS.values())


def test_programs_are_told_in_json(stack: Stack) -> None:
    told = json.loads(stack.run(*COPS, "up", "--json").stdout)
    assert [one["process"] for one in told["parts"]] == [one.pid for one in status(stack.settings)]
    assert stack.settings.mlflow_url in {one["address"] for one in told["parts"]}
    assert told["logs"] == str(stack.settings.logs)
    variables = json.loads(stack.run(*COPS, "env", "--json").stdout)
    shell = stack.run("sh", "-c", f'eval "$({" ".join(COPS)} env)" && env -0', AWS_PROFILE="x").stdout
    seen = dict(line.partition("=")[::2] for line in shell.split("\0"))
    assert {name: seen.get(name) for name in variables} == variables
    assert variables["AWS_PROFILE"] is None


def test_other_ports_than_those_that_run_are_refused(stack: Stack) -> None:
    port = str(stack.settings.stack_s3_port)
    for command in ("up", "env"):
        done = stack.run(*COPS, command, COPS_STACK_S3_PORT="1999")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "COPS_STACK_S3_PORT = 1999" in done.stderr
        assert port in done.stderr


@pytest.mark.parametrize(
    ("command", "variable", "value", "message"),
    [
        ("up", "COPS_STACK_S3_PORT", "x", "COPS_STACK_S3_PORT = 'x'"),
        ("up", "COPS_STACK_S3_PORT", "5505", "COPS_STACK_S3_PORT and COPS_STACK_API_PORT are both 5505"),
        ("up", "COPS_HOME", "/proc/cops", "COPS_HOME = '/proc/cops' cannot be written"),
        ("up", "COPS_HOME", f"/tmp/{'x' * 100}", "too long"),
        ("env", "COPS_HOME", "/tmp/no-such-home", "COPS_HOME = '/tmp/no-such-home' holds no stack"),
    ],
)
def test_bad_settings_are_one_line(command: str, variable: str, value: str, message: str) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("COPS_")}
    done = subprocess.run(
        [*COPS, command], env=environment | {variable: value}, cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        own = {"COPS_HOME": str(tmp_path), "COPS_STACK_POSTGRES_PORT": port}
        kept = {name: text for name, text in os.environ.items() if not name.startswith("COPS_")}
        up_, doctor = (
            subprocess.run(
                [*COPS, command],
                env=kept | own | {"COLUMNS": "200"},
                cwd=ROOT,
                text=True,
                capture_output=True,
                check=False,
            )
            for command in ("up", "doctor")
        )
    assert (up_.returncode, up_.stderr.count("\n")) == (2, 1)
    assert f"port {port} is in use by another program: end it, or set COPS_STACK_POSTGRES_PORT" in up_.stderr
    assert doctor.returncode == 1
    assert f"{port} is taken by process {os.getpid()}" in doctor.stdout


def test_a_killed_supervisor_is_told_cleared_away_and_replaced(used: Stack) -> None:
    """The last test here: it starts the stack a second time, which the fixture then stops."""
    settings = used.settings
    before = {run.info.run_id for run in used.runs()}, used.objects()
    psutil.Process(int((settings.folder / "supervisord.pid").read_text())).kill()
    doctor = used.run(*COPS, "doctor", COLUMNS="200")
    assert doctor.returncode == 1
    assert "but not their supervisor" in doctor.stdout
    assert used.run(*COPS, "down").stdout == "stopped\n"
    assert not any(of_part(settings, name) for name in PARTS)
    assert used.run(*COPS, "down").stdout == "nothing was running\n"
    assert json.loads(used.run(*COPS, "down", "--json").stdout) == {"stopped": False}
    up(settings)
    assert ({run.info.run_id for run in used.runs()}, used.objects()) == before
    assert down(settings)
    assert not is_up(settings)
    for port in settings.ports.values():
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
