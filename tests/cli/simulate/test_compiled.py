from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.simulate.compiled import CompiledRunner
from cli.simulate.machines import Machines, parse_machines
from cli.simulate.policies import parse_policy
from cli.simulate.runner import FullRunner, Limits
from cli.simulate.workload import Workload, open_workload
from controller.store import ArtifactStore
from envs.workloads import Arrival, Conversations, Lengths, LengthSource, Poisson, conversations
from tests.cli.simulate.studies import STEADY, azure, metrics, profile_file, report, run, said_by

LIMITS = Limits(max_inflight=4, max_queue=20, max_queue_s=5.0)
NO_ARTIFACTS = ArtifactStore(None, None)


def _machines(folder: Path, workers: int = 3) -> Machines:
    return parse_machines([str(profile_file(folder, b=1e-4))], workers, NO_ARTIFACTS)


def _busy(folder: Path) -> Workload:
    rng = np.random.default_rng(5)
    at = np.cumsum(rng.exponential(50.0, 200)).round()
    rows = [
        {
            "timestamp": int(ms),
            "input_length": int(rng.integers(520, 1100)),
            "output_length": int(rng.integers(1, 120)),
            "hash_ids": [int(rng.integers(4)), 1000 + i],
        }
        for i, ms in enumerate(at)
    ]
    path = folder / "busy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return open_workload(path, None)[0]


def _talks(folder: Path) -> Workload:
    """Conversations, whose chains run on into the answers."""
    style = Conversations(LengthSource((Lengths(60, 40), Lengths(20, 90))), system=100, longest=1000, prefix_block=16)
    return Workload.of(conversations(Poisson(3.0), style, 1, count=200))


POLICIES = ("round_robin", "least_load", "prefix,place.homes=false,place.min_match=0.3,max_inflight=3")


@pytest.mark.parametrize("policy", POLICIES)
def test_it_decides_what_the_control_plane_decides(policy: str, tmp_path: Path) -> None:
    machines, workload, chosen = _machines(tmp_path), _busy(tmp_path), parse_policy(policy)
    full = FullRunner(machines, limits=LIMITS).run(workload, chosen, lambda arrived: None)
    compiled = CompiledRunner(machines, limits=LIMITS).run(workload, chosen, lambda arrived: None)
    assert 0 < (full.result == 1).sum() < len(workload), "some are rejected, and some are not"
    np.testing.assert_array_equal(compiled.result, full.result)
    np.testing.assert_allclose(compiled.e2e, full.e2e, atol=1e-9)
    np.testing.assert_allclose(compiled.ttft, full.ttft, atol=1e-9)
    np.testing.assert_array_equal(compiled.output_tokens, full.output_tokens)
    assert compiled.duration_s == pytest.approx(full.duration_s)
    assert compiled.gauges.running.max() == pytest.approx(full.gauges.running.max(), abs=2)


@pytest.mark.parametrize("policy", POLICIES)
def test_engines_find_answers_again_in_later_prompts_as_under_the_control_plane(policy: str, tmp_path: Path) -> None:
    machines, workload, chosen = _machines(tmp_path), _talks(tmp_path), parse_policy(policy)
    full = FullRunner(machines, limits=LIMITS).run(workload, chosen, lambda arrived: None)
    compiled = CompiledRunner(machines, limits=LIMITS).run(workload, chosen, lambda arrived: None)
    np.testing.assert_allclose(compiled.ttft, full.ttft, atol=1e-9)
    assert full.preemptions == 0
    assert compiled.prefix_hit_rate == full.prefix_hit_rate
    assert full.prefix_hit_rate is not None
    assert full.prefix_hit_rate > 0.2
    for runner in (FullRunner, CompiledRunner):
        without = runner(machines, limits=LIMITS, prefix_caching=False).run(workload, chosen, lambda arrived: None)
        assert without.prefix_hit_rate is None


@pytest.mark.parametrize("runner", [FullRunner, CompiledRunner])
def test_the_hit_rate_of_two_turns_by_hand(runner: type[FullRunner | CompiledRunner], tmp_path: Path) -> None:
    # The first turn computes 63 of its 64 tokens, the last of which nothing follows: three full blocks of 16.
    turns = [Lengths(32, 32, (1, 2, 3, 4), 16), Lengths(80, 5, (1, 2, 3, 4, 5), 16)]
    workload = Workload.of(Arrival(10.0 * turn, lengths=lengths) for turn, lengths in enumerate(turns))
    found = runner(_machines(tmp_path, 1)).run(workload, parse_policy("prefix,place.homes=false"), lambda arrived: None)
    assert found.prefix_hit_rate == pytest.approx(48 / (32 + 80))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--policy", "length_rank"), "order=fcfs alone"),
        (("--policy", "vtc"), "fairness=none alone"),
        (("--policy", "fcfs,order.priority_step_s=1"), "without options"),
        (("--policy", "fcfs,scheduling=priority"), "scheduling=fcfs alone"),
        (("--policy", "fcfs", "--deadline", "3"), "no deadlines"),
    ],
)
def test_what_it_cannot_do_is_said(asked: tuple[str, ...], said: str, tmp_path: Path) -> None:
    given = ("--trace", azure(tmp_path / "t.csv"), "--profile", profile_file(tmp_path), "--engine", "compiled")
    done = run(*given, *asked)
    assert done.exit_code == 2, done.output
    assert said in said_by(done)


def test_two_pools_are_one_too_many(tmp_path: Path) -> None:
    profiles = ("--profile", profile_file(tmp_path), "--profile", profile_file(tmp_path, name="other", model="other"))
    done = run("--trace", azure(tmp_path / "t.csv"), *profiles, "--policy", "fcfs", "--engine", "compiled")
    assert done.exit_code == 2
    assert "one pool" in said_by(done)


def test_the_command_runs_it(tmp_path: Path) -> None:
    given = ("--trace", azure(tmp_path / "t.csv", STEADY), "--profile", profile_file(tmp_path), "--engine", "compiled")
    done = run(*given, "--policy", "round_robin", "--policy", "least_load")
    assert done.exit_code == 0, done.output
    assert "Ratio to round_robin" in done.output


def test_what_it_does_not_count_is_not_reported(tmp_path: Path) -> None:
    given = ("--trace", azure(tmp_path / "t.csv", STEADY), "--profile", profile_file(tmp_path), "--policy", "fcfs")
    full, compiled = (metrics(report(tmp_path, *given, "--engine", engine), "fcfs") for engine in ("full", "compiled"))
    missing = {name for name, value in compiled.items() if value is None and full[name] is not None}
    assert missing == {"preemptions", "kv_peak"}
