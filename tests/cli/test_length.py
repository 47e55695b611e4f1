from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from cli.length import evaluate, train
from envs.answers import token_texts
from envs.tasks import generate
from predictors.artifact import load_manifest, verify
from predictors.length import baselines
from predictors.length.baselines import RANKERS, PromptLength
from predictors.length.data import content_hash
from predictors.length.model import FastLength
from predictors.types import Prompt

QUICK = ["--tasks", "60", "--resamples", "100", "--least", "20"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADWAY_DATA", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def run(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def data_folder(folder: Path) -> Path:
    """Two models' answers to 90 prompts, in the files of the arena lengths."""
    (folder / "lengths").mkdir(parents=True)
    tasks = generate(5, 90)
    prompts = [{"prompt_id": str(i), "source": "s", "prompt": task.prompt} for i, task in enumerate(tasks)]
    lengths = [
        {"prompt_id": str(i), "model": model, "output_tokens": str(scale * len(token_texts(task.worked)))}
        for i, task in enumerate(tasks)
        for model, scale in (("a", 1), ("b", 3))
    ]
    for name, rows in (("arena_prompts", prompts), ("arena_lengths", lengths)):
        with gzip.open(folder / "lengths" / f"{name}.csv.gz", "wt", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return folder


def collected(path: Path) -> Path:
    tasks = generate(6, 60)
    lengths = [len(token_texts(task.worked)) for task in tasks]
    columns = {"prompt": [task.prompt for task in tasks], "model": ["m"] * 60, "output_tokens": lengths}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "error": pyarrow.nulls(60, pyarrow.string())}), path)
    return path


def rows_of(path: Path, split: str = "in_domain") -> dict[tuple[str, str], dict[str, Any]]:
    results = json.loads(path.read_bytes())["results"]
    return {(row["predictor"], row["source"]): row for row in results if row["split"] == split}


def test_training_writes_an_artifact_that_loads_and_is_judged_on_what_it_never_saw(tmp_path: Path) -> None:
    data, out = data_folder(tmp_path / "data"), tmp_path / "models"
    arguments = ["--data", str(data), "--out", str(out), "--folds", "2", *QUICK]
    done = run(train, *arguments, "--json", str(tmp_path / "train.json"))
    assert done.exit_code == 0, done.output
    ref = json.loads((tmp_path / "train.json").read_bytes())["artifact"]["ref"]
    manifest = verify(out / ref)
    FastLength.load(out / ref)
    assert {"tau_b", "tau_b_arena", "tau_b_tasks", "held_out_tau_b_arena"} <= manifest.metrics.keys()
    assert {"coverage_90", "held_out_coverage_90_arena", "mae_tasks"} <= manifest.metrics.keys()
    assert manifest.settings["chosen"]["blend"] >= 0
    assert {source.name for source in manifest.data} == {"arena", "tasks"}
    held_out = set(manifest.held_out["arena"]["groups"])
    assert 0 < len(held_out) == 90 - next(s.rows for s in manifest.data if s.name == "arena")

    arguments = ["--source", "arena", "--data", str(data), "--artifact", str(out / ref), "--folds", "2", *QUICK]
    judged = run(evaluate, *arguments, "--json", str(tmp_path / "eval.json"))
    assert judged.exit_code == 0, judged.output
    shipped = rows_of(tmp_path / "eval.json", "held_out")["shipped", "arena"]
    assert shipped["metrics"]["prompts"]["value"] == len(held_out)
    assert shipped["setting"] == "shipped"
    assert not rows_of(tmp_path / "eval.json", "leave_one_out"), "there is no other source"


def test_evaluation_has_a_row_for_each_predictor_and_source(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    rows_file = collected(tmp_path / "rows.parquet")
    arguments = ["--data", str(data), "--rows", str(rows_file), "--folds", "2", "--plots", str(tmp_path / "plots")]
    done = run(evaluate, *arguments, *QUICK, "--json", str(tmp_path / "f.json"))
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "f.json").read_bytes())
    assert (document["command"], document["seed"]) == ("eval length", 0)
    rows = rows_of(tmp_path / "f.json")
    assert {source for _, source in rows} == {"arena", "tasks", "rows", "all"}
    assert {name for name, source in rows if source == "all"} == {*RANKERS, "oracle"}
    for source in ("arena", "tasks", "all"):
        assert (tmp_path / "plots" / f"tau_{source}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "plots" / f"reliability_{source}.png").exists()
    fast = rows["fast", "all"]
    assert fast["setting"] == "default"
    tau = fast["metrics"]["tau_b"]
    assert 0.2 < tau["lo"] <= tau["value"] <= tau["hi"] < 1.0
    assert fast["metrics"]["models"]["value"] == 4
    assert fast["metrics"]["latency_us_p50"]["value"] > 0
    assert {"tau_b_short", "mae", "coverage_90"} <= fast["metrics"].keys()
    assert 0.75 < fast["metrics"]["coverage_90"]["value"] <= 1.0
    assert 0 < fast["metrics"]["mae"]["value"] < rows["buckets", "all"]["metrics"]["mae"]["value"] * 2
    elsewhere = rows_of(tmp_path / "f.json", "leave_one_out")
    assert {source for _, source in elsewhere} == {"arena", "tasks", "rows"}
    assert elsewhere["fast", "arena"]["metrics"]["tau_b"]["value"] > 0.2, "the same kind of prompts"
    assert rows["oracle", "arena"]["metrics"]["tau_b"]["value"] == pytest.approx(1.0, abs=1e-6), "the models agree"
    assert rows["max_tokens", "tasks"]["metrics"]["tau_b"] is None, "no prompt has a limit"


class FromStates(PromptLength):
    """Reads three numbers a prompt that were computed beforehand; the first one is what it ranks by."""

    embeds: ClassVar[bool] = True

    def rank(self, prompts: Sequence[Prompt], embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        assert embeddings.shape == (len(prompts), 3)
        return embeddings[:, 0].astype(np.float64)


def test_a_ranker_of_features_is_judged_where_they_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "feature_rankers", lambda: {"deep": FromStates})
    tasks = {task.content: task for task in generate(0, 60)}.values()
    known = list(tasks)[::2]
    states = np.zeros((len(known), 3), dtype=np.float16)
    states[:, 0] = [len(token_texts(task.worked)) for task in known]
    np.savez(tmp_path / "states.npz", group=[content_hash(task.prompt) for task in known], features=states)
    arguments = ["--source", "tasks", "--folds", "2", "--features", str(tmp_path / "states.npz"), *QUICK]
    done = run(evaluate, *arguments, "--json", str(tmp_path / "f.json"))
    assert done.exit_code == 0, done.output
    deep = rows_of(tmp_path / "f.json")["deep", "all"]
    assert deep["features"] == "states.npz"
    assert deep["metrics"]["prompts"]["value"] == len(known)
    assert deep["metrics"]["tau_b"]["value"] == pytest.approx(1.0)
    assert deep["metrics"]["latency_us_p50"] is None, "what computing them takes is not known here"


def test_features_of_another_shape_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "states.npz", group=np.array(["a"]), features=np.zeros((2, 3)))
    done = run(evaluate, "--source", "tasks", "--features", str(tmp_path / "states.npz"), *QUICK)
    assert done.exit_code == 2
    assert "finite features" in done.stderr


def sampled(path: Path, split: str = "train", count: int = 80, samples: int = 3) -> Path:
    """Answers about as long as the worked ones, several to a prompt."""
    tasks, rng = generate(6, count, split), np.random.default_rng(0)
    rows = [(task.prompt, sample, len(token_texts(task.worked))) for task in tasks for sample in range(samples)]
    columns = {
        "prompt": [prompt for prompt, _, _ in rows],
        "model": ["m"] * len(rows),
        "sample": [sample for _, sample, _ in rows],
        "output_tokens": [max(1, round(length * float(rng.uniform(0.5, 1.5)))) for _, _, length in rows],
        "error": pyarrow.nulls(len(rows), pyarrow.string()),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_several_samples_give_the_noise_ceiling(tmp_path: Path) -> None:
    sampled(tmp_path / "rows.parquet")
    arguments = ["--source", "rows", "--rows", str(tmp_path / "rows.parquet"), "--folds", "2", *QUICK]
    done = run(evaluate, *arguments, "--json", str(tmp_path / "f.json"))
    assert done.exit_code == 0, done.output
    judged = rows_of(tmp_path / "f.json")
    ceiling = judged["noise_ceiling", "rows"]["metrics"]["tau_b"]
    assert 0.5 < ceiling["lo"] <= ceiling["value"] < 0.95
    assert judged["oracle", "rows"]["metrics"]["tau_b"] is None, "there is no other model"
    fast = judged["fast", "rows"]["metrics"]
    assert 0 < fast["tau_b_sample"]["value"] < ceiling["value"]
    assert fast["share_of_ceiling"]["value"] == pytest.approx(fast["tau_b_sample"]["value"] / ceiling["value"])


def test_rows_of_one_file_judge_what_was_fitted_to_another(tmp_path: Path) -> None:
    learned = sampled(tmp_path / "learned.parquet", samples=1)
    other = sampled(tmp_path / "others.parquet", "test", 60)
    mixed = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in (other, learned)])
    pyarrow.parquet.write_table(mixed, tmp_path / "rows.parquet")
    fitting = ["--source", "rows", "--rows", str(learned), "--held-out", "0", "--out", str(tmp_path / "models")]
    assert run(train, *fitting, "--name", "mine", "--folds", "2", *QUICK).exit_code == 0
    asked = ["--rows", str(tmp_path / "rows.parquet"), "--fit", str(learned), "--folds", "2", *QUICK]
    artifact = ["--artifact", str(tmp_path / "models" / "length" / "mine" / "1")]
    done = run(evaluate, *asked, *artifact, "--json", str(tmp_path / "f.json"))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "f.json").read_bytes())["prompts_also_in_fit"] == 80
    rows = rows_of(tmp_path / "f.json", "transfer")
    assert {name for name, _ in rows} == {*RANKERS, "oracle", "noise_ceiling"}
    fast, ceiling = rows["fast", "rows"]["metrics"], rows["noise_ceiling", "rows"]["metrics"]
    assert fast["prompts"]["value"] == ceiling["prompts"]["value"] == 60
    assert 0 < fast["share_of_ceiling"]["value"] < 1
    own = rows_of(tmp_path / "f.json", "held_out")["shipped", "rows"]["metrics"]
    assert own["tau_b"]["value"] == pytest.approx(fast["tau_b"]["value"]), "the same rows, settings and seed"


def test_what_was_fitted_to_the_same_rows_is_not_judged_by_them(tmp_path: Path) -> None:
    rows = sampled(tmp_path / "rows.parquet")
    done = run(evaluate, "--rows", str(rows), "--fit", str(rows), *QUICK)
    assert done.exit_code == 2
    assert "collect others" in done.stderr
    done = run(evaluate, "--source", "tasks", "--fit", str(rows), *QUICK)
    assert done.exit_code == 2
    assert "--fit FILE needs --rows" in done.stderr


def test_the_same_seed_gives_the_same_report_but_for_time(tmp_path: Path) -> None:
    reports = []
    for name in ("a.json", "b.json"):
        done = run(evaluate, "--source", "tasks", "--folds", "2", *QUICK, "--json", str(tmp_path / name))
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / name).read_bytes())
        for row in report["results"]:
            row["metrics"].pop("latency_us_p50")
        reports.append(report)
    assert reports[0] == reports[1]


def test_versions_count_on_and_the_home_is_the_default(tmp_path: Path) -> None:
    for _ in range(2):
        done = run(train, "--source", "tasks", "--name", "mine", "--folds", "2", *QUICK)
        assert done.exit_code == 0, done.output
    folder = tmp_path / "home" / "models" / "length" / "mine"
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]
    assert load_manifest(folder / "2").held_out["tasks"]["split"] == "test"


@pytest.mark.parametrize("command", [train, evaluate])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "HEADWAY_DATA"),
        (["--data", "nowhere"], "arena_lengths"),
        (["--source", "rows"], "--rows"),
        (["--source", "rows", "--rows", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_what_is_missing_is_said(command: Any, arguments: list[str], said: str) -> None:
    done = run(command, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr.replace("\n", "")


def test_too_few_rows_are_said(tmp_path: Path) -> None:
    columns = {"prompt": [f"p{i}" for i in range(8)], "model": ["m"] * 8, "output_tokens": list(range(8))}
    few = pyarrow.table({**columns, "error": pyarrow.nulls(8, pyarrow.string())})
    pyarrow.parquet.write_table(few, tmp_path / "few.parquet")
    done = run(train, "--source", "rows", "--rows", str(tmp_path / "few.parquet"), *QUICK)
    assert done.exit_code == 2
    assert "too few" in done.stderr


def test_a_tampered_artifact_is_refused(tmp_path: Path) -> None:
    assert (
        run(train, "--source", "tasks", "--out", str(tmp_path / "m"), "--name", "t", "--folds", "2", *QUICK).exit_code
        == 0
    )
    folder = tmp_path / "m" / "length" / "t" / "1"
    (folder / "tables.json").write_bytes(b"{}")
    done = run(evaluate, "--source", "tasks", "--artifact", str(folder), *QUICK)
    assert done.exit_code == 1
    assert "tables.json" in done.stderr.replace("\n", "")
