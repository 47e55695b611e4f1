"""``headway collect`` against real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import MODEL, POOL, ROOT, Gateway, clean_environment


def collect(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "collect", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300, check=False
    )


def test_answers_of_real_workers_are_recorded(gateway: Gateway, workers: list[VllmProcess], tmp_path: Path) -> None:
    out, report = tmp_path / "rows.parquet", tmp_path / "report.json"
    ran = collect(
        *("--target", gateway.url, "--model", POOL, "--prompts", "tasks:test:8", "--samples", "1"),
        *("--max-tokens", "32", "--concurrency", "4", "--out", str(out), "--json", str(report)),
    )
    assert ran.returncode == 0, ran.stderr
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert len(rows) == len({row["prompt_id"] for row in rows}) == 8
    for row in rows:
        assert (row["error"], row["status"], row["model"], row["answered_by"]) == (None, 200, POOL, MODEL)
        assert row["answer"]
        assert 0 < row["output_tokens"] <= 32
        assert 0 < row["ttft_s"] <= row["e2e_s"]
        assert isinstance(row["correct"], bool)
    (result,) = json.loads(report.read_text())["results"]
    assert result["metrics"]["requests"]["value"] == 8
    assert result["metrics"]["failed"]["value"] == 0


def test_workers_may_be_asked_without_a_gateway(workers: list[VllmProcess], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Name a colour.\nName a river.\n")
    out = tmp_path / "rows.parquet"
    ran = collect(
        *("--target", workers[0].url, "--target", workers[1].url, "--prompts", str(prompts)),
        *("--samples", "2", "--temperature", "0.8", "--max-tokens", "12", "--concurrency", "1", "--out", str(out)),
    )
    assert ran.returncode == 0, ran.stderr
    rows = pyarrow.parquet.read_table(out).to_pylist()
    assert {(row["prompt"], row["sample"]) for row in rows} == {
        (prompt, sample) for prompt in ("Name a colour.", "Name a river.") for sample in (0, 1)
    }
    assert {row["target"] for row in rows} == {worker.url for worker in workers}
    assert {row["correct"] for row in rows} == {None}
