"""How long a part may take to answer, and HTTP requests to it."""

from urllib.request import Request, urlopen

SECONDS = 5.0


def get(url: str, headers: dict[str, str] | None = None) -> bytes:
    """What an address of ours answers; raises an OSError where it does not, or refuses."""
    with urlopen(Request(url, headers=headers or {}), timeout=SECONDS) as answer:  # noqa: S310  # our own http addresses
        content: bytes = answer.read()
        return content
