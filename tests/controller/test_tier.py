from __future__ import annotations

from collections import Counter

import pytest

from controller.errors import StageOptionsError
from controller.protocols import Resources
from controller.settings import ControlSettings
from controller.stages import Catalogue
from controller.types import Choice, Needs, PoolSpec, Scores, WorkerPhase
from tests.controller.planes import LADDER, plane, record_of, sent, serve_all, submit

FAST = ControlSettings(default_service_rate=100.0, default_output_tokens=100.0)


def tier_of(record_choices: tuple[Choice, ...]) -> Choice:
    return [choice for choice in record_choices if choice.stage == "tier"][-1]


def test_a_named_pool_is_taken_whatever_the_stage_would_say() -> None:
    control = plane({"tier": ("static", {"pool": "large"})}, pools=LADDER)
    for name, model in (("a", "small"), ("b", "org/medium")):
        submit(control, name, 0.0, model=model)
    serve_all(control, 0.0)
    assert record_of(control, "a").pool == "small"
    assert record_of(control, "b").pool == "medium"
    assert tier_of(record_of(control, "a").choices).by == "pinned"
    assert control.counters()["tier", "static", "skipped"] == 2


def test_static_sends_everything_to_one_pool_by_default_the_highest() -> None:
    for options, expected in (({}, "large"), ({"pool": "medium"}, "medium")):
        control = plane({"tier": ("static", options)}, pools=LADDER)
        for index in range(4):
            submit(control, f"{index}", 0.0)
        serve_all(control, 0.0)
        assert {record_of(control, f"{index}").pool for index in range(4)} == {expected}


def test_static_falls_to_the_nearest_tier_that_can_serve() -> None:
    pools = (*LADDER[:2], PoolSpec("large", "org/large", 2, tools=False))
    control = plane({"tier": ("static", {"pool": "large"})}, pools=pools)
    submit(control, "a", 0.0, needs=Needs(tools=True))
    serve_all(control, 0.0)
    record = record_of(control, "a")
    assert record.pool == "medium"
    assert tier_of(record.choices).fallback == "not_eligible"
    assert control.fallbacks()["tier", "static", "not_eligible"] == 1


def test_static_weights_are_kept_and_recorded_as_propensities() -> None:
    weights = {"small": 3.0, "large": 1.0}
    control = plane({"tier": ("static", {"weights": weights})}, pools=LADDER, max_inflight=10_000)
    for index in range(400):
        submit(control, f"{index}", 0.0)
    pools = Counter(dispatch.pool for dispatch in control.dispatch(0.0))
    assert set(pools) == {"small", "large"}
    assert 260 < pools["small"] < 340
    control.on_finish("0", None, 1.0)
    choice = tier_of(record_of(control, "0").choices)
    assert choice.propensity == (0.75 if choice.chosen == "small" else 0.25)


@pytest.mark.parametrize(
    "options",
    [{"pool": "larg"}, {"weights": {"huge": 1.0}}, {"pool": "small", "weights": {"small": 1.0}}, {"weights": {}}],
)
def test_static_refuses_options_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(StageOptionsError):
        Catalogue().tier.create("static", options, Resources(pools=LADDER))


def test_threshold_takes_the_highest_tier_until_its_wait_grows_then_the_next() -> None:
    control = plane({"tier": ("threshold", {"wait_s": 2.5})}, pools=LADDER, max_inflight=1, settings=FAST)
    pools = []
    for index in range(9):
        submit(control, f"{index}", 0.0, prompt_tokens=0)
        pools += [dispatch.pool for dispatch in control.dispatch(0.0)]
        pools += [view.pool or "" for view in control.queued() if view.ticket == f"{index}"]
    assert pools[:3] == ["large"] * 3, "up to 3 s of work, the limit is crossed with the third"
    assert pools[3:6] == ["medium"] * 3
    assert pools[6:9] == ["small"] * 3
    submit(control, "over", 0.0, prompt_tokens=0)
    assert control.view(0.0).queued == 7


def test_threshold_does_not_flap() -> None:
    """A tier that was left is entered again only when its wait is well below the limit."""
    control = plane(
        {"tier": ("threshold", {"wait_s": 1.5, "reopen": 0.4})}, pools=LADDER[:2], max_inflight=8, settings=FAST
    )

    def pool_of(name: str) -> str:
        submit(control, name, 0.0, prompt_tokens=0, max_tokens=100)
        (dispatch,) = control.dispatch(0.0)
        return dispatch.pool

    assert [pool_of("a"), pool_of("b"), pool_of("c")] == ["medium", "medium", "small"]
    control.on_tokens("a", 99, 0.0)
    assert pool_of("d") == "small", "1.01 s of work is below the limit, but not below its reopening"
    control.on_tokens("b", 99, 0.0)
    assert pool_of("e") == "medium"


def test_threshold_under_overload_takes_the_shortest_wait() -> None:
    control = plane({"tier": ("threshold", {"wait_s": 0.001})}, pools=LADDER, max_inflight=1, settings=FAST)
    for index in range(30):
        submit(control, f"{index}", 0.0)
    queued = Counter(view.pool for view in control.queued())
    assert max(queued.values()) - min(queued.values()) <= 1


def test_threshold_has_limits_of_single_pools() -> None:
    control = plane({"tier": ("threshold", {"wait_s": 10.0, "waits_s": {"large": 0.5}})}, pools=LADDER, settings=FAST)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    assert [dispatch.pool for dispatch in control.dispatch(0.0)] == ["medium", "large"]


def scored(**quality: float) -> Scores:
    return Scores(length_rank=0.0, output_tokens=100.0, quality=quality)


def test_router_weighs_quality_against_cost() -> None:
    def choice(quality_usd: float, scores: Scores) -> str | None:
        control = plane({"tier": ("router", {"quality_usd": quality_usd})}, pools=LADDER)
        submit(control, "a", 0.0, scores)
        serve_all(control, 0.0)
        return record_of(control, "a").pool

    hard, easy = scored(small=0.1, medium=0.3, large=0.9), scored(small=0.9, medium=0.92, large=0.95)
    assert choice(1.0, hard) == "large"
    assert choice(0.002, easy) == "small"
    assert choice(0.0, hard) == "small", "λ = 0 is the cheapest pool"


def test_router_uses_the_prior_of_a_pool_that_the_predictor_does_not_know() -> None:
    control = plane({"tier": ("router", {"quality_usd": 1.0})}, pools=LADDER)
    submit(control, "a", 0.0, scored(small=0.5))
    serve_all(control, 0.0)
    assert record_of(control, "a").pool == "large", "prior 0.8"


@pytest.mark.parametrize(("scores", "reason"), [(None, "no_scores"), (Scores(output_tokens=9.0), "no_quality")])
def test_router_without_quality_falls_back_and_says_so(scores: Scores | None, reason: str) -> None:
    control = plane({"tier": "router"}, pools=LADDER)
    assert submit(control, "a", 0.0).wants_scores
    assert control.dispatch(0.0) == (), "its tier is still open"
    control.on_scores("a", scores, 0.001)
    assert sent(control.dispatch(0.001)) == ["a"]
    control.on_finish("a", None, 1.0)
    choice = tier_of(record_of(control, "a").choices)
    assert (choice.by, choice.fallback) == ("threshold", reason)
    assert control.counters()["tier", "router", "fallback"] == 1
    assert control.fallbacks()["tier", "router", reason] == 1


def test_a_pool_without_a_ready_worker_is_not_chosen_while_another_has_one() -> None:
    control = plane({"tier": "static"}, pools=LADDER, workers=1)
    control.set_phase("large-0", WorkerPhase.UNHEALTHY, 0.0)
    submit(control, "a", 0.0)
    assert [dispatch.pool for dispatch in control.dispatch(0.0)] == ["medium"]


def test_tickets_choose_again_when_their_pool_loses_its_last_worker() -> None:
    control = plane({"tier": "static"}, pools=LADDER, workers=1, max_inflight=1)
    for name in ("a", "b"):
        submit(control, name, 0.0)
    submit(control, "pinned", 0.0, model="large")
    control.dispatch(0.0)
    control.remove_worker("large-0", 1.0)
    assert [(d.ticket, d.pool) for d in control.dispatch(1.0)] == [("b", "medium")]
    assert {view.ticket for view in control.queued()} == {"pinned"}
    control.on_finish("b", None, 2.0)
    assert [c.chosen for c in record_of(control, "b").choices if c.stage == "tier"] == ["large", "medium"]
