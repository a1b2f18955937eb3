"""The parts of the stack: what each needs, how it is started, and how one sees that it answers."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from jobs.local import HOST
from service.stack import postgres, secret
from service.stack.settings import ADMIN_GRPC, BUCKET, USER, StackSettings

SECONDS = 5.0  # for an answer
# What a user's environment may hold that would win over, or mix with, what the stack says.
UNSET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE"),
    *("AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL", "PGPASSWORD", "RAY_AUTH_TOKEN", "RAY_JOB_HEADERS"),
)
MARK = "COPS_STACK_PART"  # variable by which the processes of a part are known


@dataclass(frozen=True)
class Part:
    """A server of the stack.

    Args:
        needs: names of parts that must answer before it starts.
        address: for its users.
        answers: raises an OSError or ValueError unless the server is there and takes what we know it by.
        command: prepares what the server needs and returns its command line.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    address: Callable[[StackSettings], str]
    answers: Callable[[StackSettings], object]
    command: Callable[[StackSettings], list[str]]


def environment(settings: StackSettings) -> dict[str, str]:
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
    """Environment of a part: the client's, the marker and, for the server that checks them, the S3 keys."""
    kept = {key: value for key, value in os.environ.items() if key not in UNSET and not key.startswith("SUPERVISOR_")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    own = environment(settings) | {MARK: mark(settings, name), "PYTHONUNBUFFERED": "1"}
    if name == "s3":
        own |= secret.s3_keys(settings) | {"TMPDIR": str(_made(settings.folder / "s3" / "tmp"))}
    if name == "mlflow":  # its job execution would take 2 GB and 14 processes
        own |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if name == "ray":  # it stops at once: what is lost of a sweep is resumed
        own |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    together = kept | own
    if name == "ray":  # it starts a cluster, it does not join one; a job is told its cluster by Ray
        del together["RAY_ADDRESS"], together["RAY_API_SERVER_ADDRESS"]
    return together


def _postgres_answers(settings: StackSettings) -> None:
    import psycopg2

    try:
        with closing(
            psycopg2.connect(
                host=HOST,
                port=settings.stack_postgres_port,
                user=USER,
                dbname=postgres.MLFLOW,
                passfile=str(settings.pgpass),
                connect_timeout=int(SECONDS),
            )
        ) as connection:
            connection.cursor().execute("SELECT 1")
    except psycopg2.Error as error:
        raise ConnectionError(" ".join(str(error).split())) from None


def _s3_answers(settings: StackSettings) -> None:
    """Its keys are taken and the bucket is there."""
    from pyarrow import fs

    _get(f"{settings.s3_url}/healthz")  # pyarrow takes long to give up where nobody listens
    keys = secret.s3_keys(settings)
    server = fs.S3FileSystem(
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=f"{HOST}:{settings.stack_s3_port}",
        scheme="http",
        region="us-east-1",
        connect_timeout=SECONDS,
        request_timeout=SECONDS,
    )
    if server.get_file_info(BUCKET).type is not fs.FileType.Directory:
        raise ConnectionError(f"no bucket '{BUCKET}'")


def _ray_answers(settings: StackSettings) -> None:
    """The server of jobs takes our token."""
    _get(f"{settings.dashboard_url}/api/jobs/", {"Authorization": f"Bearer {settings.ray_token.read_text()}"})


def _get(url: str, headers: dict[str, str] | None = None) -> bytes:
    with urlopen(Request(url, headers=headers or {}), timeout=SECONDS) as answer:  # noqa: S310  # our own http addresses
        content: bytes = answer.read()
        return content


def _s3_command(settings: StackSettings) -> list[str]:
    folder = _made(settings.folder / "s3")
    weed = _program("weed")
    ports = {
        "s3.port": settings.stack_s3_port,
        "s3.port.grpc": settings.inner(7),
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": settings.inner(1),
        "master.port.grpc": settings.inner(2),
        "filer.port": settings.inner(3),
        "filer.port.grpc": settings.inner(4),
        "volume.port": settings.inner(5),
        "volume.port.grpc": settings.inner(6),
        "admin.port": settings.inner(0),
        "admin.port.grpc": settings.inner(ADMIN_GRPC),
    }
    options = {
        "dir": folder,
        "ip": HOST,
        "ip.bind": HOST,
        "bucket": BUCKET,
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "disableHttp": "true",  # else the filer takes what nobody signed
        "s3.localSocket": folder / "tmp" / "s3.sock",
        "filer.localSocket": folder / "tmp" / "filer.sock",
        **ports,
    }
    return [weed, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def _mlflow_command(settings: StackSettings) -> list[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.stack_mlflow_port)]
    command += ["--backend-store-uri", settings.database_url(postgres.MLFLOW), "--workers", "2"]
    # Workers send files to S3 themselves, without a detour through this server.
    return [*command, "--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKET}/mlflow"]


def _ray_command(settings: StackSettings) -> list[str]:
    _own(settings.ray_folder)
    sessions = settings.ray_folder / "r"  # which Ray opens to everybody
    logs = settings.logs / "ray"
    logs.unlink(missing_ok=True)
    logs.symlink_to(sessions / "session_latest" / "logs")
    ports = {
        "port": settings.stack_ray_port,
        "dashboard-port": settings.stack_dashboard_port,
        "ray-client-server-port": settings.inner(8),
        "node-manager-port": settings.inner(9),
        "object-manager-port": settings.inner(10),
        "dashboard-agent-listen-port": settings.inner(11),
        "dashboard-agent-grpc-port": settings.inner(12),
        "runtime-env-agent-port": settings.inner(13),
        "metrics-export-port": settings.inner(14),
        "min-worker-port": 0,  # any that is free
        "max-worker-port": 0,
    }
    options = {"node-ip-address": HOST, "dashboard-host": HOST, "include-dashboard": "true", **ports}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return [*command, f"--temp-dir={sessions}", *(f"--{name}={value}" for name, value in options.items())]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _own(folder: Path) -> None:
    """A folder in the temp folder, where others may have been faster."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"{folder} is another user's, or open to others: remove it")


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise FileNotFoundError(f"no program '{name}': pip install 'cops-sweep[stack]'")
    return found


PARTS = {
    part.name: part
    for part in (
        Part(
            "postgres",
            "PostgreSQL",
            (),
            lambda settings: f"{HOST}:{settings.stack_postgres_port}",
            _postgres_answers,
            postgres.command,
        ),
        Part("s3", "S3 (SeaweedFS)", (), lambda settings: settings.s3_url, _s3_answers, _s3_command),
        Part(
            "mlflow",
            "MLflow",
            ("postgres",),
            lambda settings: settings.mlflow_url,
            lambda settings: _get(f"{settings.mlflow_url}/health"),
            _mlflow_command,
        ),
        Part("ray", "Ray head, jobs", (), lambda settings: settings.dashboard_url, _ray_answers, _ray_command),
        Part(
            "api",
            "API",
            ("mlflow",),
            lambda settings: f"{settings.api_url}/docs",
            lambda settings: _get(f"{settings.api_url}/healthz"),
            lambda _: [sys.executable, "-m", "service.cli", "serve"],
        ),
    )
}
