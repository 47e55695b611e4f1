from __future__ import annotations

from typing import Any

import pytest

from controller.configuration import KvEvents, parse
from controller.errors import ConfigurationError
from controller.types import PoolSpec, WorkerSpec
from tests.controller.configuration.fleets import fleet, pool

COMMAND = ["serve", "--port", "{port}"]


def test_pools_and_workers_become_what_the_control_plane_knows() -> None:
    changes = {
        "context_length": 16384,
        "tools": False,
        "modalities": ["image"],
        "adapters": ["support"],
        "prior_quality": 0.7,
        "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2},
        "profile": "h100-8b",
        "workers": [
            {"url": "http://a:1/", "max_inflight": 7, "priority_scheduling": True},
            {"name": "b", "url": "http://b:1"},
        ],
    }
    small = parse(pool(0, **changes)).pools[0]
    assert small.spec() == PoolSpec(
        name="small",
        model="org/small",
        tier=0,
        context_length=16384,
        tools=False,
        modalities=frozenset({"image"}),
        adapters=frozenset({"support"}),
        prior_quality=0.7,
        input_usd_per_mtok=1.0,
        output_usd_per_mtok=2.0,
        profile="h100-8b",
    )
    assert small.worker_specs() == (
        WorkerSpec("small-0", "small", "http://a:1", 7, True),
        WorkerSpec("b", "small", "http://b:1", 32, False),
    )


@pytest.mark.parametrize(
    "url",
    ["a:8000", "ftp://a:1", "http://", "http://a:99999", "http://a:0", "http://a/v1", "http://a?x=1", "http://a:x"],
)
def test_only_base_urls_are_taken(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"pools\[0\].workers\[0\].url: "):
        parse(pool(0, workers=[{"url": url}]))


def test_a_listed_worker_may_name_where_it_publishes_its_kv_events() -> None:
    said = {"endpoint": "tcp://a:5557", "replay_endpoint": "ipc:///run/kv.sock", "topic": "kv"}
    workers = [
        {"url": "http://a:1", "kv_events": said},
        {"url": "http://b:1", "kv_events": {"endpoint": "tcp://[::1]:5"}},
    ]
    first, second = parse(pool(0, workers=workers)).pools[0].workers
    assert first.kv_events == KvEvents(**said)
    assert second.kv_events == KvEvents(endpoint="tcp://[::1]:5", replay_endpoint=None, topic="")


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("tcp://*:5557", "the server's own spelling"),
        ("tcp://10.0.0.5", "needs a port"),
        ("tcp://10.0.0.5:0", "needs a port"),
        ("tcp://10.0.0.5:x", "port"),
        ("tcp://:5557", "write it like tcp://10.0.0.5:5557"),
        ("http://10.0.0.5:5557", "write it like tcp://10.0.0.5:5557"),
        ("tcp://10.0.0.5:5557/kv", "not an endpoint"),
        ("10.0.0.5:5557", "not an endpoint"),
        ("ipc:kv.sock", "not an endpoint"),
        ("ipc://", "not an endpoint"),
    ],
)
def test_only_endpoints_that_can_be_connected_to_are_taken(endpoint: str, says: str) -> None:
    for key, more in (("endpoint", {}), ("replay_endpoint", {"endpoint": "tcp://a:1"})):
        with pytest.raises(ConfigurationError) as caught:
            parse(pool(0, workers=[{"url": "http://a:1", "kv_events": {**more, key: endpoint}}]))
        (problem,) = caught.value.problems
        assert problem.key == f"pools[0].workers[0].kv_events.{key}"
        assert says in problem.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workers": []}, "nothing serves this pool"),
        ({"replicas": {"max": 2}}, "replicas need an actuator"),
        ({"actuator": {"command": ["serve"]}}, "no word holds {port}"),
        ({"actuator": {"command": []}}, "at least 1 item"),
        ({"actuator": {"command": COMMAND, "ports": "9001-9000"}}, "not a range of ports"),
        ({"actuator": {"command": COMMAND, "ports": "0-1"}}, "not a range of ports"),
        ({"actuator": {"command": COMMAND, "ports": "70000-70001"}}, "not a range of ports"),
        ({"actuator": {"command": COMMAND, "ports": "many"}}, "pattern"),
        ({"actuator": {"command": COMMAND, "kind": "magic"}}, "'process'"),
        ({"actuator": {"command": COMMAND}, "replicas": {"min": 3, "max": 2}}, "min <= initial <= max"),
        ({"actuator": {"command": COMMAND}, "replicas": {"max": 2, "initial": 3}}, "min <= initial <= max"),
        ({"actuator": {"command": COMMAND}, "workers": [{"url": "http://a:1"}, {"url": "http://b:1"}]}, "counts the 2"),
        ({"prior_quality": 1.5}, "less than or equal to 1"),
        ({"tier": -1}, "greater than or equal to 0"),
        ({"name": "a b"}, "pattern"),
    ],
)
def test_pools_that_cannot_work_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(pool(0, **changes))
    (problem,) = caught.value.problems
    assert problem.key.startswith("pools[0]")
    assert says in problem.message


def test_replicas_count_the_listed_workers() -> None:
    actuator = {"command": COMMAND, "ports": "9000-9003", "environment": {"A": "1", "B": None}}
    configuration = parse(pool(0, actuator=actuator, replicas={"min": 0, "max": 4}))
    assert [(scale.pool, scale.replicas) for scale in configuration.initial_scale()] == [("small", 1)]
    assert configuration.replica_ranges()["small"].max == 4
    options = configuration.process_actuators()["small"]
    assert options.port_range == range(9000, 9004)
    assert options.environment == {"A": "1", "B": None}


def test_a_fleet_without_actuators_scales_nothing() -> None:
    configuration = parse(fleet())
    assert configuration.initial_scale() == ()
    assert configuration.replica_ranges() == {}
