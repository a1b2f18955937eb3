"""Where this machine keeps things, from the environment."""

from pathlib import Path
from typing import Annotated, Self

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.errors import UserError


def _absolute(path: Path) -> Path:
    if path == Path():
        raise ValueError("should be a folder")
    return path.expanduser().absolute()


class Settings(BaseSettings):
    """Environment variables; every default serves a laptop."""

    model_config = SettingsConfigDict(env_prefix="COPS_")

    home: Annotated[Path, AfterValidator(_absolute)] = Field(
        user_data_path("cops"), description="folder of the embedded MLflow and its mask files"
    )
    mlflow_port: int = Field(5050, ge=1, le=65535, description="port of the embedded MLflow, on loopback")
    api_port: int = Field(8050, ge=1, le=65535, description="port of the API, on loopback")
    tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="an MLflow server that runs already; without it the embedded one is started",
    )

    studies: str | None = Field(
        None, description="database of the Optuna studies, e.g. postgresql+psycopg2://...; without it SQLite in `home`"
    )
    store: str | None = Field(
        None,
        description="of score vectors and checkpoints, e.g. s3://bucket/scores; without it a folder in `home`",
    )
    data: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None, description="folder of downloaded data sets; without it one in `home`"
    )

    @property
    def data_folder(self) -> Path:
        """Where data sets are downloaded to."""
        return self.data or self.home / "data"

    catalog: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None, description="file of the API's catalog of masks; without it one in `home`"
    )

    @property
    def studies_url(self) -> str:
        """SQLAlchemy URL of the Optuna studies."""
        return self.studies or f"sqlite:///{self.home / 'studies.db'}"

    @property
    def store_url(self) -> str:
        """Folder or object store of the score vectors, as a URL."""
        return self.store or (self.home / "store").as_uri()

    @property
    def checkpoints_url(self) -> str:
        """Folder or object store of the checkpoints of long trials, as a URL."""
        return f"{self.store_url}/checkpoints"

    @property
    def catalog_file(self) -> Path:
        """SQLite file of the catalog of masks."""
        return self.catalog or self.home / "catalog.db"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mlflow_port == self.api_port:
            raise ValueError(f"COPS_MLFLOW_PORT and COPS_API_PORT are both {self.api_port}: give two ports")
        if self.tracking_uri and not self.tracking_uri.startswith(("http://", "https://")):
            raise ValueError(f"MLFLOW_TRACKING_URI = '{self.tracking_uri}' should be the http(s) address of a server")
        return self

    @classmethod
    def read(cls) -> Self:
        """Settings of this process.

        Raises:
            UserError: names the variable, its value and what it should be.
        """
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise UserError(message) from None
            name = str(first["loc"][0])
            name = name if name.isupper() else f"COPS_{name.upper()}"
            raise UserError(f"environment variable {name} = {first['input']!r}: {message}") from None
