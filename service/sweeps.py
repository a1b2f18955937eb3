"""Provisional."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SweepStatus:
    """Provisional."""

    id: str
