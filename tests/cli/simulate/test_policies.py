from __future__ import annotations

from pathlib import Path

import pytest

from cli.simulate.machines import parse_machines
from cli.simulate.policies import Policy, parse_policy
from controller.store import ArtifactStore
from tests.cli.simulate.studies import profile_file


def test_short_names_and_long_ones_mean_the_same() -> None:
    short = parse_policy("length_rank, prefix,max_inflight=64")
    long = parse_policy("order=length_rank,place=prefix,max_inflight=64")
    assert short.stages == long.stages == {"order": ("length_rank", {}), "place": ("prefix", {})}
    assert short.max_inflight == long.max_inflight == 64
    assert (short.chosen("order"), short.chosen("tier"), short.chosen("scale")) == ("length_rank", "pinned", "none")


def test_options_limits_and_a_name() -> None:
    text = (
        "name=mine,tier=static,tier.weights={a: 1, b: 3},order=fcfs,order.priority_step_s=5,max_queue=0,max_queue_s=2.5"
    )
    assert parse_policy(text + ",scheduling=priority") == Policy(
        "mine",
        {"tier": ("static", {"weights": {"a": 1, "b": 3}}), "order": ("fcfs", {"priority_step_s": 5})},
        max_queue=0,
        max_queue_s=2.5,
        scheduling="priority",
    )


def test_a_policy_is_called_what_was_written() -> None:
    assert parse_policy("fcfs,max_inflight=8").name == "fcfs,max_inflight=8"


def test_profiles_of_one_model_are_one_pool(tmp_path: Path) -> None:
    fast = profile_file(tmp_path, name="fast", a=0.005, max_model_len=512)
    other = profile_file(tmp_path, name="other", model="other")
    given = [f"{profile_file(tmp_path)}=2", str(fast), f"{other}=11"]
    machines = parse_machines(given, 3, ArtifactStore(None, None))
    assert [(pool.name, pool.model, pool.tier, pool.context_length) for pool in machines.pools] == [
        ("tiny", "tiny-model", 0, 512),
        ("other", "other", 1, 1024),
    ]
    names = [worker.name for worker in machines.workers]
    assert names[:5] == ["tiny-0", "tiny-1", "fast-0", "fast-1", "fast-2"]
    assert names[5:] == sorted(names[5:])
    assert machines.longest_context == 1024
    assert machines.described()[0]["workers"] == {"tiny": 2, "fast": 3}


def test_two_profiles_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    given = [str(profile_file(tmp_path)), str(profile_file(tmp_path / "again", a=0.5))]
    with pytest.raises(ValueError, match="called 'tiny' already"):
        parse_machines(given, 1, ArtifactStore(None, None))
