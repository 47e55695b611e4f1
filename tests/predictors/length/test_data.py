from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from predictors.length.data import (
    ARENA_LENGTHS,
    ARENA_PROMPTS,
    Answer,
    LengthDataError,
    content_hash,
    from_answers,
    merge,
    read_arena,
    read_collected,
)
from predictors.types import Prompt

A, B = Prompt("What is a train?"), Prompt("List ten trains.")
ANSWERS = [Answer(A, "m1", 10), Answer(B, "m1", 90), Answer(A, "m2", 20), Answer(A, "m2", 40)]


def test_answers_of_one_model_to_one_prompt_are_averaged() -> None:
    data = from_answers(ANSWERS, "here", "MIT")
    assert data.prompts == (A, B)
    assert data.models == ("m1", "m2")
    assert np.array_equal(data.tokens, [[10.0, 30.0], [90.0, np.nan]], equal_nan=True)
    assert (data.provenance[0].name, data.provenance[0].rows) == ("here", 2)


def test_prompts_that_differ_in_white_space_are_one_group() -> None:
    spaced = Prompt(" What is  a\ntrain? ")
    data = from_answers([Answer(A, "m", 1), Answer(spaced, "m", 2)], "here", "MIT")
    assert len(data) == 2
    assert data.groups[0] == data.groups[1] == content_hash(A.text)


def test_the_hash_takes_any_text() -> None:
    assert len(content_hash("\ud800")) == 16


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(LengthDataError, match="'here' has no rows"):
        from_answers([], "here", "MIT")


def test_rows_can_be_taken() -> None:
    data = from_answers(ANSWERS, "here", "MIT")
    for rows in (np.array([1]), np.array([False, True])):
        part = data.take(rows)
        assert part.prompts == (B,)
        assert part.provenance[0].rows == 1
        assert part.provenance[0].sha256 == data.provenance[0].sha256


def test_merged_sources_keep_their_models_apart() -> None:
    merged = merge([from_answers(ANSWERS, "one", "MIT"), from_answers(ANSWERS[:2], "two", "MIT")])
    assert merged.sources == ("one", "one", "two", "two")
    assert merged.models == ("m1", "m2", "m1")
    expected = [[10, 30, np.nan], [90, np.nan, np.nan], [np.nan, np.nan, 10], [np.nan, np.nan, 90]]
    assert np.array_equal(merged.tokens, np.array(expected, dtype=float), equal_nan=True)
    assert [source.rows for source in merged.take(np.array([0, 1, 2])).provenance] == [2, 1]


def arena(folder: Path, lengths: list[dict[str, str]]) -> Path:
    (folder / "lengths").mkdir()
    prompts = [
        {"prompt_id": "a", "source": "s", "prompt": "one\r\ntwo"},
        {"prompt_id": "b", "source": "s", "prompt": "x"},
    ]
    for name, rows in ((ARENA_PROMPTS, prompts), (ARENA_LENGTHS, lengths)):
        with gzip.open(folder / name, "wt", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_arena_rows(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": p, "model": m, "output_tokens": str(n)}
        for p, m, n in [("a", "x", 5), ("b", "x", 7), ("a", "y", 9)]
    ]
    data = read_arena(arena(tmp_path, rows))
    assert data.prompts == (Prompt("one\r\ntwo"), Prompt("x"))
    assert np.array_equal(data.tokens, [[5.0, 9.0], [7.0, np.nan]], equal_nan=True)


def test_broken_arena_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LengthDataError, match="arena_prompts"):
        read_arena(tmp_path)
    with pytest.raises(LengthDataError, match="output_tokens"):
        read_arena(arena(tmp_path, [{"prompt_id": "a", "model": "x"}]))
    (tmp_path / ARENA_LENGTHS).write_bytes(b"not gzip")
    with pytest.raises(LengthDataError, match="arena_lengths"):
        read_arena(tmp_path)


def collected(path: Path, **columns: list[object]) -> Path:
    rows = {
        "prompt": ["p", "q", "q"],
        "model": ["m", "m", "m"],
        "output_tokens": [3, 5, None],
        "error": [None, None, "timed out"],
    }
    pyarrow.parquet.write_table(pyarrow.table({**rows, **columns}), path)
    return path


def test_collected_rows_leave_failures_out(tmp_path: Path) -> None:
    data = read_collected(collected(tmp_path / "rows.parquet"))
    assert data.prompts == (Prompt("p"), Prompt("q"))
    assert data.tokens.tolist() == [[3.0], [5.0]]
    assert data.sources == ("rows", "rows")


def test_collected_limits_are_the_prompts(tmp_path: Path) -> None:
    data = read_collected(collected(tmp_path / "rows.parquet", max_tokens=[16, None, None]))
    assert data.prompts == (Prompt("p", 16), Prompt("q"))


def test_broken_collected_files_are_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"]}), tmp_path / "rows.parquet")
    with pytest.raises(LengthDataError, match="no column model, output_tokens, error"):
        read_collected(tmp_path / "rows.parquet")
    (tmp_path / "rows.parquet").write_bytes(b"junk")
    with pytest.raises(LengthDataError, match="cannot be read as Parquet"):
        read_collected(tmp_path / "rows.parquet")


def test_several_samples_are_kept_beside_their_mean() -> None:
    answers = [
        Answer(Prompt(text), "m", length) for text, lengths in (("a", (2, 4)), ("b", (9,))) for length in lengths
    ]
    data = from_answers(answers, "rows", "own")
    assert data.tokens[:, 0].tolist() == [3.0, 9.0]
    assert data.samples is not None
    assert data.samples[0, 0].tolist() == [2.0, 4.0]
    assert np.isnan(data.samples[1, 0, 1])
    single = from_answers([Answer(Prompt("c"), "n", 7)], "others", "own")
    assert single.samples is None
    both = merge([single, data])
    assert both.samples is not None
    assert both.samples.shape == (3, 2, 2)
    assert both.samples[0, 0, 0] == 7.0
    taken = both.take(np.array([1])).samples
    assert taken is not None
    assert taken[0, 1].tolist() == [2.0, 4.0]
