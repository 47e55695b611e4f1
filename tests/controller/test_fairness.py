from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fairness import Vtc, VtcOptions
from controller.settings import ControlSettings, TenantSpec
from tests.controller.planes import finish, plane, sent, stages, submit

WEIGHTS = ControlSettings(tenants={"gold": TenantSpec(weight=2.0)})


def vtc(**options: float) -> Vtc:
    return Vtc(VtcOptions(**options), WEIGHTS)  # type: ignore[arg-type]


def test_the_tenant_with_the_least_service_goes_next() -> None:
    fair = vtc()
    fair.arrived("p", "a")
    fair.arrived("p", "b")
    fair.admitted("p", fair.pick("p"), 100)
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
    assert len(fair._pools["p"].counters) <= 22
    assert fair.pick("p") == "steady"


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "gold"]), st.integers(1, 200), st.integers(1, 60)), min_size=2, max_size=40
    ),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_service_of_backlogged_tenants_stays_within_the_bound(requests: list[tuple[str, int, int]], slots: int) -> None:
    """VTC: while two tenants wait, one is never charged more than a prompt and the output tokens in flight ahead of
    the other, each weighted."""
    limits = ControlSettings(tenants=WEIGHTS.tenants, max_queue_s=1e9)
    fair = Vtc(VtcOptions(), limits)
    control = plane(replace(stages({}), fairness=fair), max_inflight=slots, settings=limits)
    left = Counter(tenant for tenant, _, _ in requests)
    for number, (tenant, prompt, _) in enumerate(requests):
        submit(control, f"{number}", 0.0, tenant=tenant, prompt_tokens=prompt)
    received: Counter[str] = Counter()
    now = 0.0
    while batch := sent(control.dispatch(now)):
        now += 1.0
        for name in batch:
            tenant, prompt, output = requests[int(name)]
            left[tenant] -= 1
            received[tenant] += prompt + 2 * output
            finish(control, name, now, output)
        waiting = [fair.service("small", tenant) for tenant, count in left.items() if count]
        if waiting:
            assert max(waiting) - min(waiting) <= 200 + 2 * 60 * slots
    assert not +left
    for tenant, service in received.items():
        assert fair.service("small", tenant) >= service / limits.tenant(tenant).weight - 1e-6


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
    assert fair.service("small", "default") == 100
