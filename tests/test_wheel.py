"""The wheel holds the three packages, their types and sweep files, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
STACK = {"service/stack/supervisord.conf", "service/stack/program.conf"}


def test_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"cops", "jobs", "service"}
    assert {"cops/py.typed", "jobs/py.typed", "service/py.typed", "jobs/sweeps/demo.yaml"} | STACK <= set(names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "cops = service.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
