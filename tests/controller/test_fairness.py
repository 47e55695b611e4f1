from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fairness import Vtc, VtcOptions
from controller.kv.account import KvLimits
from controller.settings import ControlSettings, TenantSpec
from controller.types import WorkerSpec
from tests.controller.backlogs import LONGEST_OUTPUT, LONGEST_PROMPT, Step, apart, steps, widest_gap
from tests.controller.planes import LARGE, SMALL, finish, plane, sent, stages, submit

WEIGHTS = ControlSettings(tenants={"gold": TenantSpec(weight=2.0)})


def vtc(**options: float) -> Vtc:
    return Vtc(VtcOptions(**options), WEIGHTS)


def test_the_tenant_with_the_least_service_goes_next() -> None:
    fair = vtc()
    fair.arrived("p", "a")
    fair.arrived("p", "b")
    assert fair.pick("p") == "a"
    fair.admitted("p", "a", 100)
    assert fair.pick("p") == "b"
    fair.admitted("p", "b", 50)
    assert fair.pick("p") == "b"
    fair.decoded("p", "b", 100)
    assert fair.pick("p") == "a"


def test_idleness_saves_up_no_credit() -> None:
    fair = vtc()
    fair.arrived("p", "busy")
    fair.admitted("p", "busy", 10_000)
    fair.arrived("p", "idle")
    assert fair.service("p", "idle") == fair.service("p", "busy")


def test_coming_back_to_an_empty_queue_is_lifted_to_the_last_that_left() -> None:
    fair = vtc()
    fair.arrived("p", "a")
    fair.admitted("p", "a", 500)
    fair.emptied("p", "a")
    fair.arrived("p", "b")
    assert fair.service("p", "b") == fair.service("p", "a") == 500


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrived", "emptied", "admitted", "decoded"]), st.sampled_from("abc"), st.integers(1, 500)
        ),
        max_size=40,
    ),
    st.sampled_from(["vtc", "dlpm"]),
)
@settings(max_examples=150, deadline=None)
def test_a_ticket_taken_and_put_back_changes_no_account(script: list[tuple[str, str, int]], name: str) -> None:
    fair, other = (stages({"fairness": name}).fairness for _ in range(2))
    waiting: set[str] = set()
    for what, group, tokens in [*script, ("arrived", "a", 0)]:
        if (what == "arrived") == (group in waiting) and what in ("arrived", "emptied"):
            continue
        for one in (fair, other):
            if what in ("arrived", "emptied"):
                getattr(one, what)("p", group)
            else:
                getattr(one, what)("p", group, tokens)
        waiting ^= {group} if what in ("arrived", "emptied") else set()
        if waiting:
            assert fair.pick("p") == other.pick("p")
            taken = sorted(waiting)
            for back in taken:
                fair.emptied("p", back)
            for back in reversed(taken):
                fair.returned("p", back)
            assert [fair.service("p", g) for g in "abc"] == [other.service("p", g) for g in "abc"]  # type: ignore[attr-defined]


def test_a_tenant_whose_request_does_not_fit_keeps_its_turn() -> None:
    fair = Vtc(VtcOptions(predict=False), ControlSettings())
    made = replace(stages({}), fairness=fair)
    control = plane(made, workers=0, settings=ControlSettings(kv=KvLimits(share=1.0)))
    control.add_worker(WorkerSpec("w", SMALL.name, "http://w", 16, kv_tokens=1_000), 0.0)
    submit(control, "runs", 0.0, tenant="busy", prompt_tokens=600, max_tokens=100)
    control.dispatch(0.0)
    submit(control, "large", 1.0, tenant="light", prompt_tokens=700, max_tokens=100)
    submit(control, "first", 1.1, tenant="busy", prompt_tokens=50, max_tokens=10)
    before = fair.service("small", "light")
    for number in range(5):
        submit(control, f"{number}", 2.0 + number, tenant="busy", prompt_tokens=50, max_tokens=10)
        control.dispatch(2.0 + number)
        finish(control, f"{number - 1}" if number else "first", 2.5 + number, 10)
    assert fair.service("small", "busy") > before
    assert fair.service("small", "light") == before


def test_weights_divide_what_is_charged() -> None:
    fair = vtc(output_weight=2.0)
    fair.decoded("p", "gold", 100)
    fair.decoded("p", "plain", 100)
    assert fair.service("p", "gold") == 100
    assert fair.service("p", "plain") == 200


def test_pools_are_accounted_apart() -> None:
    fair = vtc()
    fair.admitted("p", "a", 100)
    assert fair.service("q", "a") == 0


def test_idle_tenants_are_forgotten_without_a_change_of_their_turn() -> None:
    fair = Vtc(VtcOptions(remembered=10), ControlSettings())
    fair.arrived("p", "steady")
    fair.admitted("p", "steady", 1_000_000)
    for index in range(100):
        name = f"visitor-{index}"
        fair.arrived("p", name)
        fair.emptied("p", name)
    assert len(fair._pools["p"].values) <= 22
    assert fair.pick("p") == "steady"


@given(steps(), st.integers(1, 4), st.booleans(), st.sampled_from([1.0, 30.0, 2000.0]))
@settings(max_examples=100, deadline=None)
def test_service_of_backlogged_tenants_stays_within_the_bound(
    script: list[Step], slots: int, predict: bool, typical: float
) -> None:
    """Whatever comes when, and however wrong the expected output is."""
    limits = ControlSettings(tenants=WEIGHTS.tenants, max_queue_s=1e9, default_output_tokens=typical)
    fair = Vtc(VtcOptions(predict=predict), limits)
    control = plane(replace(stages({}), fairness=fair), max_inflight=slots, settings=limits)
    in_flight = slots * (LONGEST_OUTPUT + (2 * max(LONGEST_OUTPUT, typical) if predict else 0))
    assert widest_gap(control, script, limits) <= 2 * (LONGEST_PROMPT + 2 * in_flight)


@given(steps(), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_the_bound_holds_where_tickets_wait_for_particular_workers(script: list[Step], slots: int) -> None:
    limits = ControlSettings(tenants=WEIGHTS.tenants, max_queue_s=1e9)
    fair = Vtc(VtcOptions(predict=False), limits)
    made = replace(stages({"place": ("prefix", {"gate_ratio": 1e6})}), fairness=fair)
    control = plane(made, workers=2, max_inflight=slots, settings=limits)
    assert widest_gap(control, script, limits) <= 2 * (LONGEST_PROMPT + 2 * 2 * slots * LONGEST_OUTPUT)


def test_a_worker_of_its_own_gives_a_tenant_no_more_than_its_share() -> None:
    limits = ControlSettings(max_queue_s=1e9)
    fair = Vtc(VtcOptions(predict=False), limits)
    made = replace(stages({"place": "prefix"}), fairness=fair)
    control = plane(made, workers=2, max_inflight=1, settings=limits)
    assert apart(control) <= 2 * (LONGEST_PROMPT + 2 * 2 * LONGEST_OUTPUT)


def test_what_was_given_back_is_worth_a_turn_to_one_that_was_away_meanwhile() -> None:
    fair = vtc()
    for name in ("a", "b"):
        fair.arrived("p", name)
    fair.decoded("p", "a", 500)
    fair.emptied("p", "a")
    fair.admitted("p", "b", 600)
    fair.decoded("p", "a", -400)
    fair.arrived("p", "a")
    assert fair.service("p", "a") == 600, "lifted to the least that waits"
    fair.decoded("p", "a", -100)
    assert fair.pick("p") == "a"


def test_of_groups_that_may_be_picked_none_goes_before_one_that_waits_elsewhere() -> None:
    fair = vtc()
    for name in ("a", "b"):
        fair.arrived("p", name)
    fair.admitted("p", "a", 100)
    assert fair.pick("p", {"a": 1.0}) is None
    assert fair.pick("p", {"a": 1.0, "b": 0.0}) == "b"
    fair.admitted("p", "b", 100)
    assert fair.pick("p", {"b": 0.0}) == "b", "on a par"


def test_a_flood_from_one_tenant_leaves_the_other_its_turns() -> None:
    control = plane({"fairness": "vtc"}, max_inflight=1)
    for index in range(20):
        submit(control, f"flood-{index}", 0.0, tenant="flood")
    submit(control, "quiet-0", 0.1, tenant="quiet")
    submit(control, "quiet-1", 0.1, tenant="quiet")
    served = []
    for now in range(6):
        (name,) = sent(control.dispatch(float(now)))
        served.append(name)
        finish(control, name, float(now), 50)
    assert {"quiet-0", "quiet-1"} <= set(served)


def test_without_fairness_order_alone_decides() -> None:
    control = plane({"fairness": "none"}, max_inflight=1)
    for index in range(3):
        submit(control, f"flood-{index}", 0.0, tenant="flood")
    submit(control, "quiet", 0.1, tenant="quiet")
    served = []
    for now in range(4):
        (name,) = sent(control.dispatch(float(now)))
        served.append(name)
        finish(control, name, float(now))
    assert served[-1] == "quiet"


def test_a_request_that_is_tried_again_is_charged_once() -> None:
    fair = Vtc(VtcOptions(), ControlSettings())
    control = plane(replace(stages({}), fairness=fair), workers=2, max_inflight=1)
    submit(control, "a", 0.0, prompt_tokens=100)
    control.dispatch(0.0)
    control.on_worker_error("a", "reset", 0.1, retryable=True)
    control.dispatch(0.2)
    assert fair.service("small", "default") == 100 + 2 * 256, "its prompt, and the output that is expected of it"


def test_what_was_charged_in_advance_goes_to_the_pool_that_serves() -> None:
    fair = Vtc(VtcOptions(), ControlSettings())
    control = plane(replace(stages({}), fairness=fair), pools=(SMALL, LARGE), workers=1)
    submit(control, "a", 0.0, prompt_tokens=100)
    (first,) = control.dispatch(0.0)
    other = LARGE.name if first.pool == SMALL.name else SMALL.name
    control.on_worker_error("a", "reset", 0.1, retryable=True)
    control.remove_worker(first.worker, 0.2)
    (second,) = control.dispatch(1.0)
    assert second.pool == other
    finish(control, "a", 2.0, 10)
    assert fair.service(first.pool, "default") == 100
    assert fair.service(other, "default") == 2 * 10
