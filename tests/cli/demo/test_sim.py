from __future__ import annotations

from cli.demo.sim import build
from envs.scenarios import DEMO
from tests.cli.demo.reading import as_a_gateway_reads


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    def asked(seed: int | None) -> list[tuple[float, str]]:
        return [(request.at, request.prompt) for request in build(seed=seed, scale=0.2)[2]]

    assert asked(None) == asked(DEMO.seed) != asked(DEMO.seed + 1)


def test_a_shorter_demo_has_the_same_rates() -> None:
    requests = build(seed=1, scale=0.5)[2]
    assert max(request.at for request in requests) < DEMO.duration_s / 2
    burst = [request for request in requests if request.in_burst]
    seconds = sum(end - start for start, end in DEMO.bursts) / 2
    assert abs(len(burst) / seconds - DEMO.burst_rate) < 0.3 * DEMO.burst_rate
    assert all(0 < (request.peak or 0) <= 1 for request in requests)


def test_every_policy_is_a_configuration_that_a_gateway_takes() -> None:
    workers, policies, _, _ = build(seed=None, scale=0.1)
    assert [policy.name for policy in policies] == ["static", "heuristic", "learned"]
    for policy in policies:
        configuration = as_a_gateway_reads(workers, policy)
        learned = (configuration.scoring.length, configuration.scoring.quality)
        assert (learned == (None, None)) == (policy.name != "learned")
