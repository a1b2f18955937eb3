"""Where this machine keeps things, from the environment."""

from pathlib import Path
from typing import Self

from platformdirs import user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.errors import UserError


class Settings(BaseSettings):
    """Environment variables; every default serves a laptop."""

    model_config = SettingsConfigDict(env_prefix="COPS_")

    home: Path = Field(user_data_path("cops"), description="folder of the embedded MLflow and its mask files")
    mlflow_port: int = Field(5050, ge=1, le=65535, description="port of the embedded MLflow, on loopback")
    api_port: int = Field(8050, ge=1, le=65535, description="port of the API, on loopback")
    tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="an MLflow server that runs already; without it the embedded one is started",
    )

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
            name = str(first["loc"][0])
            name = name if name.isupper() else f"COPS_{name.upper()}"
            raise UserError(f"environment variable {name} = {first['input']!r}: {first['msg']}") from None
