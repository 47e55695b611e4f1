from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from cli.routing import evaluate, train
from cli.routing_sources import Inputs, Source, busy_price, kept_out, task_table
from envs.tasks import FAMILY_NAMES
from predictors.artifact import load_manifest, verify
from predictors.embedding import Embedder
from predictors.latency.model import Profile
from predictors.quality.model import KnnQuality

QUICK = ["--resamples", "20"]
TOPICS = {
    "sums": "What is {} plus {}?",
    "poems": "Write a poem of {} lines with {} stanzas.",
    "trips": "Go {} km at {}?",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def run(command: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def data_folder(folder: Path) -> Path:
    """Three topics; the weak model knows sums, the strong one sums and poems, and nobody knows trips."""
    (folder / "routing").mkdir(parents=True)
    head = ["prompt_id", "task", "prompt", "weak", "strong"]
    rows = [
        [f"{task}{i}", task, text.format(i, i + 7), int(task == "sums"), int(task != "trips")]
        for task, text in TOPICS.items()
        for i in range(60)
    ]
    for name in ("llmrouter_9models", "routellm_mmlu_gsm8k_2models"):
        with gzip.open(folder / "routing" / f"{name}.csv.gz", "wt", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    prices = {m: {"input_usd_per_mtok": p, "output_usd_per_mtok": p} for m, p in (("weak", 0.1), ("strong", 1.0))}
    (folder / "routing" / "llmrouter_9models.prices.json").write_text(json.dumps(prices))
    return folder


def profile(name: str, skill: float, verbosity: float = 1.0) -> Profile:
    table = dict.fromkeys(FAMILY_NAMES, (skill,) * 4)
    return Profile(
        name=name, model=name, a=0.01, b=1e-5, c=1e-5, d=0.0, request_overhead_s=0.0, token_overhead_s=0.0,
        max_num_seqs=64, max_num_batched_tokens=2048, kv_blocks=1000, block_size=16, max_model_len=4096,
        cold_start_s=1.0, sleep_s=1.0, wake_s=1.0, usd_per_hour=3.6, skill=table, verbosity=verbosity,
    )  # fmt: skip


def by_router(report: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    return {row["router"]: row["metrics"] for row in report["results"] if row["split"] == split}


def test_evaluation_has_a_row_for_every_router_and_split(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    asked = ["--source", "llmrouter", "--router", "knn", "--router", "zero_policy"]
    result = run(evaluate, "--data", str(data_folder(tmp_path / "data")), "--json", str(file), *asked, *QUICK)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    assert report["command"] == "eval routing"
    for split in ("in_domain", "leave_one_out"):
        rows = by_router(report, split)
        assert set(rows) == {"random", "best_single", "zero", "oracle", "knn", "zero_policy"}
        assert all(set(row["aiq"]) == {"value", "lo", "hi"} for row in rows.values())
        assert rows["oracle"]["accuracy"]["value"] == pytest.approx(2 / 3)
    rows = by_router(report, "in_domain")
    # Topics are easy to tell apart, so the kNN sends sums to the weak model and is nearly the oracle.
    assert rows["knn"]["accuracy"]["value"] > 0.6
    assert rows["knn"]["aiq"]["value"] > rows["zero"]["aiq"]["value"]
    assert rows["best_single"]["cost"]["value"] > rows["knn"]["cost"]["value"]


def test_training_writes_an_artifact_that_serves_and_names_what_it_kept_out(tmp_path: Path) -> None:
    data, models = data_folder(tmp_path / "data"), tmp_path / "models"
    result = run(train, "--data", str(data), "--out", str(models), "--name", "mine", *QUICK)
    assert result.exit_code == 0, result.output
    manifest = verify(models / "quality" / "mine" / "1")
    kept = manifest.held_out["routing/llmrouter_9models.csv.gz"]["ids"]
    assert manifest.data[0].rows + len(kept) == 180
    assert manifest.data[0].licence == "MIT"
    assert {"aiq", "accuracy", "brier", "best_single_accuracy", "oracle_aiq"} <= set(manifest.metrics)
    knn = KnnQuality.load(models / "quality" / "mine" / "1")
    assert knn.models_ == ("weak", "strong")
    assert len(knn.bank.points) == manifest.data[0].rows
    sums, trips = (
        knn.predict(Embedder().embed([TOPICS[topic].format(i, i + 9) for i in range(60)])).quality.mean(axis=0)
        for topic in ("sums", "trips")
    )
    assert sums[0] > trips[0] + 0.1


def test_versions_count_up_in_the_users_own_store(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    for version in (1, 2):
        assert run(train, "--data", str(data), "--name", "mine", *QUICK).exit_code == 0
        assert load_manifest(tmp_path / "home" / "models" / "quality" / "mine" / str(version)).version == version


def test_without_data_it_says_what_is_missing() -> None:
    for command in (train, evaluate):
        result = run(command)
        assert result.exit_code == 2
        assert "--data" in result.output
        assert "routing/llmrouter_9models.csv.gz" in result.output.replace("\n", "")


def test_a_malformed_table_is_an_error_with_its_line(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    file = data / "routing" / "llmrouter_9models.csv.gz"
    file.write_bytes(gzip.compress(b"prompt_id,task,prompt,weak,strong\na,t,p,1,perhaps\n"))
    result = run(train, "--data", str(data))
    assert result.exit_code == 2
    assert "line 2" in result.output.replace("\n", " ")


def test_an_unknown_router_is_refused_with_the_right_names(tmp_path: Path) -> None:
    result = run(evaluate, "--data", str(data_folder(tmp_path / "data")), "--router", "bestest")
    assert result.exit_code == 2
    assert "shrink_knn" in result.output


def test_task_labels_are_graded_answers() -> None:
    perfect, hopeless, wordy = profile("perfect", 1.0), profile("hopeless", 0.0), profile("wordy", 1.0, 3.0)
    table = task_table([perfect, hopeless, wordy], seed=3, prompts=40, split="train")
    assert table.models == ("perfect", "hopeless", "wordy")
    assert table.quality.mean(axis=0).tolist() == [1.0, 0.0, 1.0]
    assert table.prices[2].output_tokens > table.prices[0].output_tokens
    assert (table.costs[:, 2] > table.costs[:, 0]).all()
    assert table.sha256 == task_table([perfect, hopeless, wordy], seed=3, prompts=40, split="train").sha256
    assert table.sha256 != task_table([perfect, hopeless, wordy], seed=4, prompts=40, split="train").sha256


def test_task_labels_follow_the_skill_that_nobody_is_told() -> None:
    table = task_table([profile("half", 0.5)], seed=0, prompts=400, split="train")
    assert table.quality.mean() == pytest.approx(0.5, abs=0.08)


def test_the_price_of_a_token_is_the_time_of_a_busy_worker() -> None:
    # 3.6 dollars an hour are 0.001 a second; a step of 32 sequences takes 0.01 + 32 · 1e-5 seconds.
    price = busy_price(profile("any", 1.0), 10.0)
    assert price.output_usd_per_mtok == pytest.approx(0.001 * (0.01 + 32e-5) / 32 * 1e6)
    assert price.input_usd_per_mtok == pytest.approx(0.001 * 1e-5 * 1e6)


def test_one_prompt_in_ten_is_kept_out_of_a_public_table(tmp_path: Path) -> None:
    inputs = Inputs(data_folder(tmp_path / "data"), 200, 0)
    study = kept_out(Source.LLMROUTER, inputs.read(Source.LLMROUTER), inputs)
    assert 5 <= len(study.judged) <= 35
    assert not set(study.judged.keys.tolist()) & set(study.training.keys.tolist())
    assert np.array_equal(np.sort(np.concatenate([study.judged.keys, study.training.keys])), np.sort(study.data.keys))
