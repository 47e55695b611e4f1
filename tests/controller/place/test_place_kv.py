from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.kv.account import KvLimits, TokenAccount
from controller.pipeline import ControlPlane
from controller.settings import ControlSettings
from controller.stages import names
from controller.types import Scores, Usage, WorkerReport, WorkerSpec
from tests.controller.planes import SMALL, finish, record_of, sent, stages, submit


def held(
    place: str = "least_load", *, capacity: int | None = 1000, workers: int = 1, kv: KvLimits | None = None,
    order: str = "fcfs", max_inflight: int = 16,
) -> ControlPlane:  # fmt: skip
    """A pool of workers with a KV cache of so many tokens."""
    control = ControlPlane((SMALL,), stages({"place": place, "order": order}), settings=ControlSettings(kv=kv))
    for index in range(workers):
        spec = WorkerSpec(f"w{index}", SMALL.name, f"http://w{index}", max_inflight, kv_tokens=capacity)
        control.add_worker(spec, 0.0)
    return control


def ask(control: ControlPlane, name: str, now: float, prompt: int, output: int) -> None:
    submit(control, name, now, model=SMALL.name, prompt_tokens=prompt, max_tokens=output)


# The account


def figures(account: TokenAccount) -> tuple[int, int, int, int, int]:
    return account.held, account.expected, account.reserved, account.unread, account.reading


def test_an_account_follows_a_request_from_its_dispatch_to_its_end() -> None:
    account = TokenAccount(1000)
    booking = account.book(100, 50)
    assert (account.held, account.expected, account.reserved, account.unread, account.reading) == (
        100,
        150,
        150,
        100,
        1,
    )
    booking.read()
    booking.read()
    booking.produced(20, 30)
    assert figures(account) == (120, 150, 150, 0, 0)
    booking.release()
    assert (account.held, account.expected, account.reserved, account.outgrown) == (0, 0, 0, 0)


def test_an_answer_that_outgrows_its_reservation_is_reserved_anew_and_counted() -> None:
    account = TokenAccount(1000)
    booking = account.book(100, 50, 80)
    booking.produced(60, 60)
    assert (account.reserved, account.outgrown) == (180, 0)
    booking.produced(30, 90)
    assert (account.reserved, account.outgrown) == (280, 1)
    booking.release()
    assert account.reserved == 0


@given(
    st.lists(
        st.tuples(
            st.integers(1, 500), st.integers(0, 500), st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99)))
        ),
        max_size=8,
    )
)
def test_an_account_is_even_when_all_have_left(requests: list[tuple[int, int, list[tuple[int, int]]]]) -> None:
    account = TokenAccount(10_000)
    bookings = [account.book(prompt, expected) for prompt, expected, _ in requests]
    for booking, (_, _, steps) in zip(bookings, requests, strict=True):
        for new, left in steps:
            booking.produced(new, left)
            assert account.held <= account.expected
            assert account.held <= account.reserved
    for booking in bookings:
        booking.release()
        booking.release()
    assert figures(account) == (0, 0, 0, 0, 0)


def test_a_capacity_that_is_not_configured_is_learned_from_reports() -> None:
    account = TokenAccount()
    account.reported(0.5, 0)
    known = [account.capacity]
    account.book(2000, 100)
    for usage in (0.01, 0.2, 0.25):
        account.reported(usage, 0)
        known.append(account.capacity)
    assert known == [None, None, 10_000, 9_800]
    account.reported(0.9, 3)
    assert account.capacity == 9_800
    assert account.foreign == round(0.9 * 9_800) - 2000


def test_a_configured_capacity_is_not_learned() -> None:
    account = TokenAccount(5000)
    account.book(1000, 1)
    account.reported(0.9, 0)
    assert account.capacity == 5000
    with pytest.raises(ValueError, match="at least 1 token"):
        TokenAccount(0)


# Freeness


def test_freeness_goes_to_the_worker_with_most_left_for_each_request() -> None:
    control = held("freeness", capacity=None, workers=2)
    for index, tokens in enumerate((1000, 4000)):
        name = f"x{index}"
        control.add_worker(WorkerSpec(name, SMALL.name, f"http://{name}", 16, kv_tokens=tokens), 0.0)
    for name in ("w0", "w1"):
        control.remove_worker(name, 0.0)
    for number in range(4):
        ask(control, f"{number}", 0.0, 500, 100)
    assert [dispatch.worker for dispatch in control.dispatch(0.0)] == ["x1", "x1", "x1", "x0"]


def test_freeness_falls_back_to_load_where_a_capacity_is_unknown() -> None:
    control = held("freeness", capacity=None, workers=2)
    ask(control, "one", 0.0, 10, 10)
    (dispatch,) = control.dispatch(0.0)
    finish(control, "one", 1.0)
    choice = next(choice for choice in record_of(control, "one").choices if choice.stage == "place")
    assert (choice.by, choice.fallback, choice.chosen) == ("least_load", "unknown_capacity", dispatch.worker)


def test_of_two_full_workers_the_less_overdrawn_is_the_freer() -> None:
    control = held("freeness", workers=2, capacity=100)
    control.on_worker_report("w0", WorkerReport(0.0, 1, 0, 0.0), 0.0)
    ask(control, "small", 0.0, 150, 10)
    ask(control, "large", 0.0, 400, 10)
    ask(control, "third", 0.0, 50, 10)
    first, second, third = control.dispatch(0.0)
    assert first.worker != second.worker
    assert third.worker == first.worker


# Admission


def test_a_request_waits_until_what_it_will_hold_fits() -> None:
    control = held(kv=KvLimits(share=1.0))
    ask(control, "runs", 0.0, 500, 300)
    ask(control, "waits", 0.0, 200, 100)
    assert sent(control.dispatch(0.0)) == ["runs"]
    assert sent(control.dispatch(1.0)) == []
    finish(control, "runs", 2.0)
    assert sent(control.dispatch(2.0)) == ["waits"]


def test_without_admission_all_go_at_once() -> None:
    control = held()
    ask(control, "runs", 0.0, 500, 300)
    ask(control, "waits", 0.0, 200, 100)
    assert sent(control.dispatch(0.0)) == ["runs", "waits"]


def test_a_request_too_large_for_any_budget_runs_alone() -> None:
    control = held(kv=KvLimits(share=1.0))
    ask(control, "huge", 0.0, 5000, 100)
    ask(control, "next", 0.1, 10, 10)
    assert sent(control.dispatch(0.1)) == ["huge"]
    finish(control, "huge", 1.0)
    assert sent(control.dispatch(1.0)) == ["next"]


def test_a_worker_of_unknown_capacity_takes_all() -> None:
    control = held(capacity=None, kv=KvLimits(share=1.0))
    for number in range(5):
        ask(control, f"{number}", 0.0, 5000, 100)
    assert len(control.dispatch(0.0)) == 5


def test_of_equal_turn_the_larger_goes_first() -> None:
    control = held(kv=KvLimits(share=1.0))
    for name, prompt in (("small", 100), ("large", 600), ("middle", 400)):
        ask(control, name, 0.0, prompt, 50)
    assert sent(control.dispatch(0.0)) == ["large", "small"]
    assert {view.ticket for view in control.queued()} == {"middle"}


def test_others_pass_one_that_does_not_fit_only_so_often() -> None:
    control = held(kv=KvLimits(share=1.0, passes=3, hold_s=1e9))
    ask(control, "runs", 0.0, 500, 100)
    control.dispatch(0.0)
    ask(control, "large", 0.1, 600, 100)
    passed = []
    for number in range(6):
        ask(control, f"{number}", 1.0 + number, 20, 10)
        passed += sent(control.dispatch(1.0 + number))
    assert passed == ["0", "1", "2"]
    finish(control, "runs", 9.0)
    assert sent(control.dispatch(9.0))[0] == "large"


def test_others_pass_one_that_does_not_fit_only_so_long() -> None:
    control = held(kv=KvLimits(share=1.0, passes=1000, hold_s=5.0))
    ask(control, "runs", 0.0, 500, 100)
    control.dispatch(0.0)
    ask(control, "large", 0.0, 600, 100)
    went = []
    for at in (0.0, 1.0, 4.0, 5.0, 6.0):
        ask(control, f"{at}", at, 20, 10)
        went += sent(control.dispatch(at))
    assert went == ["0.0", "1.0", "4.0"]


def test_the_quantile_is_reserved_where_it_is_asked_for() -> None:
    scores = Scores(0.0, 50.0, output_high=400.0)
    for high, fits in ((False, ["one", "two"]), (True, ["one"])):
        control = held(kv=KvLimits(share=1.0, high=high), order="length_rank")
        for number, name in enumerate(("one", "two")):
            submit(control, name, float(number), model=SMALL.name, prompt_tokens=300)
            control.on_scores(name, scores, float(number))
        assert sent(control.dispatch(2.0)) == fits


@pytest.mark.parametrize("values", [{"share": 0.0}, {"passes": -1}, {"hold_s": -1.0}, {"lookahead": 0}])
def test_limits_refuse_nonsense(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="too small"):
        KvLimits(**values)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 400)), min_size=1, max_size=40),
    st.sampled_from(names("place")),
    st.integers(0, 4),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=60)
def test_with_admission_all_are_served_within_the_budget_and_none_is_passed_too_often(
    sizes: list[tuple[int, int]], place: str, passes: int, workers: int
) -> None:
    control = held(place, workers=workers, kv=KvLimits(share=1.0, passes=passes, hold_s=1e9))
    admission = control._dispatcher.kv
    assert admission is not None
    for number, (prompt, output) in enumerate(sizes):
        ask(control, f"{number}", float(number) / 100.0, prompt, output)
    now = 1.0
    order: list[int] = []
    running: dict[str, str] = {}
    while len(order) < len(sizes):
        kept = {one.worker.name: one.state.ticket.id for one in admission._kept.values()}
        for dispatch in control.dispatch(now):
            assert kept.get(dispatch.worker) in (None, dispatch.ticket, *running, *map(str, order)), "kept for another"
            order.append(int(dispatch.ticket))
            running[dispatch.ticket] = dispatch.worker
        for view in control.view(now).pool(SMALL.name).workers:
            assert view.kv_expected <= 1000 or view.inflight == 1
        first = next(iter(running))
        del running[first]
        prompt, output = sizes[int(first)]
        control.on_first_token(first, now)
        control.on_finish(first, Usage(prompt, min(output, 5)), now)
        now += 1.0
    if workers == 1:
        for number in range(len(sizes)):
            later = [other for other in order[: order.index(number)] if other > number]
            assert len(later) <= passes


def test_a_worker_is_kept_for_a_request_too_large_to_fit_beside_others_and_the_other_workers_go_on() -> None:
    control = held(workers=2, kv=KvLimits(share=1.0, passes=1, hold_s=1e9))
    for name in ("long-0", "long-1"):
        ask(control, name, 0.0, 700, 100)
    assert len(control.dispatch(0.0)) == 2
    ask(control, "huge", 0.1, 5000, 100)
    served: dict[str, str] = {}
    for number in range(6):
        ask(control, f"{number}", 1.0 + number, 50, 20)
        served |= {dispatch.ticket: dispatch.worker for dispatch in control.dispatch(1.0 + number)}
        finish(control, f"{number}", 1.5 + number)
    assert list(served) == [f"{number}" for number in range(6)], "nobody waits for the huge one"
    assert len({served[f"{number}"] for number in range(1, 6)}) == 1, "from the first pass on one worker is kept"
    other = served["5"]
    running = {f"long-{index}": f"w{index}" for index in range(2)}
    finish(control, next(name for name, worker in running.items() if worker != other), 8.0)
    assert [dispatch.ticket for dispatch in control.dispatch(8.0)] == ["huge"]


def test_no_worker_is_kept_for_a_request_that_it_has_failed_while_another_serves() -> None:
    control = held(workers=2, kv=KvLimits(share=1.0, passes=0))
    ask(control, "huge", 0.0, 5000, 100)
    (first,) = control.dispatch(0.0)
    ask(control, "long", 0.1, 700, 100)
    (other,) = control.dispatch(0.1)
    assert other.worker != first.worker
    control.on_worker_error("huge", "reset", 0.2, retryable=True)
    assert control.dispatch(1.0) == ()
    finish(control, "long", 2.0)
    assert [(again.ticket, again.worker) for again in control.dispatch(2.0)] == [("huge", other.worker)]


def test_a_worker_is_kept_no_longer_when_the_request_has_gone_away() -> None:
    control = held(kv=KvLimits(share=1.0, passes=0))
    ask(control, "runs", 0.0, 500, 100)
    control.dispatch(0.0)
    ask(control, "huge", 0.1, 5000, 100)
    ask(control, "next", 0.2, 50, 20)
    assert sent(control.dispatch(0.2)) == []
    control.on_abort("huge", 0.3)
    assert sent(control.dispatch(0.3)) == ["next"]


def homing(workers: int, kv: KvLimits) -> ControlPlane:
    """Tickets wait at the worker that has their first block cached."""
    made = stages({"place": ("prefix", {"gate_ratio": 1e6, "home_s": 1e6})})
    control = ControlPlane((SMALL,), made, settings=ControlSettings(kv=kv, max_queue_s=1e9))
    for index in range(workers):
        control.add_worker(WorkerSpec(f"w{index}", SMALL.name, f"http://w{index}", 4, kv_tokens=1000), 0.0)
    return control


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 1200), st.integers(1, 300), st.booleans()), min_size=1, max_size=40
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_where_tickets_wait_for_particular_workers_none_waits_while_a_worker_has_room_for_it(
    script: list[tuple[int, int, int, bool]], homes: bool
) -> None:
    kv = KvLimits(share=1.0, lookahead=40)
    control = homing(3, kv) if homes else held(workers=3, kv=kv, max_inflight=4)
    admission = control._dispatcher.kv
    assert admission is not None
    running: dict[str, str] = {}
    for number, (block, prompt, output, ends) in enumerate(script):
        now = 1.0 + number / 10.0  # none waits so long that a worker is kept for it
        submit(control, f"{number}", now, model=SMALL.name, prompt_tokens=prompt, max_tokens=output, prefix=(block,))
        if ends and running:
            gone = next(iter(running))
            del running[gone]
            finish(control, gone, now, 1)
        running |= {dispatch.ticket: dispatch.worker for dispatch in control.dispatch(now)}
        if admission._kept:
            return
        free = control._fleet.pools[SMALL.name].with_room()
        for state in control._waiting:
            assert not admission.fitting(state, free), "kept waiting though there is room"


def test_a_home_whose_requests_do_not_fit_keeps_nobody_else_waiting() -> None:
    control = homing(2, KvLimits(share=1.0, lookahead=2))
    for index in range(2):  # each worker gets a block of its own
        submit(control, f"warm-{index}", 0.0, model=SMALL.name, prompt_tokens=10, max_tokens=5, prefix=(index,))
    warm = {dispatch.ticket: dispatch.worker for dispatch in control.dispatch(0.0)}
    assert set(warm.values()) == {"w0", "w1"}
    for index in range(6):  # and has every seat taken
        name = f"fill-{index}"
        submit(control, name, 0.1, model=SMALL.name, prompt_tokens=200, max_tokens=50, prefix=(index % 2,))
    assert len(control.dispatch(0.1)) == 6
    for index in range(4):
        submit(control, f"large-{index}", 0.2, model=SMALL.name, prompt_tokens=900, max_tokens=50, prefix=(0,))
    submit(control, "small", 0.3, model=SMALL.name, prompt_tokens=50, max_tokens=5, prefix=(1,))
    assert control.dispatch(0.3) == ()
    for index in range(2):
        finish(control, f"warm-{index}", 0.4, 5)
    assert sent(control.dispatch(0.4)) == ["small"]


def test_what_waited_behind_a_kept_worker_goes_when_the_request_it_was_kept_for_has_left() -> None:
    control = held(kv=KvLimits(share=1.0, hold_s=0.0, passes=0, lookahead=16))
    ask(control, "run", 0.0, 500, 300)
    assert sent(control.dispatch(0.0)) == ["run"]
    ask(control, "big", 0.1, 500, 400)
    ask(control, "little", 0.1, 50, 50)
    assert not sent(control.dispatch(0.1))
    assert not sent(control.dispatch(0.2))
    control.on_abort("big", 0.3)
    assert sent(control.dispatch(0.3)) == ["little"]
