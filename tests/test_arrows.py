"""service -> jobs -> cops, and each heavy library in the one room that may know it."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for package in ("cops", "jobs", "service") for path in sorted((ROOT / package).rglob("*.py"))]
MAY_USE = {"cops": {"cops"}, "jobs": {"cops", "jobs"}, "service": {"cops", "jobs", "service"}}
ONLY_IN = {
    "mlflow": {"jobs/tracking/"},
    "ray": {"jobs/tune.py", "jobs/cluster.py", "service/launcher.py"},
    "optuna": {"jobs/studies.py", "jobs/storage.py", "jobs/search.py"},
    "boto3": {"jobs/tracking/s3.py"},
    "botocore": {"jobs/tracking/s3.py"},
}


def imports(path: Path, *, when_loaded: bool = False) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file, or only those it needs to be loaded."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert imports(path) & set(MAY_USE) <= MAY_USE[package]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_room(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for library, files in ONLY_IN.items():
        assert library not in imports(path) or any(name.startswith(file) for file in files)


def test_the_method_needs_torch_alone() -> None:
    """The libraries of its extras are imported in the functions that use them."""
    files = [path for path in FILES if path.is_relative_to(ROOT / "cops")]
    needed = set().union(*(imports(path, when_loaded=True) for path in files))
    used = set().union(*(imports(path) for path in files))
    own = {*sys.stdlib_module_names, "cops", "torch"}
    assert needed <= own
    assert used <= own | {"matplotlib"}
