"""A client of the API, for notebooks and programs: `Client`, and `AsyncClient` for asyncio."""

from service.client.errors import ApiError
from service.client.http import AsyncClient, Client
from service.client.operations import Found

__all__ = ["ApiError", "AsyncClient", "Client", "Found"]
