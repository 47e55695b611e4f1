"""headway's own format: what is written is what is read, in batches, and never half a file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.traces import TraceError, open_trace, read_stored, write
from envs.traces.stored import note
from envs.workloads import Arrival, Lengths, LengthSource, LogNormalLengths, Poisson, TaskSource, arrivals
from tests.envs.workloads.memory import growth

LENGTHS = st.builds(
    Lengths,
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple),
    st.integers(1, 4096),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ROWS = st.lists(
    st.builds(
        Arrival,
        st.floats(0, 1e7),
        st.none(),
        LENGTHS,
        NAMES,
        st.none() | st.integers(1, 10**6),
        st.none() | st.floats(0.001, 1e6),
        st.none() | NAMES,
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: sorted([Arrival(0.0, lengths=Lengths(1, 1)), *rows], key=lambda row: row.at))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@given(rows=ROWS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_read(tmp_path: Path, suffix: str, rows: list[Arrival]) -> None:
    path = tmp_path / f"trace.{suffix}"
    written = write(rows, path)
    assert list(open_trace(path)) == rows
    assert (written.requests, written.seconds) == (len(rows), rows[-1].at)
    assert next(read_stored(path, start=1, limit=1)).lengths == rows[1].lengths


def workload(count: int) -> Iterator[Arrival]:
    return arrivals(Poisson(100.0), LogNormalLengths(100.0, 50.0), 1, count=count)


def test_more_than_a_batch_is_one_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    written = write(workload(20_000), path, {"source": "here", "licence": "MIT"})
    assert pq.ParquetFile(path).num_row_groups > 1
    assert written.rate == pytest.approx(100.0, rel=0.05)
    assert note(path) == {"format": "1", "source": "here", "licence": "MIT"}
    assert [row.lengths for row in read_stored(path)] == [row.lengths for row in workload(20_000)]


def test_reading_and_writing_hold_no_more_than_batches(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"

    def sampled() -> Iterator[int]:
        write(workload(40_000), path)
        yield 1

    assert growth(sampled(), warm=0, then=1) < 30_000_000
    assert growth(read_stored(path), warm=9000, then=30_000) < 15_000_000


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no requests"),
        ([Arrival(1.0, lengths=Lengths(1, 1)), Arrival(0.5, lengths=Lengths(1, 1))], "before the one above"),
        (list(arrivals(Poisson(1.0), TaskSource(1), 1, count=2)), "carries a task"),
    ],
)
def test_what_is_no_trace_is_not_written_and_what_was_there_stays(
    tmp_path: Path, rows: list[Arrival], said: str
) -> None:
    path = tmp_path / "trace.parquet"
    path.write_text("as it was")
    with pytest.raises(TraceError, match=said):
        write(rows, path)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"\.parquet or \.jsonl"):
        write(workload(1), tmp_path / "trace.csv")


def test_damaged_and_foreign_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    write(workload(100), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TraceError, match="Parquet"):
        list(read_stored(path))
    pq.write_table(pa.table({"at": [1.0]}), path)
    with pytest.raises(TraceError, match="output_tokens, prompt_tokens"):
        list(read_stored(path))


def test_a_stored_trace_serves_as_a_source_of_lengths(tmp_path: Path) -> None:
    write(workload(50), tmp_path / "trace.jsonl")
    source = LengthSource.sampled(open_trace(tmp_path / "trace.jsonl"))
    drawn = [row.lengths for row in arrivals(Poisson(1.0), source, 1, count=20)]
    assert set(drawn) <= {row.lengths for row in islice(workload(50), 50)}
