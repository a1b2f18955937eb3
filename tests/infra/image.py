"""`python -m tests.infra.image [cpu|s3]`: what building an image does, without docker; minutes, and 2 GB on disk.

The files that Dockerfile.dockerignore lets through are copied, install.sh runs on them, and what is installed is
compared with constraints.txt and started.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "infra" / "docker"
TRIED = {
    "cpu": ["cops --help", "python -m jobs jobs/sweeps/smoke.yaml --dry-run", "ray --version", "mlflow --version"],
    "s3": ["weed version"],
}


def context(folder: Path) -> None:
    """Copy what docker would send to the build."""
    rules = [
        line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout.splitlines()
    for name in files:
        if any(name == rule or fnmatch(name, f"{rule}/*") for rule in kept):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def pinned() -> dict[str, str]:
    """Versions in constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    return {_normal(name): version for name, version in (line.split("==") for line in lines)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(kind: str) -> int:
    """Install and look; 0 if all is well."""
    with tempfile.TemporaryDirectory() as temporary:
        source, environment = Path(temporary, "src"), Path(temporary, "cops")
        source.mkdir()
        context(source)
        install: list[str | Path] = [source / "infra" / "docker" / "install.sh", environment, kind]
        subprocess.run(install, cwd=source, check=True)
        listing: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "list", "--format", "json"]
        found = json.loads(subprocess.run(listing, text=True, capture_output=True, check=True).stdout)
        versions = {_normal(one["name"]): one["version"].partition("+")[0] for one in found}
        own = {"pip", "setuptools", "cops-sweep"}
        loose = {
            name: version for name, version in versions.items() if name not in own and pinned().get(name) != version
        }
        print(f"{len(versions)} packages; not as pinned: {loose or 'none'}")
        for command in TRIED[kind]:
            program, *arguments = command.split()
            line: list[str | Path] = [environment / "bin" / program, *arguments]
            ended = subprocess.run(line, cwd=source, text=True, capture_output=True, check=False)
            print(f"{'ok' if ended.returncode == 0 else 'FAILED'}: {command}")
            if ended.returncode:
                print(ended.stdout, ended.stderr)
                return 1
        return int(bool(loose))


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["cpu"])))
