from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.pipeline import ControlPlane
from controller.place.d2lpm import D2lpm, D2lpmOptions
from controller.settings import ControlSettings
from controller.types import Ticket, Usage
from tests.controller.planes import finish, plane, stages, submit, ticket

WORKERS = ("small-0", "small-1", "small-2")
LONGEST = 400


def made(**options: float | bool | None) -> D2lpm:
    return D2lpm(D2lpmOptions(**options))


def control_of(place: D2lpm, max_inflight: int = 2, workers: int = 3) -> ControlPlane:
    limits = ControlSettings(max_queue_s=1e9, default_output_tokens=10.0)
    return plane(replace(stages({}), place=place), workers=workers, max_inflight=max_inflight, settings=limits)


def ask(control: ControlPlane, name: str, now: float, prefix: tuple[int, ...], tenant: str = "t") -> str:
    """Where the request goes, which is answered at once."""
    submit(control, name, now, tenant=tenant, prefix=prefix, prompt_tokens=LONGEST)
    (dispatch,) = control.dispatch(now)
    finish(control, name, now, 10)
    return dispatch.worker


def test_what_belongs_together_stays_together_within_a_quantum() -> None:
    control = control_of(made(quantum=1e6))
    places = {ask(control, f"{n}", float(n), (1, 2, 3, n + 10)) for n in range(20)}
    assert len(places) == 1


def test_beyond_its_quantum_a_tenant_goes_elsewhere() -> None:
    control = control_of(made(quantum=500.0))
    counts = Counter(ask(control, f"{n}", float(n), (n + 10,)) for n in range(60))
    assert max(counts.values()) - min(counts.values()) <= 3
    control = control_of(made(quantum=500.0))
    counts = Counter(ask(control, f"{n}", float(n), (1, n + 10)) for n in range(60))
    assert len(counts) == 3, "though one had half of each prompt cached from the start"


def test_tenants_have_accounts_of_their_own() -> None:
    place = made(quantum=500.0)
    control = control_of(place)
    first = ask(control, "a", 0.0, (1, 2), tenant="a")
    assert place.deficit("small", "a", first) == 500 - LONGEST - 2 * 10
    assert ask(control, "b", 1.0, (1, 2), tenant="b") == first
    assert place.deficit("small", "b", first) == 500 - 2 * 10, "its prompt was cached"


def test_what_waits_is_charged_at_its_home_and_moved_with_it() -> None:
    place = made(quantum=10_000.0)
    control = control_of(place, max_inflight=1, workers=2)
    for name in ("r0", "r1"):
        submit(control, name, 0.0, tenant="other", prefix=(int(name[1]) + 1,), prompt_tokens=LONGEST)
    at = {d.ticket: d.worker for d in control.dispatch(0.0)}
    submit(control, "a", 1.0, prefix=(1, 9), prompt_tokens=LONGEST)
    assert place.deficit("small", "default", at["r0"]) == 10_000 - LONGEST / 2 - 2 * 10
    finish(control, "r1", 2.0)
    (stolen,) = control.dispatch(2.0)
    assert stolen.worker == at["r1"]
    assert place.deficit("small", "default", at["r0"]) == 10_000
    assert place.deficit("small", "default", at["r1"]) == 10_000 - LONGEST - 2 * 10


def test_what_waits_already_draws_what_belongs_to_it() -> None:
    place = made()
    control = control_of(place, max_inflight=1, workers=2)
    for name in ("r0", "r1"):
        submit(control, name, 0.0)
    control.dispatch(0.0)
    for number in range(3):
        submit(control, f"{number}", 1.0, prefix=(5, 6, number), prompt_tokens=LONGEST)
    homed = [worker.homed for worker in control.view(1.0).pools[0].workers]
    assert sorted(map(bool, homed)) == [False, True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, LONGEST)), max_size=60), st.floats(1.0, 5_000.0))
@settings(max_examples=60, deadline=None)
def test_no_worker_computes_much_more_for_a_tenant_than_another(
    requests: list[tuple[int, int]], quantum: float
) -> None:
    """What was granted is the same for all, and a deficit lies between minus one request's charge and the quantum."""
    place = made(quantum=quantum)
    control = control_of(place)
    computed = dict.fromkeys(WORKERS, 0.0)
    seen: set[tuple[int, str]] = set()
    for number, (chain, prompt) in enumerate(requests):
        submit(control, f"{number}", float(number), tenant="t", prefix=(chain, number + 100), prompt_tokens=prompt)
        (dispatch,) = control.dispatch(float(number))
        control.on_finish(f"{number}", Usage(prompt, 10), float(number))
        known = (chain, dispatch.worker) in seen
        seen.add((chain, dispatch.worker))
        computed[dispatch.worker] += prompt * (0.5 if known else 1.0) + 2 * 10
    assert max(computed.values()) - min(computed.values()) <= quantum + LONGEST + 2 * 10


def test_a_worker_that_is_gone_or_new_owes_nothing() -> None:
    place = made(quantum=500.0)
    control = control_of(place)
    first = ask(control, "a", 0.0, (1,))
    assert place.deficit("small", "t", first) < 500
    place.forget(first)
    assert place.deficit("small", "t", first) == 500
    assert place.cached(_ticket(), first) == 0.0


def test_accounts_are_bounded() -> None:
    place = made(remembered=5)
    control = control_of(place)
    for number in range(20):
        ask(control, f"{number}", float(number), (number,), tenant=f"t{number}")
    assert len(place._ledgers) == 5
    assert not place._plans


def _ticket() -> Ticket:

    return ticket("x", prefix=(1,))
