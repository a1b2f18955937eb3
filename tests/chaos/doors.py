"""Who gets in where: `python -m tests.chaos.doors` prints what each server says, as JSON.

It runs on a host of the lab, and knocks with the secrets that are in its environment, if any. "open" is said of a door
that lets one in; else why not.
"""

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import grpc
import psycopg2
from botocore import UNSIGNED
from botocore.config import Config
from ray.core.generated import ray_client_pb2
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub

SECONDS = 10
PING: Any = ray_client_pb2.ClusterInfoRequest(type=6)  # type: ignore[attr-defined]  # made as it is imported
STATE = "from ray._raylet import GcsClient; GcsClient('head:6379').internal_kv_keys(b'', None, timeout=10)"


def main() -> None:
    token = os.environ.get("RAY_AUTH_TOKEN")
    ray = {"Authorization": f"Bearer {token}"} if token else {}
    user, word = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    mlflow = {"Authorization": f"Basic {b64encode(f'{user}:{word}'.encode()).decode()}"} if user else {}
    doors: dict[str, Callable[[], object]] = {
        "Ray: submit a job": lambda: _post("http://head:8265/api/jobs/", ray, {"entrypoint": "true"}),
        "Ray: jobs": lambda: _get("http://head:8265/api/jobs/", ray),
        "Ray: nodes": lambda: _get("http://head:8265/nodes?view=summary", ray),
        "Ray: actors": lambda: _get("http://head:8265/api/v0/actors", ray),
        "Ray: a worker's jobs": lambda: _get("http://worker1:52365/api/job_agent/jobs/x/logs", ray),
        "Ray: client": lambda: _client(token),
        "Ray: cluster": lambda: _python(STATE),
        "MLflow": lambda: _get("http://mlflow:5050/api/2.0/mlflow/experiments/search?max_results=1", mlflow),
        "MLflow: page": lambda: _get("http://mlflow:5050/", mlflow),
        "S3: list": lambda: _s3().list_objects_v2(Bucket="cops"),
        "S3: write": lambda: _s3().put_object(Bucket="cops", Key="door", Body=b""),
        "PostgreSQL": _database,
    }
    print(json.dumps({name: _knock(door) for name, door in doors.items()}))


def _knock(door: Callable[[], object]) -> str:
    try:
        door()
    except HTTPError as error:
        return "open" if error.code == 404 else f"{error.code} {error.reason}"
    except Exception as error:  # each client has errors of its own
        return " ".join(f"{type(error).__name__}: {error}".split())[-300:]
    return "open"


def _get(address: str, headers: dict[str, str]) -> None:
    with urlopen(Request(address, headers=headers), timeout=SECONDS) as answer:
        answer.read()


def _post(address: str, headers: dict[str, str], body: dict[str, str]) -> None:
    asked = Request(address, json.dumps(body).encode(), headers | {"Content-Type": "application/json"})
    with urlopen(asked, timeout=SECONDS) as answer:
        answer.read()


def _client(token: str | None) -> None:
    """Ray's own client would take half a minute to give up. Who is let in is told that there is no session yet."""
    with grpc.insecure_channel("head:10001") as channel:
        keys = [("authorization", f"Bearer {token}")] if token else []
        try:
            RayletDriverStub(channel).ClusterInfo(PING, metadata=keys, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}:
                raise


def _python(line: str) -> None:
    """Ray reads its token once in a process, and may end it."""
    done = subprocess.run([sys.executable, "-c", line], check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise PermissionError(done.stderr)


def _s3() -> Any:
    signed = None if os.environ.get("AWS_ACCESS_KEY_ID") else UNSIGNED
    config = Config(signature_version=signed, connect_timeout=SECONDS, retries={"total_max_attempts": 1})
    return boto3.client("s3", endpoint_url="http://s3:8333", region_name="us-east-1", config=config)


def _database() -> None:
    with closing(psycopg2.connect(host="postgres", user="cops", dbname="studies", connect_timeout=SECONDS)):
        pass


if __name__ == "__main__":
    main()
