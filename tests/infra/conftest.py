from pathlib import Path
from typing import Any

import pytest

from tests.infra.manifests import EXAMPLES, SMOKE, helm, render


@pytest.fixture(scope="session")
def helm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def rendered(helm_program: Path) -> dict[str, list[dict[str, Any]]]:
    """What the chart makes of each set of values in examples/."""
    sweep = ["--set-file", f"sweep.file={SMOKE}"]
    return {path.stem: render(helm_program, "--values", str(path), *sweep) for path in EXAMPLES}
