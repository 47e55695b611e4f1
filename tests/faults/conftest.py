"""One gateway process for all fault tests but those that end it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fleet import POOLS, Gateway


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway.start(tmp_path_factory.mktemp("faults"), POOLS)
    yield running
    running.stop()
