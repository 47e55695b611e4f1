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
from tests.cli.simulate.studies import STEADY, azure, profile_file, run, said_by

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


@pytest.mark.parametrize("policy", ["round_robin", "least_load", "prefix,place.min_match=0.3,max_inflight=3"])
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
