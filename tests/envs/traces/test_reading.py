"""What readers share: big JSON arrays element by element, rows in order, texts counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.traces import TraceError, estimated_tokens, reading
from envs.traces.reading import json_array, ordered
from envs.workloads import Arrival, Lengths

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(elements=st.lists(JSON, max_size=6), chunk=st.integers(1, 12), indent=st.none() | st.integers(0, 2))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_array_is_read_element_by_element_wherever_its_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: list[object], chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    path = tmp_path / "array.json"
    path.write_text(json.dumps(elements, indent=indent), encoding="utf-8")
    assert list(json_array(path)) == elements


@pytest.mark.parametrize("text", ["", "{}", "[1, 2", "[1 2]", '[{"a": 1}, {"a": ]', "[1, 2.", "["])
def test_what_is_no_whole_array_is_said_to_be_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "array.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"not a JSON array|cut short"):
        list(json_array(path))


@given(times=st.lists(st.floats(0, 1e6), max_size=200))
@settings(max_examples=30)
def test_a_window_of_rows_comes_out_sorted_and_whole(times: list[float]) -> None:
    rows = [Arrival(at, lengths=Lengths(1 + number, 1)) for number, at in enumerate(times)]
    out = list(ordered(Path("trace"), rows))
    assert out == sorted(rows, key=lambda row: row.at), "rows of one moment stay in the order of the file"


def test_a_text_has_a_token_for_four_characters_and_one_at_least() -> None:
    assert [estimated_tokens("x" * length) for length in (1, 4, 400)] == [1, 1, 100]
