"""Opening a trace: its content tells the format, and what cannot be opened is explained."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from envs.traces import FORMATS, Reading, TraceError, detected, open_trace, write
from envs.workloads import Lengths, Poisson
from tests.envs.traces import files
from tests.envs.traces.files import SAMPLES, pool, putting


def test_there_is_a_sample_of_every_format() -> None:
    assert set(SAMPLES) == set(FORMATS)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_told_by_its_content_and_not_by_its_name(tmp_path: Path, name: str) -> None:
    path = putting(tmp_path)("some.txt", SAMPLES[name][1])
    assert detected(path).name == name


@pytest.mark.parametrize("name", SAMPLES)
def test_every_trace_starts_at_zero_in_order_with_lengths_and_can_be_read_again(tmp_path: Path, name: str) -> None:
    trace = open_trace(putting(tmp_path)(*SAMPLES[name]), reading=Reading(process=Poisson(1.0), seed=3))
    rows = list(trace)
    assert rows[0].at == 0.0
    assert all(a.at <= b.at for a, b in pairwise(rows))
    assert all(row.lengths and row.lengths.prompt_tokens > 0 and row.lengths.output_tokens > 0 for row in rows)
    assert list(trace) == rows
    later = open_trace(trace.path, name, Reading(1, 1, Poisson(1.0), seed=3))
    assert [(row.at, row.lengths) for row in later] == [(0.0, rows[1].lengths)]


@pytest.mark.parametrize("text", [files.AZURE_2024, files.BURSTGPT_3, files.SERVEGEN_IMAGES, files.TURNS])
def test_later_releases_are_told_too(tmp_path: Path, text: str) -> None:
    assert list(open_trace(putting(tmp_path)("some.txt", text)))


def test_a_folder_of_clients_and_a_parquet_file_are_traces(tmp_path: Path) -> None:
    folder = open_trace(pool(tmp_path / "pool"))
    assert folder.format.name == "servegen"
    write(folder, tmp_path / "own.parquet")
    assert open_trace(str(tmp_path / "own.parquet")).format.name == "headway"


def test_formats_without_times_ask_for_a_process(tmp_path: Path) -> None:
    for name in ("sharegpt", "vllm-custom"):
        with pytest.raises(TraceError, match=r"no times.*process"):
            open_trace(putting(tmp_path)(*SAMPLES[name]))


@pytest.mark.parametrize("text", ["", "# a heading\n", "[1, 2]", "{}\n", "a,b,c\n1,2,3\n", '{"chat_id": 1}\n'])
def test_what_is_no_trace_is_met_with_the_list_of_formats(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError) as refused:
        open_trace(putting(tmp_path)("notes.txt", text))
    assert all(name in str(refused.value) for name in FORMATS)


def test_a_trace_that_only_looks_like_mooncakes_is_not_taken_for_one(tmp_path: Path) -> None:
    row = {"chat_id": 1, "timestamp": 0.5, "input_length": 40, "output_length": 3, "hash_ids": [1, 2, 3]}
    with pytest.raises(TraceError, match="known format"):
        open_trace(putting(tmp_path)("bailian.jsonl", files.lines(row)))


def test_missing_files_and_unknown_names_are_said_to_be_so(tmp_path: Path) -> None:
    for format in (None, "azure"):
        with pytest.raises(TraceError, match="no such file"):
            open_trace(tmp_path / "nothing.csv", format)
    with pytest.raises(TraceError, match=r"no format 'azur'(?s:.*)burstgpt"):
        open_trace(putting(tmp_path)(*SAMPLES["azure"]), "azur")


def test_an_empty_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="known format"):
        open_trace(tmp_path)
    with pytest.raises(TraceError, match="chunk"):
        list(open_trace(tmp_path, "servegen"))


def test_own_json_lines_may_leave_out_what_is_not_known(tmp_path: Path) -> None:
    rows = list(open_trace(putting(tmp_path)(*SAMPLES["headway"])))
    assert [(row.at, row.lengths, row.tenant, row.session) for row in rows] == [
        (0.0, Lengths(5, 6), "default", None),
        (0.5, Lengths(7, 8, (3,), 4), "t", "s"),
    ]
