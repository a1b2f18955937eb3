"""MLflow's UI and the API, on loopback, over what the sweeps left."""

import os

import uvicorn
from rich.console import Console

from jobs.local import HOST, check, mlflow_server, require_free_port
from jobs.settings import Settings
from service.app import create_app


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        UserError: a port is in use; nothing has been started.
    """
    # A question waits for MLflow for seconds, not for the minutes for which a worker would try.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    require_free_port("COPS_API_PORT", settings.api_port)
    check(settings)
    console = Console()
    console.print("starting MLflow")
    with mlflow_server(settings) as uri:
        console.print(f"MLflow UI  {uri}\nAPI        http://{HOST}:{settings.api_port}/docs\nCtrl-C ends both")
        uvicorn.run(create_app(uri, settings.catalog_file), host=HOST, port=settings.api_port, log_level="warning")
