from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.backlog import Backlog
from controller.limits import Demand, Limits, Quota, _no_room, _too_fast, _too_many
from controller.settings import ControlSettings, TenantSpec
from controller.types import Rejected, Ticket, Usage
from tests.controller.planes import plane, refused, submit

NOTHING = Backlog()


def limits(**quota: object) -> Limits:
    return Limits({"t": Quota(**quota)}, Quota())  # type: ignore[arg-type]


def ask(kept: Limits, name: str, now: float, tokens: int = 1, tenant: str = "t") -> Rejected | None:
    return kept.admit(Ticket(name, "m", tenant), tokens, NOTHING, now)


def admitted(kept: Limits, now: float, tokens: int = 1, tenant: str = "t") -> int:
    """How many are taken one after the other at this moment."""
    names = (f"{tenant}{now}.{index}" for index in range(100_000))
    return next(count for count, name in enumerate(names) if ask(kept, name, now, tokens, tenant) is not None)


# Rates.


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one() -> None:
    kept = limits(requests_per_s=0.5)
    assert admitted(kept, 0.0) == 30
    refusal = ask(kept, "over", 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
    assert "30 requests a minute" in refusal.message
    assert refusal.retry_after == pytest.approx(2.0, abs=1e-3)
    assert admitted(kept, refusal.retry_after or 0.0) == 1


def test_a_burst_may_be_less_than_a_minutes_worth() -> None:
    assert admitted(limits(requests_per_s=10.0, burst_s=2.0), 0.0) == 20


def test_however_slow_the_rate_one_request_fits() -> None:
    kept = limits(requests_per_s=1 / 3600)
    assert admitted(kept, 0.0) == 1
    assert admitted(kept, 3500.0) == 0
    assert admitted(kept, 3601.0) == 1


def test_tokens_are_held_by_estimate_and_settled_by_count() -> None:
    kept = limits(tokens_per_s=10.0)
    assert ask(kept, "a", 0.0, 500) is None
    refusal = ask(kept, "b", 0.0, 200)
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(10.0, abs=1e-3)
    assert "600 tokens a minute" in refusal.message
    kept.end("a", 100, 0.0)
    assert ask(kept, "b", 0.0, 500) is None


def test_an_answer_longer_than_estimated_is_paid_back() -> None:
    kept = limits(tokens_per_s=10.0)
    ask(kept, "a", 0.0, 100)
    kept.end("a", 900, 0.0)
    refusal = ask(kept, "b", 0.0, 1)
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(30.1, abs=1e-3)


def test_what_came_to_nothing_costs_nothing() -> None:
    kept = limits(tokens_per_s=10.0, requests_per_s=1.0)
    before = kept.standing("t", 0.0)
    ask(kept, "a", 0.0, 100)
    assert kept.standing("t", 0.0) != before
    kept.end("a", None, 0.0)
    assert kept.standing("t", 0.0) == before
    kept.end("a", 5, 0.0)
    assert kept.standing("t", 0.0) == before, "a request ends once"


def test_a_refusal_takes_nothing() -> None:
    kept = limits(tokens_per_s=1.0, requests_per_s=1.0, concurrency=1)
    ask(kept, "a", 0.0, 10)
    before = kept.standing("t", 0.0)
    assert ask(kept, "b", 0.0, 10) is not None
    kept.end("a", 10, 0.0)
    assert ask(kept, "c", 0.0, 55) is not None
    assert kept.standing("t", 0.0) == before


def test_a_request_that_can_never_fit_is_told_so_and_not_to_come_back() -> None:
    refusal = ask(limits(tokens_per_s=10.0, burst_s=1.0), "a", 0.0, 601)
    assert refusal is not None
    assert (refusal.code, refusal.retry_after) == ("rate_limit_exceeded", None)
    assert "601 tokens" in refusal.message
    assert ask(limits(tokens_per_s=10.0, burst_s=1.0), "a", 0.0, 600) is None, "more than a burst, less than a minute's"


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[float, int, int | None]]:
    """(time, estimate, true count or nothing)."""
    times = sorted(draw(st.lists(st.integers(0, 4000).map(lambda n: n / 8), max_size=60)))
    counts = st.none() | st.integers(0, 300)
    return [(at, draw(st.integers(1, 64)), draw(counts)) for at in times]


@given(traffic())
@settings(max_examples=60)
def test_over_any_time_a_tenant_gets_no_more_than_its_burst_and_its_rate(
    history: list[tuple[float, int, int | None]],
) -> None:
    kept = limits(requests_per_s=0.25, tokens_per_s=2.0, burst_s=32.0)
    requests: list[float] = []
    tokens: list[tuple[float, int]] = []
    for index, (at, estimate, true) in enumerate(history):
        if ask(kept, f"{index}", at, estimate) is None:
            kept.end(f"{index}", true, at)
            if true is not None:
                requests.append(at)
                tokens.append((at, true))
    for first in range(len(requests)):
        for last in range(first, len(requests)):
            span = requests[last] - requests[first]
            assert last - first + 1 <= 8 + 0.25 * span
            before_the_last = sum(count for _, count in tokens[first:last])
            assert before_the_last <= 64 + 2.0 * span, "only the last may have been longer than it seemed"


# Requests at once, and waiting.


def test_concurrency_counts_from_admission_to_the_end() -> None:
    kept = limits(concurrency=2)
    assert admitted(kept, 0.0) == 2
    refusal = ask(kept, "c", 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after) == (429, "concurrency_limit_exceeded", 1.0)
    kept.end("t0.0.0", 5, 0.0)
    assert admitted(kept, 0.0) == 1


def test_a_tenants_room_in_the_queue_is_bounded_in_requests_and_bytes() -> None:
    kept = limits(max_queue=2, max_queue_bytes=100)
    backlog = Backlog()
    first, second = Ticket("a", "m", "t", body_bytes=150), Ticket("b", "m", "t", body_bytes=50)
    assert kept.admit(first, 1, backlog, 0.0) is None, "one is always let in"
    backlog.add(first)
    refusal = kept.admit(second, 1, backlog, 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (429, "queue_full")
    assert "max_queue_bytes is 100" in refusal.message
    backlog.remove(first)
    for name in ("c", "d"):
        small = Ticket(name, "m", "t", body_bytes=1)
        assert kept.admit(small, 1, backlog, 0.0) is None
        backlog.add(small)
    refusal = kept.admit(Ticket("e", "m", "t"), 1, backlog, 0.0)
    assert refusal is not None
    assert "max_queue is 2" in refusal.message


# Tenants.


def test_each_tenant_has_its_own_and_the_unlimited_have_none() -> None:
    kept = Limits({"gold": Quota(), "t": Quota(requests_per_s=1.0)}, Quota(requests_per_s=0.1))
    assert [admitted(kept, 0.0, tenant=name) for name in ("t", "new", "newer")] == [60, 6, 6]
    assert all(ask(kept, f"g{index}", 0.0, 10**9, "gold") is None for index in range(100))
    assert kept.standing("gold", 0.0) is None


def test_unlisted_tenants_take_bounded_memory_and_making_up_names_ends_in_one_account() -> None:
    kept = Limits({}, Quota(requests_per_s=0.1), accounts=10)
    assert sum(admitted(kept, 0.0, tenant=f"made-up-{index}") for index in range(50)) == 11 * 6


def test_accounts_that_have_filled_up_again_make_room() -> None:
    kept = Limits({}, Quota(requests_per_s=0.1), accounts=10)
    for index in range(10):
        assert admitted(kept, 0.0, tenant=f"early-{index}") == 6
    for index in range(60):
        kept.end(f"early-{index // 6}0.0.{index % 6}", 1, 0.0)
    assert admitted(kept, 61.0, tenant="late") == 6
    assert admitted(kept, 61.0, tenant="later") == 6


def test_a_standing_says_what_is_left_and_when_all_of_it_is_back() -> None:
    kept = limits(requests_per_s=1.0, tokens_per_s=100.0)
    ask(kept, "a", 0.0, 1500)
    standing = kept.standing("t", 0.0)
    assert standing is not None
    assert standing.requests == (60, 59, 1.0)
    assert standing.tokens == (6000, 4500, 15.0)
    kept.end("a", 9000, 0.0)
    standing = kept.standing("t", 0.0)
    assert standing is not None
    assert standing.tokens == (6000, 0, 90.0)


# Sharing and changing.


def test_processes_with_shares_admit_together_what_one_would() -> None:
    processes = [limits(requests_per_s=1.0, concurrency=10) for _ in range(3)]
    for process, share in zip(processes, (0.5, 0.3, 0.2), strict=True):
        process.lease({"t": share}.__getitem__, 2, 0.0)
    assert [admitted(process, 0.0) for process in processes] == [5, 3, 2]
    standing = processes[0].standing("t", 0.0)
    assert standing is not None
    assert standing.requests is not None
    assert standing.requests.limit == 60, "the client sees its tenant's whole limit"
    processes[0].lease(lambda tenant: 0.0, 2, 0.0)
    processes[0].end("t0.0.0", 1, 0.0)
    refusal = ask(processes[0], "more", 1000.0)
    assert refusal is not None
    assert refusal.retry_after == 1.0


def test_a_lease_tells_tenants_apart() -> None:
    kept = Limits({"t": Quota(requests_per_s=1.0)}, Quota(requests_per_s=1.0))
    kept.lease(lambda tenant: 1.0 if tenant == "t" else 0.5, 1, 0.0)
    assert (admitted(kept, 0.0), admitted(kept, 0.0, tenant="other")) == (60, 30)


def test_a_tenant_that_is_new_to_a_process_has_saved_up_its_even_part() -> None:
    kept = Limits({"t": Quota(requests_per_s=1.0)}, Quota())
    kept.lease(lambda tenant: 1.0, 4, 0.0)
    assert admitted(kept, 0.0) == 15
    assert admitted(kept, 30.0) == 30


def test_only_a_larger_share_would_help() -> None:
    kept = Limits({"t": Quota(concurrency=4)}, Quota())
    assert not kept.cramped("t", 0.0), "nothing is shared"
    kept.lease(lambda tenant: 0.25, 4, 0.0)
    assert not kept.cramped("t", 0.0)
    assert ask(kept, "a", 0.0) is None
    assert kept.cramped("t", 0.0)
    kept.lease(lambda tenant: 1.0, 4, 0.0)
    assert admitted(kept, 0.0) == 3
    assert not kept.cramped("t", 0.0), "all four are under way here"
    assert not kept.cramped("other", 0.0), "it has no limits"


def test_demand_is_what_was_asked_for_whether_taken_or_not() -> None:
    kept = limits(concurrency=1)
    for name in "abc":
        ask(kept, name, 0.0, 10)
    assert kept.demand() == {"t": Demand(3, 30, 1)}
    assert kept.demand() == {"t": Demand(0, 0, 1)}
    kept.end("a", 10, 0.0)
    assert kept.demand() == {}


def test_other_limits_hold_at_once_and_forget_nothing() -> None:
    kept = limits(requests_per_s=1.0, concurrency=1)
    ask(kept, "a", 0.0)
    kept.reconfigure({"t": Quota(requests_per_s=0.5, concurrency=2)}, Quota(), 0.0)
    assert admitted(kept, 0.0) == 1, "one of two is still under way"
    kept.end("a", 1, 0.0)
    standing = kept.standing("t", 0.0)
    assert standing is not None
    assert standing.requests is not None
    assert (standing.requests.limit, standing.requests.remaining) == (30, 29)
    kept.reconfigure({}, Quota(), 0.0)
    assert kept.standing("t", 0.0) is None
    kept.end("t0.0.0", 1, 0.0)


# In the control plane.


STEPS = ("submit", "submit", "submit", "abort", "finish", "error", "fatal", "wait")


def controlled(**quota: object) -> ControlSettings:
    return ControlSettings(tenants={"t": TenantSpec(quota=Quota(**quota))})  # type: ignore[arg-type]


def test_a_request_is_charged_when_it_is_answered() -> None:
    control = plane(settings=controlled(tokens_per_s=10.0, concurrency=1))
    submit(control, "a", 0.0, tenant="t", prompt_tokens=50, max_tokens=100)
    control.dispatch(0.0)
    assert remaining(control) == 450
    control.on_finish("a", Usage(40, 60), 0.0)
    assert remaining(control) == 500
    submit(control, "b", 0.0, tenant="t", prompt_tokens=50, max_tokens=100)


def test_several_answers_count_severally() -> None:
    control = plane(settings=controlled(tokens_per_s=10.0))
    submit(control, "a", 0.0, tenant="t", prompt_tokens=50, max_tokens=100, answers=3)
    assert remaining(control) == 250


ENDINGS = (
    ("queue_timeout", 600),
    ("left_the_queue", 600),
    ("left_before_the_first_token", 550),
    ("left_after_ten_tokens", 540),
    ("answered_without_a_count", 450),
    ("streamed_without_a_count", 540),
    ("worker_failed", 600),
    ("worker_failed_after_ten_tokens", 540),
)


@pytest.mark.parametrize(("how", "left"), ENDINGS)
def test_what_an_ending_costs(how: str, left: int) -> None:
    control = plane(settings=controlled(tokens_per_s=10.0), max_inflight=1)
    submit(control, "a", 0.0, tenant="t", prompt_tokens=50, max_tokens=100)
    if how == "queue_timeout":
        control.remove_worker("small-0", 0.0)
        control.tick(1e-6)
        assert control.tick(2.5).rejected[0].code == "no_worker"
    elif how == "left_the_queue":
        control.on_abort("a", 0.0)
    else:
        control.dispatch(0.0)
        if how.endswith("ten_tokens"):
            control.on_tokens("a", 10, 0.0)
        if how.startswith("streamed"):
            control.on_tokens("a", 10, 0.0)
        if how.endswith("without_a_count"):
            control.on_finish("a", None, 0.0)
        elif how.startswith("left"):
            control.on_abort("a", 0.0)
        else:
            control.on_worker_error("a", "broken", 0.0, retryable=False)
    assert remaining(control) == left


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=60))
@settings(max_examples=80, deadline=None)
def test_whatever_happens_the_account_is_of_what_is_under_way(steps: list[tuple[str, int]]) -> None:
    control = plane(workers=2, max_inflight=1, settings=controlled(concurrency=5, tokens_per_s=1e6))
    now, serial = 0.0, 0
    for step, which in steps:
        now += 0.5
        running = [ticket.ticket for ticket in control.running()]
        everything = running + [ticket.ticket for ticket in control.queued()]
        if step == "submit":
            serial += 1
            control.submit(Ticket(f"{serial}", "auto", "t", 40, body_bytes=which), now)
        elif step == "abort" and everything:
            control.on_abort(everything[which % len(everything)], now)
        elif step == "finish" and running:
            control.on_finish(running[which % len(running)], Usage(10, which), now)
        elif step in ("error", "fatal") and running:
            control.on_worker_error(running[which % len(running)], "broken", now, retryable=step == "error")
        elif step == "wait":
            now += 10.0 * which
        control.tick(now)
        control.dispatch(now)
        under_way = len(control.running()) + len(control.queued())
        assert under_way <= 5
        found = control.limits.demand().get("t")
        assert (0 if found is None else found.concurrency) == under_way
    for ticket in [*control.running(), *control.queued()]:
        control.on_abort(ticket.ticket, now)
    assert control.limits.demand().get("t", Demand(0, 0, 0)).concurrency == 0


def test_a_refusal_of_the_limits_is_recorded_like_any_other() -> None:
    control = plane(settings=controlled(concurrency=1))
    submit(control, "a", 0.0, tenant="t")
    answer = refused(control, "b", 0.0, tenant="t")
    assert (answer.status, answer.code) == (429, "concurrency_limit_exceeded")
    assert control.records.recent(1)[0].code == "concurrency_limit_exceeded"
    submit(control, "c", 0.0, tenant="another")


def test_the_whole_queue_is_bounded_in_bytes() -> None:
    control = plane(max_inflight=1, settings=ControlSettings(max_queue_bytes=100))
    submit(control, "running", 0.0, body_bytes=1000)
    control.dispatch(0.0)
    submit(control, "a", 0.0, body_bytes=60)
    answer = refused(control, "b", 0.0, body_bytes=60)
    assert (answer.status, answer.code) == (429, "queue_full")
    assert "60 bytes, 100 at most" in answer.message
    submit(control, "c", 0.0, body_bytes=40)


def remaining(control: object) -> int:
    standing = control.limits.standing("t", 0.0)  # type: ignore[attr-defined]
    remaining: int = standing.tokens.remaining
    return remaining


@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0.0, 0.1, 3.0])), min_size=1, max_size=12),
    st.builds(
        Quota,
        st.sampled_from([None, 0.05, 0.5]),
        st.sampled_from([None, 1.0, 5.0]),
        st.sampled_from([1.0, 60.0]),
        st.sampled_from([None, 0, 3]),
        st.sampled_from([None, 2]),
    ),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_what_surely_may_be_taken_is_not_refused_for_any_reason(
    steps: list[tuple[int, float]], quota: Quota, share: float
) -> None:
    """The short way of admitting, against the reasons for refusing one by one."""
    kept, now = Limits({"t": quota}, Quota()), 0.0
    kept.lease(lambda tenant: share, 1, now)
    for number, (tokens, wait) in enumerate(steps):
        now += wait
        asked, account = Ticket(f"{number}", "m", "t"), kept._account("t", now)
        reasons = (_too_many(account, asked), _no_room(account, asked, NOTHING), _too_fast(account, asked, tokens, now))
        if account.has(tokens, now):
            assert reasons == (None, None, None)
        elif quota.max_queue is None:
            assert reasons != (None, None, None) or tokens > quota.burst_s * (quota.tokens_per_s or 0.0)
        expected = next((reason for reason in reasons if reason is not None), None)
        assert ask(kept, f"{number}", now, tokens) == (None if quota.unlimited else expected)
