from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.types import Scores
from envs.episode import EpisodeSource, Randomisation, _moved
from envs.scenarios import WorkloadKind
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
