from __future__ import annotations

from dataclasses import replace

from controller.admit import Bounded, BoundedOptions
from controller.protocols import AdmitContext
from controller.settings import ControlSettings
from controller.types import Rejected
from tests.controller.planes import LADDER, plane, refused, stages, submit

TIGHT = ControlSettings(max_queue=4)


def test_the_queue_is_bounded() -> None:
    control = plane(max_inflight=1, settings=TIGHT)
    for index in range(4):
        submit(control, f"{index}", 0.0)
    answer = refused(control, "over", 0.0)
    assert (answer.status, answer.code) == (429, "queue_full")
    assert answer.retry_after is not None
    assert 1.0 <= answer.retry_after <= 60.0
    control.dispatch(0.0)
    submit(control, "again", 0.0)


def test_the_time_to_come_back_grows_with_the_backlog() -> None:
    slow = ControlSettings(max_queue=4, default_service_rate=10.0)
    answers = []
    for max_tokens in (10, 2000):
        control = plane(max_inflight=1, settings=slow)
        for index in range(4):
            submit(control, f"{index}", 0.0, max_tokens=max_tokens)
        answers.append(refused(control, "over", 0.0).retry_after)
    assert answers == [4.0, 54.0], "half of the seconds of work that wait"


def test_one_tenant_cannot_fill_the_queue_beyond_its_share() -> None:
    control = plane({"admit": ("bounded", {"tenant_share": 0.5})}, max_inflight=1, settings=TIGHT)
    for index in range(2):
        submit(control, f"{index}", 0.0, tenant="loud")
    answer = refused(control, "over", 0.0, tenant="loud")
    assert (answer.status, answer.code) == (429, "queue_full")
    assert "loud" in answer.message
    submit(control, "quiet", 0.0, tenant="quiet")


def test_tickets_with_an_open_tier_count_too() -> None:
    control = plane({"tier": "router"}, pools=LADDER, settings=TIGHT)
    for index in range(4):
        assert submit(control, f"{index}", 0.0).wants_scores
    assert control.view(0.0).queued == 4
    assert refused(control, "over", 0.0).status == 429


def test_a_stage_may_look_at_the_fleet_as_it_is_when_the_request_comes() -> None:
    seen = []

    class Looks(Bounded):
        def admit(self, context: AdmitContext) -> Rejected | None:
            seen.append((context.view.at, context.view.queued, context.queued, context.pools))
            return super().admit(context)

    control = plane(replace(stages({}), admit=Looks(BoundedOptions())), pools=LADDER, settings=TIGHT)
    for index in range(3):
        submit(control, f"{index}", float(index))
    assert seen == [(float(index), index, index, ("small", "medium", "large")) for index in range(3)]
