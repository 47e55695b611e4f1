"""What every implementation of every stage must keep, whichever it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from controller import stages
from controller.pipeline import ControlPlane
from controller.protocols import Resources
from controller.settings import ControlSettings, ReplicaRange
from controller.types import Admitted, DecisionRecord, Result, Scores, Tick, WorkerReport
from tests.controller.planes import LADDER, finish, plane, ticket
from tests.controller.planes import stages as stages_by_name

EVERY = [(stage, name) for stage in stages.Catalogue().registries() for name in stages.names(stage)]
RESOURCES = Resources(pools=LADDER, replicas={pool.name: ReplicaRange(1, 3) for pool in LADDER})
SETTINGS = ControlSettings(max_queue=30, default_service_rate=200.0)

every = pytest.mark.parametrize(("stage", "name"), EVERY, ids=[f"{stage}-{name}" for stage, name in EVERY])


def run(stage: str, name: str, seed: int) -> tuple[list[DecisionRecord], list[Any]]:
    """A mixed workload of 150 requests through a plane with this implementation; its records, and all it said."""
    control = plane(
        stages_by_name({stage: name}, RESOURCES), pools=LADDER, workers=2, settings=SETTINGS, aliases=None, seed=seed
    )
    rng = np.random.default_rng(7)
    said: list[Any] = []
    now = 0.0
    for number in range(150):
        now += float(rng.exponential(0.2))
        said.append(control.submit(_ticket(rng, f"{number}", now), now))
        if isinstance(said[-1], Admitted) and said[-1].wants_scores and rng.random() < 0.9:
            control.on_scores(f"{number}", _scores(rng), now)
        said.append(control.dispatch(now))
        _serve_some(control, rng, now)
        if number % 10 == 0:
            _reports(control, now)
            said.append(control.tick(now))
    while control.queued() or control.running():
        now += 0.5
        said += [control.tick(now), control.dispatch(now)]
        _serve_some(control, rng, now)
    return list(control.drain_records()), said


def _ticket(rng: np.random.Generator, name: str, now: float) -> Any:
    return ticket(
        name,
        model=str(rng.choice(["auto", "auto", "small", "org/large"])),
        tenant=str(rng.choice(["a", "b", "c"])),
        prompt_tokens=int(rng.integers(1, 500)),
        max_tokens=int(rng.integers(1, 300)),
        prefix=tuple(int(block) for block in range(int(rng.integers(0, 6)))),
        deadline=now + float(rng.uniform(1, 20)) if rng.random() < 0.5 else None,
        priority=int(rng.integers(-1, 2)),
    )


def _scores(rng: np.random.Generator) -> Scores | None:
    if rng.random() < 0.1:
        return None
    quality = {pool.name: float(rng.random()) for pool in LADDER} if rng.random() < 0.8 else None
    return Scores(float(rng.normal()), float(rng.uniform(1, 300)), quality)


def _serve_some(control: ControlPlane, rng: np.random.Generator, now: float) -> None:
    for running in control.running():
        chance = rng.random()
        if chance < 0.3:
            finish(control, running.ticket, now, int(rng.integers(1, 300)))
        elif chance < 0.35:
            control.on_worker_error(running.ticket, "reset", now, retryable=running.output_tokens == 0)
        elif chance < 0.4:
            control.on_abort(running.ticket, now)
        elif chance < 0.6:
            control.on_tokens(running.ticket, running.output_tokens + int(rng.integers(1, 50)), now)


def _reports(control: ControlPlane, now: float) -> None:
    for pool in control.view(now).pools:
        for worker in pool.workers:
            control.on_worker_report(worker.name, WorkerReport(now, worker.inflight, 0, 0.5), now)


@every
def test_it_is_built_from_defaults_and_says_its_name(stage: str, name: str) -> None:
    built = stages.Catalogue().registries()[stage].create(name, None, RESOURCES)
    assert built.name == name


@every
def test_its_options_are_documented_frozen_and_closed(stage: str, name: str) -> None:
    model = stages.options_model(stage, name)
    assert model.model_config.get("frozen")
    with pytest.raises(ValidationError):
        model.model_validate({"no_such_option": 1})
    for key, field in model.model_fields.items():
        assert field.description, f"{key} has no docstring"
        assert not field.is_required(), f"{key} has no default"


@every
def test_every_ticket_ends_once_and_every_decision_is_recorded(stage: str, name: str) -> None:
    records, said = run(stage, name, seed=3)
    assert sorted(record.ticket for record in records) == sorted(f"{number}" for number in range(150))
    ticks = [tick for tick in said if isinstance(tick, Tick)]
    assert all(tick.next_at is None or tick.next_at > 0 for tick in ticks)
    served = [record for record in records if record.result is Result.COMPLETED]
    assert len(served) > 20
    for record in served:
        decided = {choice.stage: choice for choice in record.choices}
        assert {"admit", "tier", "order", "place"} <= set(decided)
        assert decided["tier"].chosen == record.pool
        assert decided["place"].chosen == record.worker
        assert all(0 < choice.propensity <= 1 for choice in record.choices)
        for choice in (decided["tier"], decided["place"]):
            weighed = {alternative.name for alternative in choice.alternatives if alternative.eligible}
            assert choice.chosen in weighed or not weighed


@every
def test_the_same_events_give_the_same_decisions(stage: str, name: str) -> None:
    assert run(stage, name, seed=5) == run(stage, name, seed=5)


@pytest.mark.parametrize("name", stages.names("tier"))
def test_a_tier_chooses_among_the_pools_that_can_serve(name: str) -> None:
    for forbidden in LADDER:
        rest = [pool.name for pool in LADDER if pool is not forbidden]
        control = plane(stages_by_name({"tier": name}, RESOURCES), pools=LADDER, aliases={"auto": rest})
        for number in range(20):
            answer = control.submit(ticket(f"{number}"), 0.0)
            assert isinstance(answer, Admitted)
            if answer.wants_scores:
                control.on_scores(f"{number}", Scores(0.0, 10.0, {pool.name: 0.5 for pool in LADDER}), 0.0)
        chosen = {view.pool for view in control.queued()}
        assert chosen <= set(rest)
        assert None not in chosen


@pytest.mark.parametrize("name", stages.names("place"))
def test_a_place_chooses_among_the_workers_with_room(name: str) -> None:
    control = plane(stages_by_name({"place": name}, RESOURCES), workers=3, max_inflight=2)
    for number in range(20):
        control.submit(ticket(f"{number}", prefix=(1, 2, 3)), 0.0)
    assert len(control.dispatch(0.0)) == 6
    assert all(worker.inflight == 2 for worker in control.view(0.0).pool("small").workers)


@pytest.mark.parametrize("name", stages.names("order"))
def test_an_orders_engine_priority_agrees_with_its_keys(name: str) -> None:
    control = plane(stages_by_name({"order": name}, RESOURCES), max_inflight=100, priority_scheduling=True)
    rng = np.random.default_rng(0)
    for number in range(50):
        now = float(number)
        control.submit(ticket(f"{number}"), now)
        control.on_scores(f"{number}", Scores(length_rank=float(rng.normal())), now)
    keys = {view.ticket: view.key or 0.0 for view in control.queued()}
    priorities = {dispatch.ticket: dispatch.priority for dispatch in control.dispatch(50.0)}
    for one in keys:
        for other in keys:
            first, second = priorities[one], priorities[other]
            assert first is not None
            assert second is not None
            assert not (keys[one] < keys[other] and first > second)
