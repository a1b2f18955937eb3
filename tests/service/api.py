"""The API in this process, on a port of its own, over a real MLflow."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.settings import ApiSettings
from tests.conftest import free_port


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The app's address, while it is served as `cops serve` does."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def settings(home: Path, *, ray_jobs: str | None = None, **changed: Any) -> ApiSettings:
    """Settings of an API that keeps its things in a folder."""
    plain: dict[str, Any] = {"home": home, "api_host": "127.0.0.1", "tokens": None, "catalog": None}
    return ApiSettings(**{**plain, "RAY_API_SERVER_ADDRESS": ray_jobs, **changed})


@contextmanager
def api(uri: str, home: Path, **changed: Any) -> Iterator[str]:
    """Address of an API over the MLflow at `uri`."""
    with running(create_app(uri, settings(home, **changed))) as address:
        yield address
