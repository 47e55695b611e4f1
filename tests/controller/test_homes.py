from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fairness import Vtc, VtcOptions
from controller.homes import ANYWHERE, HomeQueues
from controller.pipeline import ControlPlane
from controller.place import LeastLoad
from controller.protocols import HomeContext
from controller.settings import ControlSettings
from controller.types import Ticket, TicketId, WorkerName, WorkerPhase, WorkerSpec
from tests.controller.planes import finish, plane, stages, submit

HOMES = (ANYWHERE, "x", "y")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "discard", "pop"]),
            st.sampled_from(HOMES),
            st.sampled_from("ab"),
            st.integers(0, 9),
            st.floats(-5, 5),
        )
    )
)
@settings(max_examples=300)
def test_behaves_as_lists_whatever_is_done_to_it(steps: list[tuple[str, str, str, int, float]]) -> None:
    queues: HomeQueues[int] = HomeQueues()
    model: dict[int, tuple[str, str, float]] = {}
    for step, home, group, number, key in steps:
        item = number * 6 + HOMES.index(home) * 2 + "ab".index(group)  # an item keeps its home and group
        waited = any(g == group for _, g, _ in model.values())
        if step == "push":
            assert queues.push(home, group, item, key, item) == (not waited)
            model[item] = (home, group, key)
        elif step == "discard":
            there = model.pop(item, None) is not None
            waits = any(g == group for _, g, _ in model.values())
            assert queues.discard(home, group, item) == (there and not waits)
        else:
            mine = {i: k for i, (h, g, k) in model.items() if (h, g) == (home, group)}
            if mine:
                first = min(mine, key=lambda i: (mine[i], i))
                del model[first]
                waits = any(g == group for _, g, _ in model.values())
                assert queues.pop(home, group) == (first, not waits)
        assert len(queues) == len(model)
        assert sorted(queues) == sorted(model)
        assert set(queues.homes()) == {h for h, _, _ in model.values()}
        _firsts_are_right(queues, model, [home, ANYWHERE])


def _firsts_are_right(queues: HomeQueues[int], model: dict[int, tuple[str, str, float]], homes: list[str]) -> None:
    best: dict[str, tuple[float, int, str]] = {}
    for item, (home, group, key) in model.items():
        if home in homes and (group not in best or (key, item) < best[group][:2]):
            best[group] = (key, item, home)
    assert queues.firsts(dict.fromkeys(homes)) == {group: (home, item) for group, (_, item, home) in best.items()}


class ByFirstBlock(LeastLoad):
    """Sends each ticket to the worker that its first block names, as far as it may."""

    homes, home_s = True, 10.0

    def home(self, context: HomeContext) -> WorkerName | None:
        names = [worker.name for worker in context.workers]
        wanted = f"small-{context.ticket.prefix[0]}" if context.ticket.prefix else ""
        return wanted if wanted in names else None

    def unhomed(self, ticket: TicketId) -> None:
        pass

    def cached(self, ticket: Ticket, worker: WorkerName) -> float:
        return 0.5 if ticket.prefix and worker == f"small-{ticket.prefix[0]}" else 0.0


def _homing(workers: int = 2, fairness: Vtc | None = None, max_inflight: int = 1) -> ControlPlane:
    made = replace(stages({}), place=ByFirstBlock())
    if fairness is not None:
        made = replace(made, fairness=fairness)
    return plane(made, workers=workers, max_inflight=max_inflight)


def _full(control: ControlPlane) -> None:
    """One request runs on each of two workers: ``r0`` on small-0, ``r1`` on small-1."""
    for name in ("r0", "r1"):
        submit(control, name, 0.0)
    assert [(d.ticket, d.worker) for d in control.dispatch(0.0)] == [("r0", "small-0"), ("r1", "small-1")]


def test_a_worker_takes_first_what_waits_for_it() -> None:
    control = _homing()
    _full(control)
    submit(control, "a", 1.0, prefix=(0,))
    submit(control, "b", 1.0, prefix=(1,))
    finish(control, "r1", 2.0, 10)
    assert [(d.ticket, d.worker) for d in control.dispatch(2.0)] == [("b", "small-1")]
    finish(control, "r0", 3.0, 10)
    assert [(d.ticket, d.worker) for d in control.dispatch(3.0)] == [("a", "small-0")]


def test_of_those_that_wait_for_it_and_those_that_wait_for_any_the_order_decides() -> None:
    control = _homing()
    _full(control)
    submit(control, "any", 1.0)
    submit(control, "home", 1.5, prefix=(0,))
    finish(control, "r0", 2.0, 10)
    assert [d.ticket for d in control.dispatch(2.0)] == ["any"]


def test_no_worker_idles_while_anything_waits() -> None:
    control = _homing()
    _full(control)
    for name in ("a", "b"):
        submit(control, name, 1.0, prefix=(0,))
    finish(control, "r1", 2.0, 10)
    assert [(d.ticket, d.worker) for d in control.dispatch(2.0)] == [("a", "small-1")]


def test_what_waits_for_a_worker_is_in_its_account_until_it_leaves() -> None:
    control = _homing()
    _full(control)

    def homed() -> list[int]:
        return [worker.homed for worker in control.view(1.0).pools[0].workers]

    submit(control, "a", 1.0, prefix=(0,))
    submit(control, "b", 1.0, prefix=(0,))
    assert homed()[0] > 0
    assert homed()[1] == 0
    control.on_abort("a", 1.5)
    finish(control, "r0", 2.0, 10)
    control.dispatch(2.0)
    assert homed() == [0, 0]


@pytest.mark.parametrize("how", ["removed", "unhealthy"])
def test_what_waits_for_a_worker_that_is_lost_waits_for_any(how: str) -> None:
    control = _homing()
    _full(control)
    submit(control, "early", 1.0, prefix=(0,))
    submit(control, "late", 1.5, prefix=(1,))
    if how == "removed":
        control.remove_worker("small-0", 1.7)
    else:
        control.set_phase("small-0", WorkerPhase.UNHEALTHY, 1.7)
    finish(control, "r1", 2.0, 10)
    assert [(d.ticket, d.worker) for d in control.dispatch(2.0)] == [("early", "small-1")]


def test_fairness_picks_among_the_groups_that_wait_there() -> None:
    fair = Vtc(VtcOptions(predict=False), ControlSettings())
    control = _homing(fairness=fair)
    _full(control)
    submit(control, "ahead", 1.0, tenant="x", prefix=(0,))
    submit(control, "behind", 1.1, tenant="y", prefix=(0,))
    submit(control, "elsewhere", 1.2, tenant="z", prefix=(1,))
    fair.decoded("small", "x", 1_000)
    finish(control, "r0", 2.0, 10)
    assert [d.ticket for d in control.dispatch(2.0)] == ["behind"]


@given(
    st.lists(st.tuples(st.sampled_from(["submit", "finish", "lose", "join"]), st.integers(0, 9)), max_size=60),
    st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_every_ticket_is_sent_once_and_none_idles(steps: list[tuple[str, int]], seats: int) -> None:
    control = _homing(workers=3, max_inflight=seats)
    running: dict[str, str] = {}
    sent: defaultdict[str, int] = defaultdict(int)
    now, count = 0.0, 0
    for step, pick in steps:
        now += 1.0
        if step == "submit":
            submit(control, f"t{count}", now, prefix=(pick % 3,), tenant="ab"[pick % 2])
            count += 1
        elif step == "finish" and running:
            name = sorted(running)[pick % len(running)]
            del running[name]
            finish(control, name, now, 10)
        elif step in ("lose", "join"):
            phase = WorkerPhase.UNHEALTHY if step == "lose" else WorkerPhase.READY
            control.set_phase(f"small-{pick % 3}", phase, now)
        for dispatch in control.dispatch(now):
            running[dispatch.ticket] = dispatch.worker
            sent[dispatch.ticket] += 1
        control.tick(now)
        pool = control.view(now).pools[0]
        free = [w for w in pool.workers if w.serves and w.inflight < w.limit]
        assert not (free and pool.queued), "a worker idles while something waits"
        assert sum(w.homed for w in pool.workers) <= pool.queued_work
    assert all(times == 1 for times in sent.values())


def test_what_waits_for_a_worker_that_hangs_goes_elsewhere_once_it_has_fallen_behind() -> None:
    control = _homing()
    _full(control)
    submit(control, "stuck", 1.0, prefix=(0,))  # small-0 never answers
    served: list[str] = []
    for number in range(20):
        submit(control, f"{number}", 2.0 + number, prefix=(1,))
        finish(control, served[-1] if served else "r1", 2.5 + number, 10)
        served += [dispatch.ticket for dispatch in control.dispatch(2.5 + number)]
    assert served.index("stuck") == 10, "passed by those that came within home_s after it, by no others"


@given(
    st.lists(
        st.tuples(st.sampled_from(["submit", "submit", "finish"]), st.integers(0, 9), st.floats(0, 4)), max_size=80
    ),
    st.sampled_from(["none", "vtc", "dlpm"]),
    st.sampled_from(["fcfs", "length_rank"]),
)
@settings(max_examples=150, deadline=None)
def test_none_falls_further_behind_than_home_s_for_its_homes_sake(
    steps: list[tuple[str, int, float]], fairness: str, order: str
) -> None:
    """Whatever hangs: small-0 never answers. With ``length_rank`` and no scores all keys are half a patience late."""
    control = plane(
        replace(stages({"fairness": fairness, "order": order}), place=ByFirstBlock()), workers=3, max_inflight=1
    )
    running: dict[str, str] = {}
    now, count = 0.0, 0
    for step, pick, wait in steps:
        now += wait
        if step == "submit":
            submit(control, f"t{count}", now, prefix=(pick % 3,), tenant="ab"[pick % 2], priority=pick % 2)
            count += 1
        elif ends := sorted(name for name, worker in running.items() if worker != "small-0"):
            del running[ends[pick % len(ends)]]
            finish(control, ends[pick % len(ends)], now, 10)
        before = {view.ticket: view for view in control.queued()}
        sent = control.dispatch(now)
        for position, dispatch in enumerate(sent):
            running[dispatch.ticket] = dispatch.worker
            mine = before[dispatch.ticket]
            waiting = before.keys() - {other.ticket for other in sent[:position]}
            for other in map(before.__getitem__, waiting):
                if fairness == "none" or other.tenant == mine.tenant:
                    assert (mine.key or 0.0) <= (other.key or 0.0) + ByFirstBlock.home_s


def test_a_worker_without_a_seat_is_nobodys_home() -> None:
    control = _homing()
    control.sharing.begin(0.0)
    control.sharing.lease({"small-1": 1}, 0.0)
    submit(control, "r1", 0.0)
    assert [d.worker for d in control.dispatch(0.0)] == ["small-1"]
    for name in ("a", "b"):
        submit(control, name, 1.0, prefix=(0,))
    assert [worker.homed for worker in control.view(1.0).pools[0].workers] == [0, 0]


def test_a_worker_that_comes_back_under_its_name_owes_nothing() -> None:
    control = _homing()
    _full(control)
    submit(control, "a", 1.0, prefix=(0,))
    control.remove_worker("small-0", 2.0)
    finish(control, "r0", 2.0, 10)
    control.add_worker(WorkerSpec("small-0", "small", "http://again", 1), 2.0)
    assert [d.ticket for d in control.dispatch(2.0)] == ["a"]
    assert [worker.homed for worker in control.view(2.0).pools[0].workers] == [0, 0]


def test_whose_turn_it_is_goes_though_it_waits_elsewhere() -> None:
    fair = Vtc(VtcOptions(predict=False), ControlSettings())
    control = _homing(fairness=fair)
    _full(control)
    submit(control, "rich", 1.0, tenant="x", prefix=(0,))
    submit(control, "poor", 1.1, tenant="y", prefix=(1,))
    fair.decoded("small", "x", 1_000)
    finish(control, "r0", 2.0, 10)
    assert [(d.ticket, d.worker) for d in control.dispatch(2.0)] == [("poor", "small-0")]
