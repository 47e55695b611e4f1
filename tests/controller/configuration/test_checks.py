from __future__ import annotations

from typing import Any

import pytest

from controller.configuration import parse
from controller.errors import ConfigurationError
from controller.types import Task
from tests.controller.configuration.fleets import fleet, pool

ACTUATOR = {"command": ["serve", "{port}"], "ports": "9000-9001"}


@pytest.mark.parametrize(
    ("data", "key", "says"),
    [
        (fleet(pools=[]), "pools", "at least one"),
        (pool(1, name="small"), "pools[1].name", "already taken by pools[0].name"),
        (pool(1, tier=0), "pools[1].tier", "0 is already taken by pools[0].tier"),
        (pool(1, workers=[{"url": "http://a:8000/"}]), "pools[1].workers[0].url", "already taken"),
        (pool(1, workers=[{"name": "small-0", "url": "http://b:1"}]), "pools[1].workers[0].name", "already taken"),
        (
            pool(0, workers=[{"url": f"http://{host}:1", "kv_events": {"endpoint": "tcp://a:5"}} for host in "ab"]),
            "pools[0].workers[1].kv_events.endpoint",
            "worker 'small-0' publishes there",
        ),
        (pool(0, workers=[{"url": "http://localhost:8080"}]), "pools[0].workers[0].url", "the gateway itself"),
        (pool(0, actuator={**ACTUATOR, "ports": "8080-8090"}), "pools[0].actuator.ports", "own port 8080"),
        (
            pool(0, actuator=ACTUATOR, replicas={"max": 4}),
            "pools[0].actuator.ports",
            "2 ports are too few for 3 workers",
        ),
        (fleet(aliases={"auto": ["small", "larg"]}), "aliases.auto[1]", "did you mean 'large'?"),
        (fleet(aliases={"auto": ["small", "small"]}), "aliases.auto[1]", "already taken"),
        (fleet(aliases={"auto": []}), "aliases.auto", "names no pool"),
        (fleet(aliases={"small": ["large"]}), "aliases.small", "already has this name"),
        (fleet(aliases={"org/large": ["small"]}), "aliases.org/large", "model of pool 'large'"),
        (pool(1, adapters=["small"]), "pools[1].adapters", "'small' is a pool's or a model's name"),
        (fleet(tenants=[{"name": "a"}, {"name": "a"}]), "tenants[1].name", "already taken"),
        (fleet(stages={"tier": "treshold"}), "stages.tier.name", "did you mean 'threshold'?"),
        (fleet(stages={"tier": {"name": "threshold", "wait": 1}}), "stages.tier.wait", "did you mean 'wait_s'?"),
        (fleet(stages={"tier": {"name": "threshold", "wait_s": -1}}), "stages.tier.wait_s", "greater than 0"),
        (fleet(stages={"tier": {"name": "static", "pool": "smal"}}), "stages.tier", "did you mean 'small'?"),
    ],
)
def test_contradictions_are_refused(data: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(data)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert says in problem.message


def test_an_alias_may_not_hide_an_adapter() -> None:
    data = pool(1, adapters=["bot"])
    data["aliases"] = {"bot": ["small"]}
    with pytest.raises(ConfigurationError, match=r"aliases.bot: an adapter of pool 'large' already has this name"):
        parse(data)


def test_tasks_are_known_ones_and_at_least_one() -> None:
    assert parse(pool(1, tasks=["embed", "rerank"])).pools[1].spec().tasks == {Task.EMBED, Task.RERANK}
    for wrong, says in ((["rank"], "'rerank'"), ([], "at least 1")):
        with pytest.raises(ConfigurationError, match=says):
            parse(pool(1, tasks=wrong))


def test_a_ceiling_below_every_tier_is_refused() -> None:
    data = fleet(tenants=[{"name": "a", "tier_ceiling": 1}])
    data["pools"][0]["tier"], data["pools"][1]["tier"] = 2, 3
    with pytest.raises(ConfigurationError, match=r"tenants\[0\].tier_ceiling: .*the lowest is 2"):
        parse(data)


def test_all_contradictions_are_reported_at_once() -> None:
    data = fleet(aliases={"auto": ["nobody"]}, stages={"place": "nowhere"})
    data["pools"][1]["name"] = "small"
    with pytest.raises(ConfigurationError) as caught:
        parse(data)
    assert [problem.key for problem in caught.value.problems] == [
        "pools[1].name",
        "aliases.auto[0]",
        "stages.place.name",
    ]


def test_every_shipped_stage_can_be_chosen() -> None:
    from controller import stages

    for stage in ("admit", "tier", "order", "fairness", "place", "rebalance", "scale"):
        for name in stages.names(stage):
            if (stage, name) in stages.SIMULATION_ONLY:
                with pytest.raises(ConfigurationError, match="what simulations alone know"):
                    parse(fleet(stages={stage: name}))
                continue
            assert parse(fleet(stages={stage: name})).stages.choices()[stage] == (name, {})


def test_a_worker_elsewhere_may_use_the_gateways_port() -> None:
    assert parse(pool(0, workers=[{"url": "http://10.0.0.9:8080"}])).worker_specs()[0].url == "http://10.0.0.9:8080"
