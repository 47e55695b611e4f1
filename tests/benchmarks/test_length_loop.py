"""The loop's own parts: what it draws, splits and judges. Collecting and serving need vLLM, and are benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks import length_loop, live_burst
from benchmarks.length_loop import rows_of
from cli.length import train
from cli.length_sources import Source
from envs.answers import token_texts
from envs.collection import Row, write_parquet
from envs.prompts import read_questions
from envs.tasks import generate

PRACTICE = (
    "Do not explain.",
    "Keep it to the bare result.",
    "Give the whole working.",
    "One sentence will do.",
    "Thanks!",
)


def collected(path: Path, split: str, count: int, samples: int, seed: int = 3) -> Path:
    """Rows as ``headway collect`` writes them, of a model whose answers are nearly the worked ones."""
    rng = np.random.default_rng(seed)
    rows = [
        Row(
            prompt_id=task.content + task.wording,
            prompt=task.prompt,
            family=task.family,
            level=task.level,
            wording=task.wording,
            model="m",
            answered_by="m",
            target="http://127.0.0.1:1",
            sample=sample,
            answer=task.worked,
            finish_reason="stop",
            prompt_tokens=None,
            output_tokens=1 + round(len(token_texts(task.worked)) * float(rng.uniform(0.8, 1.2))),
            ttft_s=0.1,
            e2e_s=1.0,
            correct=True,
            status=200,
            error=None,
        )
        for task in generate(seed, count, split)
        for sample in range(samples)
    ]
    write_parquet(rows, path, {"temperature": 0.7})
    return path


def test_bursts_are_drawn_from_collected_prompts_with_their_mean_lengths(tmp_path: Path) -> None:
    rows = collected(tmp_path / "test.parquet", "test", 30, 4)
    live_burst.own_load(rows, tmp_path / "load.gz", burst=20, repetitions=2, seed=0)
    first, second = live_burst.read_load(tmp_path / "load.gz")
    assert len(first) == len({one.text for one in first}) == len(second) == 20
    assert [one.text for one in first] != [one.text for one in second]
    assert all(one.at == 0.0 and one.output_tokens >= 1 for one in first)
    assert any(one.output_tokens % 1 for one in first), "a mean of several samples"
    with pytest.raises(typer.BadParameter, match="a burst needs 31"):
        live_burst.own_load(rows, tmp_path / "load.gz", burst=31, repetitions=1, seed=0)


def test_what_is_learned_from_is_of_the_train_split_and_partly_in_more_wordings(tmp_path: Path) -> None:
    for practice in (0.0, 0.5):
        length_loop.write_prompts(tmp_path / "p.jsonl", 60, practice, seed=1)
        prompts = [question.prompt for question in read_questions(str(tmp_path / "p.jsonl"))]
        assert len(prompts) == len(set(prompts)) == 60
        suite = {task.prompt for task in generate(1, 60)}
        assert sum(prompt in suite for prompt in prompts) == pytest.approx(60 * (1 - practice), abs=2)
        marked = {prompt for prompt in prompts for phrase in PRACTICE if phrase in prompt}
        assert bool(marked) == (practice > 0)


def test_an_artifact_serves_only_a_policy_that_is_asked_for(tmp_path: Path) -> None:
    for pair in ("fast", "other=length/fast"):
        with pytest.raises(typer.BadParameter, match="NAME one of the policies"):
            live_burst.run("http://127.0.0.1:1", "m", tmp_path / "l", tmp_path / "o", policy=["fcfs"], serve=[pair])


def test_the_trained_artifact_is_judged_beside_baselines_by_splits_that_share_no_prompt(tmp_path: Path) -> None:
    collected(rows_of(tmp_path, "train"), "train", 120, 1)
    for split in ("validation", "test"):
        collected(rows_of(tmp_path, split), split, 240, 2)
    train(
        out=tmp_path / "home" / "models",
        rows=rows_of(tmp_path, "train"),
        source=[Source.ROWS],
        name="ladder",
        held_out=0.0,
        folds=2,
        resamples=100,
        least=50,
    )
    length_loop.judge(tmp_path, resamples=100, json_path=tmp_path / "judged.json")
    results = json.loads((tmp_path / "judged.json").read_bytes())["results"]
    seen = {(row["judged_by"], row["wording"], row["predictor"]): row["metrics"] for row in results}
    assert {key[:2] for key in seen} == {("validation", "all"), ("test", "all"), ("test", "usual"), ("test", "test")}
    prompts = {key[:2]: metrics["prompts"]["value"] for key, metrics in seen.items() if key[2] == "noise_ceiling"}
    assert prompts["test", "usual"] + prompts["test", "test"] == prompts["test", "all"] == 240
    for key in prompts:
        assert 0.8 < seen[(*key, "noise_ceiling")]["tau_b"]["value"] <= 1.0
        shares = {name: seen[(*key, name)]["share_of_ceiling"]["value"] for name in ("fast", "wordllama")}
        assert shares["wordllama"] < shares["fast"] < 1.0


def test_prompts_that_were_learned_from_may_not_judge(tmp_path: Path) -> None:
    collected(rows_of(tmp_path, "train"), "train", 120, 1)
    collected(rows_of(tmp_path, "validation"), "train", 120, 2)
    collected(rows_of(tmp_path, "test"), "test", 240, 2)
    with pytest.raises(typer.BadParameter, match="120 prompts that judge were learned from"):
        length_loop.judge(tmp_path, resamples=100)
