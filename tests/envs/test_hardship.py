from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from controller.types import Result
from envs.engines.base import EnginePhase, EngineRequest, EventKind
from envs.engines.sim import SimEngine
from envs.episode import EpisodeSource, Randomisation
from envs.hardship import Act, Hardship, Machine, Mishap
from rl.play import named_tier, play
from tests.envs.worlds import PROFILES, SCENARIO, profile, prompts

STEP_S = 0.01
PLAIN = replace(profile("small", STEP_S), b=0.0, cold_start_s=2.0)
BANK = prompts()


def request(name: str, tokens: int, at: float = 0.0) -> EngineRequest:
    return EngineRequest(name, 10, tokens, arrival=at)


def drive(machine: Machine, until: float) -> list[tuple[EventKind, str, float]]:
    """Events in order, as a fleet would have them: it looks whenever something may be due."""
    events = []
    while (due := machine.next_event_at()) is not None and due <= until:
        events += machine.advance(max(due, machine.now))
    events += machine.advance(until)
    return [(event.kind, event.id, round(event.at, 9)) for event in events]


def test_a_crash_aborts_and_refuses_until_the_engine_is_up_again() -> None:
    machine = Machine(SimEngine(PLAIN), (Mishap(1.0, Act.CRASH), Mishap(1.5, Act.RESTART)))
    machine.submit(request("a", 500))
    assert drive(machine, 1.2)[-1] == (EventKind.ABORTED, "a", 1.0)
    machine.submit(request("b", 5, 1.2))
    assert drive(machine, 1.3) == [(EventKind.ABORTED, "b", 1.2)]
    drive(machine, 1.6)
    assert machine.phase is EnginePhase.STARTING
    assert machine.back_at == 3.5
    machine.submit(request("c", 5, 1.6))
    assert drive(machine, 5.0)[-1] == (EventKind.FINISHED, "c", 3.55)


def test_a_slow_spell_slows_down_and_passes() -> None:
    machine = Machine(SimEngine(PLAIN), (Mishap(1.0, Act.PACE, 3.0), Mishap(2.0, Act.PACE)))
    took = []
    for at in (0.5, 1.1, 2.5):
        drive(machine, at)
        machine.submit(request(f"r{at}", 10, at))
        ((*_, end),) = [event for event in drive(machine, at + 0.45) if event[0] is EventKind.FINISHED]
        took.append(end - at)
    assert took == pytest.approx([0.1, 0.3, 0.1])


def test_an_engine_that_is_not_up_cannot_crash() -> None:
    machine = Machine(SimEngine(PLAIN, cold=True), (Mishap(1.0, Act.CRASH), Mishap(1.5, Act.RESTART)))
    drive(machine, 2.5)
    assert machine.phase is EnginePhase.READY


def test_fates_are_drawn_once_and_worker_by_worker() -> None:
    hard = Hardship(seed=3, horizon_s=3600.0, crashes_per_hour=20.0, stragglers_per_hour=20.0, slowness=1.5)
    assert hard.fate("a-0") == hard.fate("a-0") != hard.fate("a-1")
    counts = dict.fromkeys(Act, 0)
    for place in range(50):
        fate = hard.fate(f"w-{place}")
        assert all(one.at <= other.at for one, other in pairwise(fate))
        assert all(1.0 <= mishap.factor <= 2.5 for mishap in fate)
        for mishap in fate:
            counts[mishap.act] += 1
    assert counts[Act.CRASH] == counts[Act.RESTART]
    assert counts[Act.CRASH] / 50 == pytest.approx(20.0, rel=0.15)
    assert counts[Act.PACE] / 100 == pytest.approx(20.0, rel=0.15)
    assert Hardship(seed=3, horizon_s=3600.0).fate("a-0") == ()


def test_crashes_cost_requests_and_everyone_still_ends() -> None:
    plain = EpisodeSource(SCENARIO, PROFILES, BANK)
    rough = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation(crashes_per_hour=2000.0))
    stages = named_tier("static", {"pool": "large"})
    calm, hit = (sum(e.in_time for s in range(3) for e in play(w.draw(s), stages).ended) for w in (plain, rough))
    assert hit < calm
    codes = {end.result for seed in range(3) for end in play(rough.draw(seed), stages).ended}
    assert Result.FAILED in codes or Result.REJECTED in codes


def test_lost_readings_leave_older_ones_standing() -> None:
    ages = []
    for dropout in (0.0, 0.9):
        episode = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation(dropout=dropout)).draw(8)
        fleet = episode.fleet(named_tier("threshold", {}))
        found = []
        for each in episode.requests:
            fleet.advance(each.at)
            if fleet.submit(each):
                fleet.score(each.ticket.id)
            reports = [w.report for pool in fleet.control.view(fleet.now).pools for w in pool.workers]
            found += [fleet.now - report.at for report in reports if report is not None]
        ages.append(float(np.mean(found)))
    assert ages[1] > 1.3 * ages[0]


def test_machines_to_which_nothing_happens_are_plain_engines() -> None:
    plain = EpisodeSource(SCENARIO, PROFILES, BANK).draw(4)
    spared = replace(plain, hardship=Hardship(seed=4, crashes_per_hour=1e-9))
    assert isinstance(spared.engine(spared.scenario.worker_specs()[0]), Machine)
    before, after = (play(episode, named_tier("threshold", {})).ended for episode in (plain, spared))
    assert before == after
