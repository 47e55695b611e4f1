from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.place import Prefix, PrefixOptions
from controller.prefix import block_hashes
from controller.protocols import PlaceContext
from controller.types import Ticket, WorkerPhase, WorkerReport
from controller.view import PoolView, WorkerView
from tests.controller.planes import finish, plane, submit

PROMPT = block_hashes("the same long system prompt " * 100)


def test_round_robin_takes_turns() -> None:
    control = plane({"place": "round_robin"}, workers=3, max_inflight=4)
    for index in range(6):
        submit(control, f"{index}", 0.0)
    assert [d.worker for d in control.dispatch(0.0)] == ["small-0", "small-1", "small-2"] * 2


def test_round_robin_passes_over_full_workers() -> None:
    control = plane({"place": "round_robin"}, workers=2, max_inflight=2)
    for index in range(4):
        submit(control, f"{index}", 0.0)
    control.dispatch(0.0)
    finish(control, "1", 1.0)
    submit(control, "next", 1.0)
    assert [d.worker for d in control.dispatch(1.0)] == ["small-1"]


def test_least_load_counts_tokens_not_requests() -> None:
    control = plane({"place": "least_load"}, workers=2, max_inflight=8)
    submit(control, "heavy", 0.0, prompt_tokens=4000, max_tokens=256)
    control.dispatch(0.0)
    for index in range(2):
        submit(control, f"light-{index}", 0.0, prompt_tokens=10, max_tokens=20)
    assert [d.worker for d in control.dispatch(0.0)] == ["small-1", "small-1"]


def test_least_load_sees_its_own_dispatches_before_any_report() -> None:
    """Stale metrics must not herd: both reports say idle, yet the work is spread."""
    control = plane({"place": "least_load"}, workers=2, max_inflight=8)
    for name in ("small-0", "small-1"):
        control.on_worker_report(name, WorkerReport(0.0, 0, 0, 0.0), 0.0)
    for index in range(8):
        submit(control, f"{index}", 0.1)
    placed = Counter(dispatch.worker for dispatch in control.dispatch(0.1))
    assert placed == {"small-0": 4, "small-1": 4}


def test_least_load_avoids_a_worker_that_others_keep_busy() -> None:
    control = plane({"place": "least_load"}, workers=2, max_inflight=8)
    control.on_worker_report("small-0", WorkerReport(1.0, 6, 0, 0.5), 1.0)
    submit(control, "mine", 1.0)
    assert [d.worker for d in control.dispatch(1.0)] == ["small-1"]


def test_prefix_returns_to_the_worker_that_has_seen_the_prompt() -> None:
    control = plane({"place": "prefix"}, workers=4, max_inflight=8)
    submit(control, "first", 0.0, prefix=PROMPT)
    (first,) = control.dispatch(0.0)
    finish(control, "first", 1.0)
    for index in range(3):
        submit(control, f"{index}", 2.0 + index, prefix=PROMPT)
        (again,) = control.dispatch(2.0 + index)
        assert again.worker == first.worker
        finish(control, f"{index}", 2.5 + index)


def test_a_popular_prefix_does_not_overload_one_worker() -> None:
    control = plane({"place": "prefix"}, workers=4, max_inflight=16)
    for index in range(40):
        submit(control, f"{index}", 0.0, prefix=PROMPT)
        control.dispatch(0.0)
    load = Counter(ticket.worker for ticket in control.running())
    assert set(load) == {f"small-{index}" for index in range(4)}
    assert max(load.values()) <= 2 * min(load.values())


def test_a_match_too_small_is_no_reason_for_a_detour() -> None:
    control = plane({"place": ("prefix", {"min_match": 0.5})}, workers=2, max_inflight=8)
    submit(control, "first", 0.0, prefix=PROMPT[:1])
    (first,) = control.dispatch(0.0)
    submit(control, "second", 0.0, prefix=PROMPT)
    (second,) = control.dispatch(0.0)
    assert second.worker != first.worker


def test_a_restarted_worker_has_an_empty_cache() -> None:
    control = plane({"place": "prefix"}, workers=2, max_inflight=8)
    submit(control, "first", 0.0, prefix=PROMPT)
    (first,) = control.dispatch(0.0)
    finish(control, "first", 0.5)
    spec = next(w for w in control.view(0.5).pools[0].workers if w.name == first.worker)
    control.remove_worker(first.worker, 1.0)
    assert spec.name not in {w.name for w in control.view(1.0).pools[0].workers}
    submit(control, "second", 1.0, prefix=PROMPT)
    (second,) = control.dispatch(1.0)
    assert second.worker != first.worker


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 50.0, 90.0, 200.0]), st.integers(0, 8)), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)
def test_prefix_takes_the_longest_match_worth_a_detour_and_the_least_load_of_those(
    workers: list[tuple[float, int]], min_match: float
) -> None:
    options = PrefixOptions(min_match=min_match)
    stage, prompt = Prefix(options), tuple(range(8))
    views = []
    for number, (load, matched) in enumerate(workers):
        name = f"w{number}"
        stage.placed(Ticket("before", "m", prefix=prompt[:matched]), name)
        views.append(WorkerView(name, "p", WorkerPhase.READY, 4, 0, 0, 0, load, 0, False, None))
    gate = min(load for load, _ in workers) * options.gate_ratio + options.gate_slack
    worth = [
        (-matched, load, f"w{number}")
        for number, (load, matched) in enumerate(workers)
        if matched and matched >= min_match * 8 and load <= gate
    ]
    idle = min((load, f"w{number}") for number, (load, _) in enumerate(workers))
    asked = PlaceContext(Ticket("t", "m", prefix=prompt), tuple(views), 0.0, np.random.default_rng(0), _never)
    assert stage.choose(asked).chosen == (min(worth)[2] if worth else idle[1])


def _never() -> PoolView:
    raise AssertionError("the pool is not looked at")
