"""Sizes from the two public trace formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.calibration.loads import Sizes
from envs.calibration.traces import read_sizes
from predictors.latency.measurements import MeasurementsError


def test_both_formats_are_read(tmp_path: Path) -> None:
    azure, mooncake = tmp_path / "azure.csv", tmp_path / "mooncake.jsonl"
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16 18:15:50,396,0\n")
    mooncake.write_text('{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0]}\n\n')
    assert read_sizes(azure) == [Sizes(374, 44), Sizes(396, 1)]
    assert read_sizes(mooncake) == [Sizes(6755, 500)]


@pytest.mark.parametrize(
    "name, text", [("a.csv", "x,y\n1,2\n"), ("a.jsonl", "[]\n"), ("a.jsonl", "{"), ("gone.csv", None)]
)
def test_anything_else_is_refused(tmp_path: Path, name: str, text: str | None) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(MeasurementsError, match=name):
        read_sizes(file)
