from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.types import Scores
from envs.episode import EpisodeSource, Randomisation, _moved
from envs.scenarios import WorkloadKind
from envs.workloads import Sinusoid
from tests.envs.worlds import PROFILES, SCENARIO, prompts

BANK = prompts()


def test_without_randomisation_the_scenario_is_played_as_it_is() -> None:
    episode = EpisodeSource(SCENARIO, PROFILES, BANK).draw(3, WorkloadKind.BURSTY)
    assert episode.scenario == SCENARIO
    assert episode.profiles == PROFILES


def test_requests_carry_predictions_up_and_truth_down() -> None:
    episode = EpisodeSource(SCENARIO, PROFILES, BANK).draw(3)
    for request, row in zip(episode.requests, episode.rows, strict=True):
        assert request.scores == BANK.scores[row]
        assert list(request.output_tokens.values()) == np.minimum(BANK.output_tokens[row], 512).tolist()
        assert request.ticket.deadline == pytest.approx(request.at + SCENARIO.deadline_s)
    assert [request.index for request in episode.requests] == list(range(len(episode.requests)))


def test_an_answer_that_is_cut_short_is_worth_nothing() -> None:
    episode = EpisodeSource(replace(SCENARIO, max_tokens=50), PROFILES, BANK).draw(3)
    cut = BANK.output_tokens[episode.rows] > 50
    assert cut.any()
    assert (episode.quality[cut] == 0).all()
    assert (episode.quality[~cut] > 0).all()
    assert not episode.correct[cut].any()


def test_training_strays_in_every_direction() -> None:
    source = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation.training())
    episodes = [source.draw(seed) for seed in range(40)]
    assert {episode.kind for episode in episodes} == set(WorkloadKind)
    by = Randomisation.training()
    rates = [episode.scenario.burst_rate / SCENARIO.burst_rate for episode in episodes]
    assert 1 / (1 + by.rate) <= min(rates) < 0.75
    assert 1.3 < max(rates) <= 1 + by.rate
    assert len({episode.scenario.deadline_s for episode in episodes}) == 40
    assert len({episode.profiles["large"].a for episode in episodes}) == 40
    shares = np.array([np.mean([BANK.tasks[row].level == 4 for row in episode.rows]) for episode in episodes])
    assert shares.std() > 0.02


def test_limits_may_stray_too() -> None:
    source = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation(limit=0.5))
    episodes = [source.draw(seed) for seed in range(20)]
    assert len({pool.max_inflight for episode in episodes for pool in episode.scenario.pools}) > 5


FIELDS = ("step", "overhead", "cold_start", "report_delay", "dropout", "crashes_per_hour", "stragglers_per_hour",
          "length_drift", "task_drift")  # fmt: skip
"""What came after the shipped policy was trained."""
DRAWN = (WorkloadKind.BURSTY, 181, 20, 0.022157504388510926, 0.028016691850199726, 6.989656816351105)
"""Kind, requests and first prompt of an episode, its first arrival, large's time a step, and a predicted length."""


def test_what_the_shipped_policy_was_trained_on_is_drawn_as_it_was() -> None:
    """The first arrivals, machines and predictions of an episode, as they were when it was trained."""
    for by in (Randomisation.training(), Randomisation.validation()):
        assert not any(getattr(by, name) for name in FIELDS)
    episode = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation.training()).draw(3)
    first = episode.requests[0]
    assert first.scores is not None
    assert (episode.kind, len(episode.requests), int(episode.rows[0])) == DRAWN[:3]
    assert (first.at, episode.profiles["large"].a, first.scores.output_tokens) == pytest.approx(DRAWN[3:])


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_changes_what_it_names_and_nothing_else(name: str) -> None:
    plain = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation.training())
    strays = replace(plain, randomisation=replace(plain.randomisation, **{name: 0.5}))
    before, after = plain.draw(5), strays.draw(5)
    assert (after.scenario, after.kind) == (before.scenario, before.kind)
    assert [request.at for request in after.requests] == [request.at for request in before.requests]
    changed = {
        "profiles": after.profiles != before.profiles,
        "clock": after.clock != before.clock,
        "hardship": after.hardship != before.hardship,
        "rows": not np.array_equal(after.rows, before.rows),
        "lengths": not np.array_equal(after.output_tokens, before.output_tokens),
    }
    expected = {
        "step": {"profiles"},
        "overhead": set(),
        "cold_start": {"profiles"},
        "report_delay": {"clock"},
        "dropout": {"hardship"},
        "crashes_per_hour": {"hardship"},
        "stragglers_per_hour": {"hardship"},
        "length_drift": {"lengths"},
        "task_drift": {"rows", "lengths"},
    }[name]
    assert {what for what, differs in changed.items() if differs} == expected


def test_constants_of_a_machine_stray_each_by_itself() -> None:
    shaped = {name: replace(profile, c=1e-5, d=1e-8, token_overhead_s=1e-4) for name, profile in PROFILES.items()}
    source = EpisodeSource(SCENARIO, shaped, BANK, Randomisation(step=0.5, overhead=1.0, cold_start=0.2))
    drawn = [source.draw(seed).profiles["large"] for seed in range(60)]
    for name, by in (("a", 0.5), ("b", 0.5), ("c", 0.5), ("d", 0.5), ("token_overhead_s", 1.0), ("wake_s", 0.2)):
        factors = np.array([getattr(profile, name) for profile in drawn]) / getattr(shaped["large"], name)
        assert 1 / (1 + by) <= factors.min() < 1 / (1 + 0.8 * by)
        assert 1 + 0.8 * by < factors.max() <= 1 + by
    assert abs(np.corrcoef([profile.a for profile in drawn], [profile.b for profile in drawn])[0, 1]) < 0.4


def test_hardship_is_drawn_up_to_what_is_said() -> None:
    by = Randomisation(dropout=0.4, crashes_per_hour=3.0, stragglers_per_hour=6.0, report_delay=1.0)
    source = EpisodeSource(SCENARIO, PROFILES, BANK, by)
    drawn = [source.draw(seed) for seed in range(40)]
    for name, most in (("lost", 0.4), ("crashes_per_hour", 3.0), ("stragglers_per_hour", 6.0)):
        values = [getattr(episode.hardship, name) for episode in drawn]
        assert 0.0 <= min(values) < 0.2 * most
        assert 0.8 * most < max(values) <= most
    delays = [episode.clock.report_delay / source.clock.report_delay for episode in drawn]
    assert 0.5 <= min(delays) < 0.6
    assert 1.7 < max(delays) <= 2.0


def test_answers_grow_while_predictions_stay() -> None:
    source = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation(length_drift=1.0))
    slopes = []
    for seed in range(12):
        episode = source.draw(seed, WorkloadKind.STABLE)
        times = np.array([request.at for request in episode.requests])
        ratio = episode.output_tokens[:, 2] / BANK.output_tokens[episode.rows, 2]
        slopes.append(np.polyfit(times, np.log(ratio), 1)[0] * SCENARIO.duration_s)
        assert [request.scores for request in episode.requests] == [BANK.scores[row] for row in episode.rows]
    assert min(slopes) < -0.2
    assert max(slopes) > 0.2
    assert max(map(abs, slopes)) < np.log(2.0) * 1.05


def test_tasks_drift_towards_another_mix() -> None:
    wide = replace(SCENARIO, base_rate=30.0, burst_rate=30.0)
    drifting = EpisodeSource(wide, PROFILES, BANK, Randomisation(task_drift=2.0))
    steady = EpisodeSource(wide, PROFILES, BANK)
    first, last = [], []
    for seed in range(6):
        before, after = steady.draw(seed, WorkloadKind.STABLE), drifting.draw(seed, WorkloadKind.STABLE)
        other = before.rows != after.rows
        quarter = len(other) // 4
        first.append(other[:quarter].mean())
        last.append(other[-quarter:].mean())
    assert np.mean(first) < 0.25
    assert np.mean(last) > 0.75


def test_requests_may_come_as_any_process_has_it() -> None:
    wave = Sinusoid(30.0, 0.8, period=16.0)
    source = EpisodeSource(SCENARIO, PROFILES, BANK, process=wave)
    times = np.array([request.at for seed in range(6) for request in source.draw(seed).requests])
    assert len(times) / 6 / SCENARIO.duration_s == pytest.approx(30.0, rel=0.1)
    assert (times < 8.0).sum() > 3 * (times >= 8.0).sum() / 2
    strays = replace(source, randomisation=Randomisation(rate=1.0))
    counts = [len(strays.draw(seed).requests) for seed in range(12)]
    assert max(counts) > 1.5 * min(counts)


def test_impossible_strays_are_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        Randomisation(rate=-0.1)
    with pytest.raises(ValueError, match="dropout"):
        Randomisation(dropout=1.5)


def test_tenants_have_their_shares() -> None:
    shared = replace(SCENARIO, base_rate=40.0, burst_rate=40.0, tenants={"a": 3.0, "b": 1.0})
    episode = EpisodeSource(shared, PROFILES, BANK).draw(0)
    assert np.mean([request.ticket.tenant == "a" for request in episode.requests]) == pytest.approx(0.75, abs=0.06)


def test_validation_strays_in_predictions_alone() -> None:
    plain, worse = (EpisodeSource(SCENARIO, PROFILES, BANK, by) for by in (Randomisation(), Randomisation.validation()))
    before, after = plain.draw(3), worse.draw(3)
    assert (after.scenario, after.profiles, after.clock) == (before.scenario, before.profiles, before.clock)
    assert np.array_equal(after.rows, before.rows)
    assert [replace(r, scores=None) for r in after.requests] == [replace(r, scores=None) for r in before.requests]
    assert after.requests == worse.draw(3).requests
    hidden = [request.scores.quality is None for request in after.requests]
    assert np.mean(hidden) == pytest.approx(Randomisation.validation().unknown, abs=0.06)
    pairs = [(r.scores, BANK.scores[row]) for r, row in zip(after.requests, after.rows, strict=True)]
    assert all(seen.quality in (None, said.quality) for seen, said in pairs)
    assert all(seen.length_rank == said.length_rank for seen, said in pairs)
    factors = np.array([seen.output_tokens / said.output_tokens for seen, said in pairs])
    by = 1 + Randomisation.validation().length
    assert 1 / by <= factors.min() < 0.8
    assert 1.2 < factors.max() <= by


def test_what_a_predictor_does_not_say_stays_unsaid() -> None:
    bank = replace(BANK, scores=(Scores(),) * len(BANK))
    episode = EpisodeSource(SCENARIO, PROFILES, bank, Randomisation.validation()).draw(3)
    assert {request.scores for request in episode.requests} == {Scores()}


def test_the_mean_of_the_training_rates_is_not_shifted() -> None:
    source = EpisodeSource(SCENARIO, PROFILES, BANK, Randomisation(rate=1.0))
    logs = [np.log(source.draw(seed).scenario.base_rate / SCENARIO.base_rate) for seed in range(60)]
    assert np.mean(logs) == pytest.approx(0.0, abs=0.15)


@pytest.mark.parametrize(
    ("shift", "longer", "moved"),
    [
        (0.0, 1.0, ((4, 8), (10, 12))),
        (2.0, 1.0, ((6, 10), (12, 14))),
        (-6.0, 1.0, ((0, 2), (4, 6))),
        (0.0, 2.0, ((4, 12), (12, 14))),
        (9.0, 1.0, ((13, 15),)),
    ],
)
def test_moved_bursts_stay_apart_and_inside(
    shift: float, longer: float, moved: tuple[tuple[float, float], ...]
) -> None:
    assert _moved(((4.0, 8.0), (10.0, 12.0)), shift, longer, 15.0) == moved
