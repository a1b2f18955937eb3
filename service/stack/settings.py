"""Where the parts of the stack listen and keep things, from the environment."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from jobs.local import HOST
from jobs.settings import Settings

INNER = 15  # ports that the parts use among themselves
ADMIN_GRPC = 10_000  # above the S3 server's admin port: its worker looks for it there and nowhere else
BUCKET = USER = "cops"  # in S3; of PostgreSQL and S3


def _port(default: int, what: str) -> int:
    port: int = Field(default, ge=1024, le=65535, description=f"port of {what}, on loopback")
    return port


class StackSettings(Settings):
    """Environment variables of the stack, beside those of a laptop; it lives in the folder `stack` of COPS_HOME."""

    stack_postgres_port: int = _port(5500, "PostgreSQL")
    stack_s3_port: int = _port(5501, "the S3 server")
    stack_mlflow_port: int = _port(5502, "MLflow")
    stack_ray_port: int = _port(5503, "Ray's head, for drivers on this machine")
    stack_dashboard_port: int = _port(5504, "Ray's dashboard, which takes jobs")
    stack_api_port: int = _port(5505, "the API")
    stack_inner_port: int = Field(
        5510,
        ge=1024,
        le=65535 - ADMIN_GRPC - INNER,
        description=f"first of {INNER} ports that the parts use among themselves; one more is {ADMIN_GRPC} above them",
    )
    stack_database: Path | None = Field(
        None,
        description="folder of PostgreSQL's data; without it one in the stack's folder or, for root, as whom "
        "PostgreSQL refuses to run, one in /var/lib/cops, which the user nobody can reach",
    )

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        names: dict[int, str] = {}
        for name, port in self.ports.items():
            if port in names:
                raise ValueError(f"{names[port]} and {name} are both {port}: give two ports")
            names[port] = name
        return self

    @property
    def ports(self) -> dict[str, int]:
        """All ports that the stack listens on, by the variable that sets them."""
        given = {
            f"COPS_{name.upper()}": getattr(self, name)
            for name in type(self).model_fields
            if name.startswith("stack_") and name.endswith("_port") and name != "stack_inner_port"
        }
        inner = "COPS_STACK_INNER_PORT"
        numbers = {f"{inner} (+ {i})" if i else inner: self.inner(i) for i in range(INNER)}
        return given | numbers | {f"{inner} (+ {ADMIN_GRPC})": self.inner(ADMIN_GRPC)}

    def inner(self, number: int) -> int:
        """One of the ports that the parts use among themselves."""
        return self.stack_inner_port + number

    @property
    def folder(self) -> Path:
        """All that the stack keeps, but for the database when root runs it."""
        return self.home / "stack"

    @property
    def logs(self) -> Path:
        """One file a part."""
        return self.folder / "logs"

    @property
    def secrets(self) -> Path:
        """One file a secret, for its owner alone."""
        return self.folder / "secrets"

    @property
    def pgpass(self) -> Path:
        """PostgreSQL's password, in libpq's format."""
        return self.secrets / "pgpass"

    @property
    def s3_keys(self) -> Path:
        """The S3 server's keys, in the format of AWS."""
        return self.secrets / "s3.ini"

    @property
    def ray_token(self) -> Path:
        """Ray's token."""
        return self.secrets / "ray.token"

    @property
    def socket(self) -> Path:
        """On which the supervisor listens."""
        return self.folder / "supervisor.sock"

    @property
    def database(self) -> Path:
        """PostgreSQL's data."""
        if self.stack_database is not None:
            return self.stack_database.expanduser().absolute()
        return Path("/var/lib/cops", self._id) if os.geteuid() == 0 else self.folder / "postgres"

    @property
    def ray_folder(self) -> Path:
        """Of Ray's sessions: in the temp folder, since paths of sockets must not be longer than 107 characters."""
        return Path(tempfile.gettempdir(), f"cops-ray-{self._id}")

    @property
    def _id(self) -> str:
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return f"http://{HOST}:{self.stack_mlflow_port}"

    @property
    def s3_url(self) -> str:
        """Address of the S3 server."""
        return f"http://{HOST}:{self.stack_s3_port}"

    @property
    def dashboard_url(self) -> str:
        """Address of Ray's dashboard, which takes jobs."""
        return f"http://{HOST}:{self.stack_dashboard_port}"

    @property
    def api_url(self) -> str:
        """Address of the API."""
        return f"http://{HOST}:{self.stack_api_port}"

    def database_url(self, name: str) -> str:
        """SQLAlchemy URL of a database; the password is found by PGPASSFILE."""
        return f"postgresql+psycopg2://{USER}@{HOST}:{self.stack_postgres_port}/{name}"
