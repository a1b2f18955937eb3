"""`python -m jobs SWEEP.yaml`: run a sweep, here or as a Ray job."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from jobs.drive import sweep
from jobs.errors import UserError
from jobs.explain import explain as explained
from jobs.explain import schema
from jobs.spec import Spec


def dry_run(path: Path, *, as_json: bool) -> int:
    """Print what the sweep of a file would run, and what it would cost.

    Raises:
        UserError: bad input.
    """
    from jobs import estimate

    spec = Spec.load(path)
    if as_json:
        print(json.dumps(asdict(estimate.preview(spec)), indent=2))
    else:
        Console().print(estimate.dry_run(spec))
    return 0


def explain(path: Path | None) -> int:
    """Print a sweep file with every key, its value and what it is; without a file, all defaults.

    Raises:
        UserError: bad input.
    """
    print(explained(Spec.load(path) if path else None), end="")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 1 for a sweep with cells that have no result, 2 for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description="Run a sweep, here or as a Ray job.")
    parser.add_argument("sweep", type=Path, nargs="?", help="sweep file, e.g. jobs/sweeps/demo.yaml")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print cells, trials, score computations and hours only")
    how.add_argument("--smoke", action="store_true", help="run the whole pipeline, tiny")
    how.add_argument("--explain", action="store_true", help="print every key with its value and what it is")
    how.add_argument("--schema", action="store_true", help="print the JSON schema of a sweep file")
    parser.add_argument("--json", action="store_true", help="print what --dry-run finds as JSON, for programs")
    given = parser.parse_args(arguments)
    if given.json and not given.dry_run:
        parser.error("--json goes with --dry-run; --schema is JSON anyway")
    if given.sweep is None and not given.explain and not given.schema:
        parser.error("name a sweep file, e.g. jobs/sweeps/demo.yaml")
    try:
        if given.schema:
            print(schema())
            return 0
        if given.explain:
            return explain(given.sweep)
        if given.dry_run:
            return dry_run(given.sweep, as_json=given.json)
        return sweep(given.sweep, tiny=given.smoke)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
