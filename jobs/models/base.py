"""What the families share."""

from typing import Annotated

from pydantic import Field

Shape = tuple[int, int, int]
Width = Annotated[float, Field(gt=0, le=16)]


def scaled(channels: tuple[int, ...], width: float) -> list[int]:
    """Channels, `width` times as many; at least one of each."""
    return [max(1, round(width * count)) for count in channels]
