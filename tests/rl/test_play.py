from __future__ import annotations

import numpy as np
import pytest

from controller.observation import Mask, Observation
from controller.policy import PolicyDecision
from rl.play import Play, named_tier, play, policy_tier
from tests.envs.worlds import source

EPISODE = source().draw(1)


def _always(action: int) -> object:
    def policy(observation: Observation, mask: Mask) -> PolicyDecision:
        return PolicyDecision(action, (0.0, 0.0, 0.0))

    return policy


@pytest.mark.parametrize(("action", "pool"), [(0, "small"), (1, "medium"), (2, "large")])
def test_a_constant_policy_is_the_static_tier(action: int, pool: str) -> None:
    ours = play(EPISODE, policy_tier(_always(action)))  # type: ignore[arg-type]
    static = play(EPISODE, named_tier("static", {"pool": pool}))
    assert ours.served == static.served


def test_what_was_served_is_what_ended() -> None:
    found = play(EPISODE, named_tier("static", {"pool": "small"}))
    assert [end.request for end in found.ended] == list(EPISODE.requests)
    for row, (end, served) in enumerate(zip(found.ended, found.served, strict=True)):
        assert served.latency == end.latency
        assert served.in_time == end.in_time
        assert served.peak == EPISODE.quality[row].max()
        if end.pool is not None:
            assert served.quality == EPISODE.quality[row, 0]


def test_a_request_that_never_ended_is_an_error() -> None:
    found = play(EPISODE, named_tier("static", {"pool": "small"}))
    with pytest.raises(RuntimeError, match="ended"):
        Play(EPISODE, found.ended[1:])


def test_playing_twice_gives_the_same() -> None:
    stages = named_tier("static", {"weights": {"small": 0.5, "large": 0.5}})
    assert play(EPISODE, stages).ended == play(EPISODE, stages).ended


def test_order_changes_who_waits() -> None:
    first, shortest = (
        play(EPISODE, named_tier("static", {"pool": "large"}, order)) for order in ("fcfs", "length_rank")
    )
    done = [np.mean([served.in_time for served in found.served]) for found in (first, shortest)]
    assert done[0] != done[1]
