"""The comparison with other gateways: its workload, its figures, and a small run of it before simulated servers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.asking import usage
from benchmarks.peers import app, read_runs
from benchmarks.peers_drive import Told
from benchmarks.peers_figures import Objectives, Run, best_peer, figures, ratios
from benchmarks.peers_systems import RECOMMENDED, VARIANTS, Fleet, check, configuration
from benchmarks.peers_worker import prompt_text
from benchmarks.peers_workload import Question, Shape, WorkloadError, make, prose, read
from cli.bench.gateway_processes import Server, free_port, page
from cli.bench.gateway_wrk import LoadError
from controller.configuration import parse
from envs.engines import tokenizer

QUESTIONS = [Question(f"question {n} " * (1 + n), prose(5 * n, np.random.default_rng(n)), 5 * n) for n in range(1, 20)]
SHAPE = Shape("level", rate=20.0, seconds=20.0, burst=30, seed=3)


def test_a_load_is_the_same_for_the_same_seed_and_survives_its_file(tmp_path: Path) -> None:
    load = make(SHAPE, QUESTIONS, "made")
    load.write(tmp_path / "load.gz")
    assert read(tmp_path / "load.gz") == load == make(SHAPE, QUESTIONS, "made")
    assert make(replace(SHAPE, seed=4), QUESTIONS, "made") != load


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), turns=st.integers(1, 5), tenants=st.integers(2, 8))
def test_each_turn_carries_what_came_before(seed: int, turns: int, tenants: int) -> None:
    load = make(replace(SHAPE, rate=6.0, seed=seed, turns=turns, tenants=tenants, seconds=5.0), QUESTIONS, "made")
    for session in load.sessions:
        times = [turn.at for turn in session.turns]
        assert times == sorted(times)
        assert times[-1] >= 0.0
        assert times[-1] < SHAPE.seconds
        assert len({turn.question for turn in session.turns}) == len(times) <= turns
        for number, turn in enumerate(session.turns):
            said = load.messages(session, number, "salt")
            assert said[0]["content"].endswith(load.systems[session.tenant])
            assert said[-1] == {"role": "user", "content": turn.question.text}
            if number:
                assert said[: 2 * number] == load.messages(session, number - 1, "salt")
                assert said[2 * number]["content"] == session.turns[number - 1].question.answer
            prompt = tokenizer.count_chat(one["content"] for one in said)
            assert prompt + SHAPE.max_tokens <= SHAPE.context


def test_half_of_the_requests_are_one_tenants_and_the_burst_comes_in_the_middle() -> None:
    load = make(replace(SHAPE, seconds=100.0, burst=200), QUESTIONS, "made")
    asked = [(turn.at, session.tenant) for session in load.sessions for turn in session.turns if turn.at >= 0]
    counts = Counter(tenant for _, tenant in asked)
    assert counts["heavy"] / len(asked) == pytest.approx(0.5, abs=0.06)
    assert max(count for name, count in counts.items() if name != "heavy") < counts["heavy"] / 2
    at = np.array([one for one, _ in asked])
    assert ((at >= 50.0) & (at < 51.0)).sum() >= 200
    steady = np.histogram(at[(at < 50.0) | (at >= 51.0)], bins=4, range=(0.0, 100.0))[0]
    assert steady / 25.0 == pytest.approx(20.0, abs=4.0), "the rate is the same from the beginning to the end"
    assert load.requests == len(asked)


def test_runs_of_different_salts_share_no_prefix() -> None:
    load = make(SHAPE, QUESTIONS, "made")
    one, other = (load.messages(load.sessions[0], 0, salt)[0]["content"] for salt in ("aaaa", "bbbb"))
    assert one.replace("aaaa", "bbbb", 1) == other
    assert one.startswith("[aaaa] ")


def test_an_impossible_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="2 or more"):
        make(replace(SHAPE, tenants=1), QUESTIONS, "made")
    with pytest.raises(WorkloadError, match="--system-words"):
        make(replace(SHAPE, context=2400), QUESTIONS, "made")
    (tmp_path / "load.gz").write_bytes(b"no")
    with pytest.raises(WorkloadError, match="`load` makes one"):
        read(tmp_path / "load.gz")


def test_without_data_the_command_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    said = CliRunner().invoke(app, ["load", "--out", str(tmp_path / "load.gz")])
    assert said.exit_code != 0
    assert "HEADWAY_DATA" in said.output


def test_systems_are_named_or_refused() -> None:
    for name in ("headway", "headway:fcfs", "smg:cache_aware", "vllm-router:power_of_two", "round_robin"):
        check(name)
    for name in ("headway:best", "smg", "nginx", "litellm:any"):
        with pytest.raises(LoadError, match="there is no system"):
            check(name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_headway_runs_as_recommended_but_for_what_a_variant_says(variant: str, tmp_path: Path) -> None:
    fleet = Fleet(("http://127.0.0.1:1", "http://127.0.0.1:2"), "m", 48, 8192)
    found = parse(configuration(fleet, 0, tmp_path, VARIANTS[variant]))
    wanted = {**RECOMMENDED, **VARIANTS[variant]}
    assert {stage: getattr(found.stages, stage).name for stage in wanted} == wanted
    assert [worker.max_inflight for worker in found.pools[0].workers] == [48, 48]


def told(session: str, ttft: float, e2e: float, tokens: int = 11, **other: object) -> Told:
    row = Told("s", "level", "run", "heavy", session, 0, 0.0, ttft, e2e, 1000, tokens, tokens, 200)
    return replace(row, **other)  # type: ignore[arg-type]


def test_good_is_in_time_at_both_ends_and_failures_are_not() -> None:
    objectives = Objectives(ttft_s=1.0, ttft_per_1k_s=0.5, tpot_s=0.1)
    rows = [
        told("in time", 1.4, 2.3),
        told("late", 1.6, 2.0),
        told("long prompt", 1.6, 2.0, prompt_tokens=2000),
        told("slow", 1.0, 2.1),
        told("failed", 0.1, 0.2, tokens=0, error="status 429"),
        told("one token", 1.0, 1.0, tokens=1),
    ]
    run = Run(tuple(rows), 0.5)
    assert [row.session for row, good in zip(rows, run.good(objectives), strict=True) if good] == [
        *("in time", "long prompt", "one token")
    ]
    found = figures(run, objectives)
    assert found["goodput"] == pytest.approx(3 / 2.3)
    assert found["failed"] == 1
    assert found["e2e_p50"] == 2.1
    assert found["e2e_p99"] == math.inf, "who failed waited for ever"
    assert found["throughput"] == pytest.approx((4 * 11 + 1) / 2.3)


def test_light_tenants_are_told_apart_from_the_heavy_one() -> None:
    rows = [told(f"h{n}", 1.0, 5.0) for n in range(4)]
    rows += [told("a", 1.0, 2.0, tenant="light-1"), told("b", 4.0, 7.0, tenant="light-2")]
    found = figures(Run(tuple(rows), None), Objectives(tpot_s=1.0))
    assert (found["heavy_e2e_p99"], found["light_e2e_p99"]) == (5.0, 7.0)
    assert (found["heavy_good_share"], found["light_good_share"]) == (1.0, 0.0)


def test_ratios_are_to_the_best_peer_and_lie_in_their_interval() -> None:
    rng = np.random.default_rng(0)

    def run(share: float) -> list[Run]:
        late = rng.random(200) > share
        return [Run(tuple(told(f"s{n}", 9.0 if late[n] else 0.1, 9.5) for n in range(200)), None)]

    runs = {"headway": run(0.8), "headway:fcfs": run(0.9), "a": run(0.2), "b": run(0.4)}
    objectives = Objectives(tpot_s=1.0)
    assert best_peer(runs, objectives) == "b"
    found = ratios(runs, "headway", objectives, 300, np.random.default_rng(1))
    shares = {name: each[0].good(objectives).mean() for name, each in runs.items()}
    assert found["goodput"].value == pytest.approx(shares["headway"] / shares["b"])
    assert found["goodput"].lo < found["goodput"].value < found["goodput"].hi
    assert found["throughput"].value == pytest.approx(1.0)
    same = ratios({"headway": runs["a"], "b": runs["a"]}, "headway", objectives, 100, np.random.default_rng(1))
    assert all((each.value, each.lo, each.hi) == pytest.approx((1.0, 1.0, 1.0)) for each in same.values())


def test_the_usage_is_read_from_a_streams_end() -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
    last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}\n\ndata: [DONE]\n\n'
    assert usage((chunk * 3 + last)[20:]) == {"prompt_tokens": 3, "completion_tokens": 7}
    assert usage(chunk + b'data: {"error":{"message":"gone"}}\n\n') is None


def test_the_simulated_server_reads_prompts_of_both_kinds() -> None:
    assert prompt_text(b'{"prompt":"a"}') == "a"
    assert prompt_text(b'{"messages":[{"role":"system","content":"a"},{"role":"user","content":"b"}]}') == "a\nb"
    assert prompt_text(b"no") == ""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Sequence[str]]:
    ports, started = [free_port(), free_port()], []
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        for port in ports:
            command = [sys.executable, "-m", "benchmarks.peers_worker", "--port", str(port), "--max-num-seqs", "4"]
            root = Path(__file__).resolve().parents[2]
            started.append(Server.start("worker", port, command, tmp_path / f"{port}.log", environ, root))
        for server in started:
            url = f"http://127.0.0.1:{server.port}/health"
            server.wait(lambda url=url: page(url) is not None, 200)  # type: ignore[misc]
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        for server in started:
            server.stop()


@pytest.mark.timeout(300)
def test_a_small_run_from_the_load_to_the_report(workers: Sequence[str], tmp_path: Path) -> None:
    load, results, written = tmp_path / "load.gz", tmp_path / "told.jsonl", tmp_path / "report.json"
    shape = replace(SHAPE, name="small", rate=10.0, seconds=3.0, burst=10, think_s=1.0, system_words=600)
    workload = make(shape, QUESTIONS, "made")
    workload.write(load)
    command = [sys.executable, "-m", "benchmarks.peers", "run", "--model", "sim", "--max-inflight", "4"]
    command += [f"--worker={url}" for url in workers]
    command += ["--load", str(load), "--out", str(results), "--system", "headway", "--system", "headway:fcfs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    runs, lines = read_runs(results)
    assert set(runs["small"]) == {"headway", "headway:fcfs"}
    for (run,) in runs["small"].values():
        assert len(run.told) == workload.requests
        assert all(one.error is None and one.output_tokens == one.recorded_tokens for one in run.told)
        assert run.hit_rate is not None
        assert run.hit_rate > 0.3, "conversations begin alike"
    assert {line["id"] for line in lines} == {
        one.run for each in runs["small"].values() for run in each for one in run.told
    }
    said = CliRunner().invoke(app, ["report", str(results), "--json", str(written)])
    assert said.exit_code == 0, said.output
    document = json.loads(written.read_text())
    assert [row["system"] for row in document["results"]] == ["headway", "headway:fcfs"]
    assert document["ratios"] == {}, "there is no peer"
