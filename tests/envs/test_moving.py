from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.pipeline import ControlPlane
from controller.settings import ControlSettings
from controller.types import Move, PoolSpec, Result, Ticket, Usage, WorkerSpec
from controller.view import FleetView, TicketView
from envs.engines.sim import SimEngine
from envs.fleet import Ended, FleetRequest
from envs.moving import MovingFleet
from predictors.latency.model import Profile
from tests.controller.planes import stages

POOL = PoolSpec("p", "model", 0)
PROFILE = Profile(
    "even", "model", a=0.01, b=1e-5, c=0.0, d=0.0, request_overhead_s=0.0, token_overhead_s=0.0, max_num_seqs=8,
    max_num_batched_tokens=8192, kv_blocks=4096, block_size=16, max_model_len=8192, cold_start_s=1.0, sleep_s=1.0,
    wake_s=1.0, usd_per_hour=1.0,
)  # fmt: skip


class EveryTwoSeconds:
    """Sends the stream back and forth."""

    name = "test"
    interval_s: float | None = 2.0

    def plan(self, view: FleetView, running: Sequence[TicketView], now: float) -> Sequence[Move]:
        return [Move(one.ticket, "b" if one.worker == "a" else "a", "test") for one in running]


def run(*, moves: bool, tokens: int = 1000, pause_s: float = 0.1) -> tuple[MovingFleet, Ended]:
    made = stages({})
    chosen = replace(made, rebalance=EveryTwoSeconds()) if moves else made
    fleet = MovingFleet(ControlPlane([POOL], chosen, settings=ControlSettings()), pause_s=pause_s)
    for name in ("a", "b"):
        fleet.add_worker(WorkerSpec(name, "p", f"sim://{name}", 8), SimEngine(PROFILE))
    (ended,) = fleet.replay([FleetRequest(0.0, Ticket("t", "p", prompt_tokens=100), 100, {"p": tokens})])
    return fleet, ended


def test_a_moved_answer_has_all_its_tokens_and_takes_longer_by_its_pauses_and_reading() -> None:
    _, whole = run(moves=False)
    fleet, moved = run(moves=True)
    assert [at for at, _ in fleet.moves] == [0.25, 2.25, 4.25, 6.25, 8.25, 10.25]
    assert (moved.result, moved.output_tokens) == (Result.COMPLETED, whole.output_tokens) == (Result.COMPLETED, 1000)
    assert moved.first_token_at == whole.first_token_at
    record = fleet.control.records.find("t")
    assert record is not None
    assert (record.usage, record.continued) == (Usage(100, 1000, 0), len(fleet.moves))
    assert whole.latency is not None
    assert moved.latency is not None
    longer = (moved.latency - whole.latency) / len(fleet.moves)
    assert longer == pytest.approx(0.1, abs=0.03), "a pause, a step that was begun in vain, and reading"
    view = fleet.control.view(fleet.now)
    assert [(one.work, one.inflight) for one in view.pools[0].workers] == [(0, 0)] * 2


def test_the_same_moves_give_the_same_times() -> None:
    assert run(moves=True)[1].at == run(moves=True)[1].at
