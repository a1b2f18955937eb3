"""What the API needs to know of its surroundings, from the environment."""

import ipaddress
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from limits import RateLimitItem, parse
from pydantic import AfterValidator, Field, model_validator

from jobs.local import HOST
from jobs.settings import Settings


def _rate(text: str) -> str:
    try:
        parse(text)
    except ValueError:
        raise ValueError("should be a count per time, such as 6000/minute") from None
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class ApiSettings(Settings):
    """Environment variables of the API, beside those of a laptop."""

    api_host: str = Field(HOST, description="address that the API listens on; any but loopback asks for tokens")
    tokens: Path | None = Field(None, description="file of the API's tokens; without it tokens.json in `home`")
    allowed_data: str = Field(
        "", description="folders, with ':' between them, whose data sets a token of scope submit may name"
    )
    read_rate: Rate = Field("6000/minute", description="requests of a token")
    submit_rate: Rate = Field("30/minute", description="sweeps submitted or steered by a token or an address")
    ray_jobs: str | None = Field(
        None, validation_alias="RAY_API_SERVER_ADDRESS", description="Ray's server of jobs, which runs sweeps"
    )

    @model_validator(mode="after")
    def _check_api(self) -> Self:
        for folder in self.folders:
            if not folder.is_absolute() or ".." in folder.parts:
                raise ValueError(f"COPS_ALLOWED_DATA names '{folder}': give absolute paths of folders")
        if self.ray_jobs and not self.ray_jobs.startswith(("http://", "https://")):
            raise ValueError(f"RAY_API_SERVER_ADDRESS = '{self.ray_jobs}' should be the http(s) address of a server")
        return self

    @property
    def token_file(self) -> Path:
        """Where the tokens are."""
        return self.tokens or self.home / "tokens.json"

    @property
    def folders(self) -> list[PurePosixPath]:
        """Folders whose data sets may be named without the scope admin."""
        return [PurePosixPath(one) for one in self.allowed_data.split(os.pathsep) if one]

    @property
    def loopback(self) -> bool:
        """Whether the API listens to this machine alone."""
        try:
            return ipaddress.ip_address(self.api_host.strip("[]")).is_loopback
        except ValueError:
            return self.api_host == "localhost"

    @property
    def rates(self) -> dict[str, RateLimitItem]:
        """How many requests of a kind there may be."""
        return {"read": parse(self.read_rate), "submit": parse(self.submit_rate), "wrong token": parse("10/minute")}
