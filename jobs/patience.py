"""Servers go away for a while: what is asked of them is asked again until they are back."""

from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import retry, retry_if_exception, stop_after_delay, wait_random_exponential

PATIENCE_SECONDS = 300.0  # of outage, which a sweep waits out; longer ones count as an error
LONGEST_PAUSE = 5.0  # seconds between two tries
Call = TypeVar("Call", bound=Callable[..., Any])


def patiently(passing: Callable[[BaseException], bool], seconds: float = PATIENCE_SECONDS) -> Callable[[Call], Call]:
    """Decorate a call that may be repeated: errors that are `passing` are raised only after so many seconds of them."""
    decorator: Any = retry(
        retry=retry_if_exception(passing),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE),
        reraise=True,
    )
    return decorator  # type: ignore[no-any-return]  # it keeps the signature
