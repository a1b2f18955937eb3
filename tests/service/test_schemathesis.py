"""What the OpenAPI description promises, against whatever schemathesis thinks of; more of it by COPS_FUZZ_EXAMPLES."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, Swept
from tests.service.api import api
from tests.service.test_api import mlflow

__all__ = ["mlflow"]  # the fixture

# 503 is what a server without a cluster says to a valid sweep.
CONFIGURATION = "\n".join(
    f"""
[[operations]]
include-name = "POST {path}"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
"""
    for path in ("/v1/sweeps", "/v1/sweeps/{sweep_id}/{wish}")
)
EXAMPLES = os.environ.get("COPS_FUZZ_EXAMPLES", "3")


def test_no_answer_breaks_the_description(mlflow: str, swept: Swept, tmp_path: Path) -> None:
    """And nothing that was sent left a trace in what the sweeps left."""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    before = files(swept.home.path / "artifacts")
    with api(mlflow, tmp_path, submit_rate="1000000/minute") as address:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"{address}/openapi.json", "--max-examples", EXAMPLES, "--seed", "1", "--no-color"),
                *("--exclude-checks", "unsupported_method,positive_data_acceptance", "--suppress-health-check", "all"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
            capture_output=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert files(swept.home.path / "artifacts") == before


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
