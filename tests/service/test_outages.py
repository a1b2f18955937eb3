"""Servers are killed while a sweep runs, and stay away for a while: it goes on, and nothing is lost or done twice."""

from pathlib import Path

import pytest

from tests.chaos.count import right
from tests.chaos.servers import outages
from tests.service.conftest import Stack


@pytest.mark.timeout(290)
def test_a_sweep_survives_every_server(stack: Stack, tmp_path: Path) -> None:
    found = outages(stack.settings, tmp_path, seconds=4, trials=5)
    assert (found["kills"], found["starts"]) == (3, 1)
    assert found["finished"] > 40
    assert right(found), found
