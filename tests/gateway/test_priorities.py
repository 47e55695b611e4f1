from __future__ import annotations

import pytest

from controller.configuration import parse
from controller.store import ArtifactStore
from controller.types import Ticket, WorkerSpec
from gateway.application import create_app

POOL = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
NOON = 1_795_000_000.0


def priorities(started: float, waits: tuple[float, ...]) -> list[int | None]:
    """Of requests that come so many seconds after noon to a gateway whose machine had been up for ``started`` then."""
    app = create_app(
        parse({"pools": [POOL]}),
        store=ArtifactStore(None, None),
        clock=lambda: started,
        time_of_day=lambda: NOON,
    )
    plane = app.runtime.plane
    plane.add_worker(WorkerSpec("w", "p", "http://127.0.0.1:1", 8, priority_scheduling=True), started)
    found = []
    for wait in waits:
        plane.submit(Ticket(f"{wait}", "p", prompt_tokens=10), started + wait)
        found += [dispatch.priority for dispatch in plane.dispatch(started + wait)]
    return found


@pytest.mark.parametrize("started", [5.0, 3_000_000.0])
def test_gateways_of_different_machines_give_requests_of_one_moment_one_priority(started: float) -> None:
    first, second = priorities(started, (1.0, 20.0)), priorities(1_234.5, (20.0, 30.0))
    assert first[1] == second[0]
    assert first[0] < first[1] < second[1]  # type: ignore[operator]
    assert second[1] < 2**31  # type: ignore[operator]
