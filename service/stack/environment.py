"""What the users and the parts of the stack find in their environment: addresses, and the files of secrets."""

import os
import sys
from pathlib import Path

from jobs.local import HOST
from service.stack import postgres, s3
from service.stack.settings import BUCKET, StackSettings

# What a user's environment may hold that would win over, or mix with, what the stack says.
UNSET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE"),
    *("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL", "PGPASSWORD", "RAY_AUTH_TOKEN", "RAY_JOB_HEADERS"),
)
MARK = "COPS_STACK_PART"  # variable by which the processes of a part are known


def client_environment(settings: StackSettings) -> dict[str, str]:
    """What makes a client on this machine use the stack: addresses, and files of secrets."""
    return {
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_ENDPOINT_URL": settings.s3_url,
        "AWS_SHARED_CREDENTIALS_FILE": str(settings.s3_keys),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PGPASSFILE": str(settings.pgpass),
        "COPS_HOME": str(settings.home),
        "COPS_STORE": f"s3://{BUCKET}/scores",
        "COPS_STUDIES": settings.database_url(postgres.STUDIES),
        "COPS_MLFLOW_PORT": str(settings.stack_mlflow_port),
        "COPS_API_PORT": str(settings.stack_api_port),
        "COPS_API_URL": settings.api_url,
        "RAY_ADDRESS": f"{HOST}:{settings.stack_ray_port}",
        "RAY_API_SERVER_ADDRESS": settings.dashboard_url,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's processes listen on loopback alone
    }


def mark(settings: StackSettings, name: str) -> str:
    """Value of the variable MARK in the processes of a part."""
    return f"{name}@{settings.folder}"


def part_environment(settings: StackSettings, name: str) -> dict[str, str]:
    """All that a part finds there: what a client does, the mark, and what it alone needs."""
    kept = {key: value for key, value in os.environ.items() if key not in UNSET and not key.startswith("SUPERVISOR_")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    own = client_environment(settings) | {MARK: mark(settings, name), "PYTHONUNBUFFERED": "1"}
    if name == "s3":
        own |= s3.environment(settings)
    if name == "mlflow":  # its job execution would take 2 GB and 14 processes
        own |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if name == "ray":  # it stops at once: what is lost of a sweep is resumed
        own |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    together = kept | own
    if name == "ray":  # it starts a cluster, it does not join one; a job is told its cluster by Ray
        del together["RAY_ADDRESS"], together["RAY_API_SERVER_ADDRESS"]
    return together
