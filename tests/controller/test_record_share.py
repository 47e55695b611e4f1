"""Records of a share of the requests, as simulations keep them: what is decided and counted is the same."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.best_effort import BestEffort
from controller.observation import Codec, Mask, Observation
from controller.pipeline import ControlPlane
from controller.place import LeastLoad
from controller.policy import PolicyDecision
from controller.protocols import PlaceContext, Resources, Stages
from controller.settings import ControlSettings, TenantSpec
from controller.stages import names
from controller.tier import Threshold, ThresholdOptions
from controller.types import Choice, Dispatch, Scores, WorkerPhase
from controller.view import PoolView, WorkerView
from tests.controller.planes import LADDER, finish, plane, refused, stages, submit, ticket


class _Spied:
    """A stage whose choices are kept."""

    def __init__(self, stage: object) -> None:
        self._stage = stage
        self.choices: list[Choice] = []

    def __getattr__(self, name: str) -> object:
        if name == "lightest":
            raise AttributeError("asked by loads alone, it would not say what it made")
        return getattr(self._stage, name)

    def choose(self, context: object) -> Choice:
        self.choices.append(self._stage.choose(context))  # type: ignore[attr-defined]
        return self.choices[-1]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_nothing_and_everything(share: float) -> None:
    with pytest.raises(ValueError, match="record_share is a share of all requests, from 0 to 1"):
        ControlSettings(record_share=share)


def test_about_that_share_is_recorded_and_the_same_requests_each_time() -> None:
    first, again = (_recorded(0.25) for _ in range(2))
    assert first == again
    assert 200 < len(first) < 300
    assert first < _recorded(0.5) < _recorded(1.0)


def test_without_records_everything_is_still_counted_the_refused_too() -> None:
    control = plane(max_inflight=1, settings=_settings(0.0))
    for name in ("a", "b", "c"):
        submit(control, name, 0.0)
    refused(control, "d", 0.0, model="nobody")
    control.dispatch(0.0)
    finish(control, "a", 1.0)
    control.on_abort("b", 1.0)
    assert control.drain_records() == ()
    assert (control.records.written, control.records.spared) == (0, 3)
    assert [dispatch.ticket for dispatch in control.dispatch(1.0)] == ["c"]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0.0, 0.5)), min_size=1, max_size=40))
def test_what_is_recorded_changes_nothing_else(steps: list[tuple[int, bool, float]]) -> None:
    for tier, fairness, place in (("threshold", "vtc", "prefix"), ("router", "none", "least_load")):
        whole, sampled = (
            plane(
                {"tier": tier, "order": "length_rank", "fairness": fairness, "place": place},
                pools=LADDER,
                workers=2,
                max_inflight=1,
                settings=_settings(share),
            )
            for share in (1.0, 0.4)
        )
        assert _play(whole, steps) == _play(sampled, steps)
        assert whole.counters() == sampled.counters()
        assert whole.fallbacks() == sampled.fallbacks()
        records = {record.ticket: record for record in whole.drain_records()}
        kept = sampled.drain_records()
        assert [records[record.ticket] for record in kept] == list(kept)
        assert len(records) == len(kept) + sampled.records.spared


@pytest.mark.parametrize(
    ("tier", "place"), [*product(names("tier"), ["least_load"]), *product(["pinned"], names("place"))]
)
def test_what_nobody_reads_is_not_made(tier: str, place: str) -> None:
    shown = {}
    for share in (0.0, 1.0):
        built = stages({"tier": tier, "place": place}, Resources(pools=LADDER))
        spied = [_Spied(_agent() if tier == "best_effort" else built.tier), _Spied(built.place)]
        spies = Stages(built.admit, spied[0], built.order, built.fairness, spied[1], built.rebalance, built.scale)  # type: ignore[arg-type]
        control = plane(spies, pools=LADDER, workers=2, settings=_settings(share))
        submit(control, "a", 0.0, Scores(0.5, 100.0, {"small": 0.5}))
        control.dispatch(0.0)
        shown[share] = [choice for spy in spied for choice in spy.choices]
    assert [choice.chosen for choice in shown[0.0]] == [choice.chosen for choice in shown[1.0]]
    assert all(choice.alternatives for choice in shown[1.0])
    assert not any(choice.alternatives or choice.features for choice in shown[0.0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_by_loads_alone_the_same_worker_is_found(loads: list[int]) -> None:
    stage = LeastLoad()
    views = [
        WorkerView(f"w{i}", "p", WorkerPhase.READY, 4, i % 2, 0, 0, load, 9 - i, False, None)
        for i, load in enumerate(loads)
    ]
    asked = PlaceContext(ticket("a"), tuple(views), 0.0, np.random.default_rng(0), _never)
    position = stage.lightest([float(load) for load in loads])
    assert position is None or views[position].name == stage.choose(asked).chosen
    assert (position is None) == (loads.count(min(loads)) > 1)


def _never() -> PoolView:
    raise AssertionError("the pool is not looked at")


def _settings(share: float) -> ControlSettings:
    return ControlSettings(record_share=share, tenants={"paying": TenantSpec(weight=2.0)})


def _recorded(share: float) -> set[str]:
    control = plane(settings=ControlSettings(record_share=share))
    for number in range(1000):
        submit(control, f"{number}", 0.0)
        control.on_abort(f"{number}", 0.0)
    return {record.ticket for record in control.drain_records()}


def _play(control: ControlPlane, steps: list[tuple[int, bool, float]]) -> list[Dispatch]:
    """Requests come and end, the oldest first; every dispatch there was."""
    sent: list[Dispatch] = []
    running: list[str] = []
    now = 0.0
    for number, (kind, paying, passed) in enumerate(steps):
        now += passed
        if kind and running:
            name = running.pop(0)
            if kind == 1:
                finish(control, name, now)
            else:
                control.on_worker_error(name, "crash", now, retryable=False)
        else:
            name = f"{number}"
            scores = Scores(passed, 10.0 + 100 * passed, {pool.name: pool.prior_quality for pool in LADDER})
            prefix = (1, 2, 3) if paying else (number,)
            submit(control, name, now, scores, tenant="paying" if paying else "default", prefix=prefix)
        control.tick(now)
        dispatched = control.dispatch(now)
        sent += dispatched
        running += [dispatch.ticket for dispatch in dispatched]
    return sent


def _agent() -> BestEffort:
    def policy(observation: Observation, mask: Mask) -> PolicyDecision:
        return PolicyDecision(0, (1.0, 0.0, 0.0))

    return BestEffort(policy, Threshold(ThresholdOptions()), codec=Codec(3))
