"""Kills at random what a sweep runs on, and counts what came of it: `python -m tests.chaos [--kills N] [--json]`."""
