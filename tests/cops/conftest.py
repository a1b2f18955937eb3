import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the golden figures: COPS_SHARED, or `shared` beside the checkout."""
    given = os.environ.get("COPS_SHARED")
    folder = Path(given) if given else Path(__file__).parents[2].parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden figures: '{folder}' has no folder 'golden'; set COPS_SHARED to the folder that has")
    return folder
