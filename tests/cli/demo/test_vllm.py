from __future__ import annotations

from pathlib import Path

import pytest

from cli.demo import vllm
from cli.demo.runner import Demonstration
from cli.demo.vllm import build
from controller.errors import UnknownArtifact
from controller.store import ArtifactStore
from envs.ladder.shapes import NAMES, shipped
from tests.cli.demo.reading import as_a_gateway_reads


def test_there_is_a_pool_for_each_model_of_the_ladder() -> None:
    workers, _, _, _ = build(seed=None, scale=0.2)
    assert [(pool["name"], pool["model"], pool["tier"]) for pool in workers.pools] == [
        (name, name, tier) for tier, name in enumerate(NAMES)
    ]
    for name, words in workers.commands.items():
        assert words[words.index("--model") + 1] == str(shipped(name))
        assert words[words.index("--port") + 1] == "{port}"
    priors = [pool["prior_quality"] for pool in workers.pools]
    assert 0 < priors[0] < priors[1] < priors[2] < 1
    assert workers.environment is not None
    assert workers.environment["OMP_NUM_THREADS"] == "1"


def test_the_same_seed_asks_the_same_and_nobody_knows_the_peak_beforehand() -> None:
    first, second, other = (build(seed=seed, scale=0.2)[2] for seed in (3, 3, 4))
    assert [(r.at, r.prompt) for r in first] == [(r.at, r.prompt) for r in second] != [(r.at, r.prompt) for r in other]
    assert {request.peak for request in first} == {None}


def test_every_pool_is_asked_unloaded() -> None:
    workers, policies, requests, about = build(seed=None, scale=0.2)
    demonstration = Demonstration(workers, policies, requests, about=about, seed=1, port=8080, logs=Path("logs"))
    assert demonstration.unloaded_questions == len(NAMES) * len(requests)


@pytest.mark.parametrize("known", [True, False])
def test_every_policy_is_a_configuration_that_a_gateway_takes(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(store: ArtifactStore, ref: str) -> Path:
        if not known:
            raise UnknownArtifact(ref)
        return Path(ref)

    monkeypatch.setattr(ArtifactStore, "resolve", resolve)
    workers, policies, _, _ = build(seed=None, scale=0.1)
    assert [policy.name for policy in policies] == ["static", "heuristic", "learned"]
    for policy in policies:
        configuration = as_a_gateway_reads(workers, policy)
        expected = ("length/fast", "quality/suite" if known else None) if policy.name == "learned" else (None, None)
        assert (configuration.scoring.length, configuration.scoring.quality) == expected
    assert ("stands in" in policies[-1].about) != known


def test_a_machine_without_vllm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(vllm, "find_spec", nothing)
    with pytest.raises(ModuleNotFoundError, match="vllm"):
        build(seed=None, scale=0.1)
