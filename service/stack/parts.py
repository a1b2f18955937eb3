"""The parts of the stack: what each needs, how it is started, and how one sees that it answers."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from jobs.local import HOST
from service.stack import head, postgres, s3
from service.stack.probe import get
from service.stack.settings import BUCKET, StackSettings


@dataclass(frozen=True)
class Part:
    """A server of the stack.

    Args:
        needs: names of parts that must answer before it starts.
        address: for its users.
        answers: raises an OSError unless the server is there and takes what we know it by.
        command: prepares what the server needs and returns its command line.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    address: Callable[[StackSettings], str]
    answers: Callable[[StackSettings], object]
    command: Callable[[StackSettings], list[str]]


def _mlflow_command(settings: StackSettings) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.stack_mlflow_port)]
    command += ["--backend-store-uri", settings.database_url(postgres.MLFLOW), "--workers", "2"]
    # Workers send files to S3 themselves, without a detour through this server.
    return [*command, "--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKET}/mlflow"]


PARTS = {
    part.name: part
    for part in (
        Part(
            "postgres",
            "PostgreSQL",
            (),
            lambda settings: f"{HOST}:{settings.stack_postgres_port}",
            postgres.answers,
            postgres.command,
        ),
        Part("s3", "S3 (SeaweedFS)", (), lambda settings: settings.s3_url, s3.answers, s3.command),
        Part(
            "mlflow",
            "MLflow",
            ("postgres",),
            lambda settings: settings.mlflow_url,
            lambda settings: get(f"{settings.mlflow_url}/health"),
            _mlflow_command,
        ),
        Part("ray", "Ray head, jobs", (), lambda settings: settings.dashboard_url, head.answers, head.command),
        Part(
            "api",
            "API",
            ("mlflow",),
            lambda settings: f"{settings.api_url}/docs",
            lambda settings: get(f"{settings.api_url}/healthz"),
            lambda _: [sys.executable, "-m", "service.cli", "serve"],
        ),
    )
}
