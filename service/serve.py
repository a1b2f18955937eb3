"""MLflow's UI and the API, over what the sweeps left."""

import os

import uvicorn
from rich.console import Console

from jobs.local import check, mlflow_server, require_free_port
from service.app import create_app
from service.observe import log_json
from service.settings import ApiSettings

STOP_SECONDS = 5  # for what is being answered; who follows a log would stay for hours


def serve(settings: ApiSettings) -> None:
    """Serve until interrupted.

    Raises:
        UserError: a port is in use, or tokens are needed and there is none; nothing is left running.
    """
    # A question waits for MLflow for seconds, not for the minutes for which a worker would try.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    require_free_port("COPS_API_PORT", settings.api_port)
    check(settings)
    console = Console()
    console.print("starting MLflow")
    with mlflow_server(settings) as uri:
        app = create_app(uri, settings)
        address = f"http://{settings.api_host}:{settings.api_port}"
        console.print(f"MLflow UI  {uri}\nAPI        {address}/docs\nCtrl-C ends both", soft_wrap=True)
        log_json()
        uvicorn.run(
            app,
            host=settings.api_host,
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            # Else anyone on this machine could say that he is someone else.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
