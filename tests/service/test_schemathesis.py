"""What the OpenAPI description promises, against whatever schemathesis thinks of; more of it by COPS_FUZZ_EXAMPLES."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.service.api import api
from tests.service.conftest import Stack

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


def test_no_answer_breaks_the_description(used: Stack, tmp_path: Path) -> None:
    """Over a real PostgreSQL and S3; and nothing that was sent left a trace there.

    This API has no cluster: else every valid body would start a sweep.
    """
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    before = used.objects(), {run.info.run_id: run.data.tags for run in used.runs()}
    with api(used.settings.mlflow_url, tmp_path, submit_rate="1000000/minute") as address:
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
    assert (used.objects(), {run.info.run_id: run.data.tags for run in used.runs()}) == before
