from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.store.decision_columns import ENCODED, SCHEMA, SEARCHED, batch
from controller.types import Alternative, Choice, DecisionRecord, Result, Scores, Usage

_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_FLOATS = st.floats(allow_nan=False)
_INTS = st.integers(-(2**63), 2**63 - 1)


def _or_none(some: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | some


_ALTERNATIVES = st.builds(Alternative, _TEXT, _or_none(_FLOATS), st.booleans(), _TEXT)
_CHOICES = st.builds(
    Choice,
    _TEXT,
    _TEXT,
    _TEXT,
    st.lists(_ALTERNATIVES, max_size=3).map(tuple),
    _FLOATS,
    _or_none(_TEXT),
    st.lists(_FLOATS, max_size=3).map(tuple),
    _or_none(_TEXT),
)
_SCORES = st.builds(Scores, _or_none(_FLOATS), _or_none(_FLOATS), _or_none(st.dictionaries(_TEXT, _FLOATS, max_size=3)))
_RECORDS = st.builds(
    DecisionRecord,
    _TEXT,
    _TEXT,
    _TEXT,
    _FLOATS,
    _INTS,
    _or_none(_INTS),
    _or_none(_SCORES),
    st.lists(_CHOICES, max_size=3).map(tuple),
    _or_none(_TEXT),
    _or_none(_TEXT),
    _INTS,
    _or_none(_FLOATS),
    _or_none(_FLOATS),
    _FLOATS,
    st.sampled_from(Result),
    _or_none(_TEXT),
    _or_none(st.builds(Usage, _INTS, _INTS, _INTS)),
    _INTS,
)


def _plain(record: DecisionRecord, prompt: str | None) -> dict[str, Any]:
    """The row as Arrow gives it back."""
    row = {**dataclasses.asdict(record), "prompt": prompt}
    row["choices"] = [
        {**choice, "alternatives": list(choice["alternatives"]), "features": list(choice["features"])}
        for choice in row["choices"]
    ]
    if row["scores"] is not None and row["scores"]["quality"] is not None:
        row["scores"]["quality"] = list(row["scores"]["quality"].items())
    return row


@given(st.lists(st.tuples(_RECORDS, _or_none(_TEXT)), max_size=4))
def test_every_row_comes_back_as_it_was(rows: list[tuple[DecisionRecord, str | None]]) -> None:
    columns = batch(rows)
    columns.validate(full=True)
    assert columns.schema.equals(SCHEMA)
    assert columns.to_pylist() == [_plain(record, prompt) for record, prompt in rows]


def test_every_field_has_its_column() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(DecisionRecord)] + ["prompt"]
    kinds = {"scores": (Scores, SCHEMA.field("scores").type), "usage": (Usage, SCHEMA.field("usage").type)}
    kinds["choices"] = (Choice, SCHEMA.field("choices").type.value_type)
    kinds["alternatives"] = (Alternative, kinds["choices"][1].field("alternatives").type.value_type)
    for kind, type_ in kinds.values():
        assert [field.name for field in type_] == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("names", [ENCODED, SEARCHED])
def test_the_named_columns_exist(names: tuple[str, ...], tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_batches([batch([])]), tmp_path / "empty.parquet")
    schema = pq.ParquetFile(tmp_path / "empty.parquet").schema
    assert set(names) <= {schema.column(i).path for i in range(len(schema))}
