"""Trace readers: values, order, scaling, and clear errors."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from envs.traces import TraceError, at_rate, read_azure, read_mooncake, stretched
from envs.workloads import Lengths

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
ROWS = "".join(
    f"2023-11-16 18:15:{row}\r\n" for row in ("46.6805900,374,44", "50.9951690,396,109", "51.2224670,879,55")
)


def azure(folder: Path, text: str = AZURE + ROWS) -> Path:
    path = folder / "azure.csv"
    path.write_text(text)
    return path


def mooncake(folder: Path, *rows: object) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_azure_rows_start_at_zero_and_keep_their_gaps(tmp_path: Path) -> None:
    rows = list(read_azure(azure(tmp_path)))
    assert [row.lengths for row in rows] == [Lengths(374, 44), Lengths(396, 109), Lengths(879, 55)]
    assert [row.at for row in rows] == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-6)


def test_a_part_of_a_trace_starts_at_zero_too(tmp_path: Path) -> None:
    rows = list(read_azure(azure(tmp_path), start=1, limit=1))
    assert [(row.at, row.lengths) for row in rows] == [(0.0, Lengths(396, 109))]


def test_mooncake_rows_carry_their_prefix(tmp_path: Path) -> None:
    path = mooncake(
        tmp_path,
        {"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]},
        {"timestamp": 4500, "input_length": 700, "output_length": 3, "hash_ids": [0, 9]},
    )
    rows = list(read_mooncake(path))
    assert [row.at for row in rows] == [0.0, 1.5]
    assert rows[1].lengths == Lengths(700, 3, (0, 9))


def test_times_scale_by_a_factor_or_to_a_rate(tmp_path: Path) -> None:
    rows = list(read_azure(azure(tmp_path)))
    assert [row.at for row in stretched(rows, 0.5)] == pytest.approx([row.at / 2 for row in rows])
    scaled = at_rate(rows, 4.0)
    assert (len(scaled) - 1) / scaled[-1].at == pytest.approx(4.0)
    with pytest.raises(ValueError):
        stretched(rows, 0.0)
    with pytest.raises(ValueError):
        at_rate(rows[:1], 4.0)


def test_bad_rows_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"azure.csv, line 3"):
        list(read_azure(azure(tmp_path, AZURE + ROWS.split("\r\n")[0] + "\r\nyesterday,1,2\r\n")))
    with pytest.raises(TraceError, match="GeneratedTokens"):
        list(read_azure(azure(tmp_path, "TIMESTAMP,ContextTokens\r\n")))
    with pytest.raises(TraceError, match=r"mooncake.jsonl, line 1.*output_length"):
        list(read_mooncake(mooncake(tmp_path, {"timestamp": 0, "input_length": 5})))


@pytest.mark.skipif("HEADWAY_DATA" not in os.environ, reason="needs the data folder: set HEADWAY_DATA")
def test_the_published_traces_are_read_in_full() -> None:
    folder = Path(os.environ["HEADWAY_DATA"]) / "traces"
    azure_rows = list(read_azure(folder / "AzureLLMInferenceTrace_conv.csv"))
    assert len(azure_rows) == 19_366
    assert 3400 < azure_rows[-1].at < 3600
    assert all(a.at <= b.at for a, b in pairwise(azure_rows))
    assert sum(1 for _ in read_mooncake(folder / "mooncake_conversation_trace.jsonl")) == 12_031
