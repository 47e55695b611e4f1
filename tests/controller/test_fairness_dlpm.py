from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fairness import Dlpm, DlpmOptions
from controller.settings import ControlSettings, TenantSpec
from controller.types import Usage
from tests.controller.backlogs import LONGEST_OUTPUT, LONGEST_PROMPT, Step, apart, steps, widest_gap
from tests.controller.planes import finish, plane, sent, stages, submit

WEIGHTS = ControlSettings(tenants={"gold": TenantSpec(weight=2.0)}, max_queue_s=1e9)


def dlpm(**options: float) -> Dlpm:
    return Dlpm(DlpmOptions(**options), WEIGHTS)


@given(
    steps(),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([1.0, 30.0, 2000.0]),
    st.sampled_from([1.0, 150.0, 900.0]),
)
@settings(max_examples=100, deadline=None)
def test_service_of_backlogged_tenants_stays_within_the_bound(
    script: list[Step], slots: int, predict: bool, typical: float, quantum: float
) -> None:
    limits = replace(WEIGHTS, default_output_tokens=typical)
    fair = Dlpm(DlpmOptions(quantum=quantum, predict=predict), limits)
    control = plane(replace(stages({}), fairness=fair), max_inflight=slots, settings=limits)
    in_flight = slots * (LONGEST_OUTPUT + (2 * max(LONGEST_OUTPUT, typical) if predict else 0))
    assert widest_gap(control, script, limits) <= 2 * (LONGEST_PROMPT + 2 * in_flight + quantum)


@given(steps(), st.integers(1, 3), st.sampled_from(["prefix", "d2lpm"]), st.sampled_from([1.0, 300.0]))
@settings(max_examples=100, deadline=None)
def test_the_bound_holds_where_tickets_wait_for_particular_workers(
    script: list[Step], slots: int, place: str, quantum: float
) -> None:
    fair = Dlpm(DlpmOptions(quantum=quantum, predict=False), WEIGHTS)
    control = plane(replace(stages({"place": place}), fairness=fair), workers=2, max_inflight=slots, settings=WEIGHTS)
    in_flight = 2 * slots * LONGEST_OUTPUT
    assert widest_gap(control, script, WEIGHTS) <= 2 * (LONGEST_PROMPT + 2 * in_flight + quantum)


@pytest.mark.parametrize("place", ["prefix", "d2lpm"])
def test_a_worker_of_its_own_gives_a_tenant_no_more_than_its_share(place: str) -> None:
    fair = Dlpm(DlpmOptions(quantum=300.0, predict=False), WEIGHTS)
    control = plane(replace(stages({"place": place}), fairness=fair), workers=2, max_inflight=1, settings=WEIGHTS)
    assert apart(control) <= 2 * (LONGEST_PROMPT + 2 * 2 * LONGEST_OUTPUT + 300)


def test_of_those_with_credit_the_one_with_the_most_cached_goes() -> None:
    fair = dlpm(quantum=100, urgency=0)
    for name in ("a", "b"):
        fair.arrived("p", name)
    among = {"a": 0.2, "b": 0.9}
    assert fair.pick("p", among) == "b"
    fair.admitted("p", "b", 60)
    assert fair.pick("p", among) == "b"
    fair.admitted("p", "b", 60)
    assert fair.deficit("p", "b") == -20
    assert fair.pick("p", among) == "a"
    assert fair.pick("p", {"b": 0.9}) is None, "another has credit left, elsewhere"


def test_what_is_left_of_the_quantum_counts_as_well() -> None:
    fair = dlpm(quantum=100, urgency=2)
    for name in ("a", "b"):
        fair.arrived("p", name)
    among = {"a": 0.2, "b": 0.9}
    assert fair.pick("p", among) == "b"
    fair.admitted("p", "b", 30)
    assert fair.pick("p", among) == "b"
    fair.admitted("p", "b", 10)
    assert fair.pick("p", among) == "a"


def test_all_are_granted_as_many_quanta_as_it_takes() -> None:
    fair = dlpm(quantum=100)
    for name in ("a", "b"):
        fair.arrived("p", name)
        fair.admitted("p", name, 100 if name == "a" else 1_000_000)
    fair.admitted("p", "a", 99_900)
    assert fair.pick("p") == "a"
    assert (fair.deficit("p", "a"), fair.deficit("p", "b")) == (100, 100 - 900_000)


def test_weights_divide_what_is_charged() -> None:
    fair = dlpm(output_weight=2.0)
    fair.decoded("p", "gold", 100)
    fair.decoded("p", "plain", 100)
    assert (fair.service("p", "gold"), fair.service("p", "plain")) == (100, 200)


def test_idleness_saves_up_one_quantum_at_most() -> None:
    fair = dlpm(quantum=100)
    fair.arrived("p", "busy")
    for _ in range(50):
        fair.pick("p")
        fair.admitted("p", "busy", 100)
    fair.arrived("p", "idle")
    assert fair.deficit("p", "idle") == 100


def test_idle_tenants_are_forgotten() -> None:
    fair = dlpm(quantum=10, remembered=10)
    fair.arrived("p", "steady")
    for index in range(200):
        name = f"visitor-{index}"
        fair.arrived("p", name)
        fair.admitted("p", name, 5)
        fair.emptied("p", name)
        fair.admitted("p", "steady", 50)
        fair.pick("p")
    assert len(fair._pools["p"].counters.values) <= 22


def test_only_what_has_to_be_computed_is_charged_and_the_worker_knows_best() -> None:
    fair = Dlpm(DlpmOptions(predict=False), ControlSettings())
    control = plane(replace(stages({"place": "prefix"}), fairness=fair))
    submit(control, "first", 0.0, prompt_tokens=400, prefix=(1, 2, 3, 4))
    control.dispatch(0.0)
    control.on_finish("first", Usage(400, 1), 1.0)
    before = fair.service("small", "default")
    assert before == 400 + 2
    submit(control, "second", 2.0, prompt_tokens=400, prefix=(1, 2, 8, 9))
    control.dispatch(2.0)
    assert fair.service("small", "default") - before == 200
    control.on_finish("second", Usage(400, 1, cached_tokens=100), 3.0)
    assert fair.service("small", "default") - before == 300 + 2


@pytest.mark.parametrize(
    ("told", "charged"),
    [
        ((None, None), (400, 200)),  # nothing is known but the own estimate
        ((0, 0), (400, 400)),  # nothing was cached, whatever was expected
        ((0, None), (400, 400)),  # engines that tell of it leave it out where nothing was
        ((None, 300), (400, 100)),
    ],
)
def test_what_was_cached_is_as_the_worker_says_and_as_expected_where_it_says_nothing(
    told: tuple[int | None, int | None], charged: tuple[int, int]
) -> None:
    fair = Dlpm(DlpmOptions(predict=False), ControlSettings())
    control = plane(replace(stages({"place": "prefix"}), fairness=fair))
    total = 0.0
    for number, (cached, due) in enumerate(zip(told, charged, strict=True)):
        prefix = (1, 2, 3 + number, 9 - number)
        submit(control, f"{number}", float(number), prompt_tokens=400, prefix=prefix)
        control.dispatch(float(number))
        control.on_finish(f"{number}", Usage(400, 1, cached), number + 0.5)
        now = fair.service("small", "default")
        assert now - total == due + 2
        total = now


def test_a_light_tenant_does_not_wait_for_a_flood() -> None:
    control = plane({"fairness": ("dlpm", {"quantum": 500.0})}, max_inflight=1)
    for index in range(20):
        submit(control, f"flood-{index}", 0.0, tenant="flood")
    served = []
    for now in range(5):
        (name,) = sent(control.dispatch(float(now)))
        served.append(name)
        finish(control, name, now + 0.5, 50)
        if now == 2:
            submit(control, "quiet", now + 0.6, tenant="quiet")
    assert served[3] == "quiet"


@pytest.mark.parametrize("predict", [True, False])
def test_counters_that_are_shared_only_grow_and_agree_in_the_end(predict: bool) -> None:
    fair = Dlpm(DlpmOptions(predict=predict), ControlSettings())
    fair.share()
    control = plane(replace(stages({"place": "prefix"}), fairness=fair))
    charged, computed = 0.0, 0
    for number in range(30):
        submit(control, f"{number}", float(number), tenant="t", prompt_tokens=400, prefix=(number, 1))
        control.dispatch(float(number))
        control.on_finish(f"{number}", Usage(400, 7, cached_tokens=100), number + 0.5)
        computed += 300 + 2 * 7
        now = fair.served()["small"]["t"].charged
        assert now >= charged
        charged = now
    assert computed <= charged <= computed + 400 + 2 * 256, "but for what the next ones will pay for"


def test_what_others_have_charged_counts_and_newcomers_start_where_those_that_wait_anywhere_stand() -> None:
    fair = dlpm(quantum=100)
    fair.share()
    fair.arrived("p", "a")
    fair.adopt({"p": {"a": 5_000.0}}, {"p": 4_000.0})
    assert fair.service("p", "a") == 5_000
    fair.arrived("p", "b")
    assert fair.service("p", "b") == 3_900
    assert fair.pick("p") == "b"
