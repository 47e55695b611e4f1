from __future__ import annotations

import dataclasses
import errno
import os
import queue
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq
import pytest

from controller.store import RecordWriter
from controller.store import decision_log as module
from controller.store.decision_columns import SCHEMA
from controller.types import Alternative, Choice, DecisionRecord, Result, Scores, Usage

FULL = DecisionRecord(
    ticket="t-1",
    tenant="default",
    model="auto",
    submitted_at=10.0,
    prompt_tokens=12,
    max_tokens=64,
    scores=Scores(0.5, 80.0, MappingProxyType({"small": 0.4, "large": 0.9})),
    choices=(
        Choice(
            "tier",
            "best_effort",
            "small",
            (Alternative("small", 1.5), Alternative("large", None, False, "tenant ceiling")),
            propensity=0.9,
            fallback="timeout",
            features=(0.1, 0.2),
            artifact="ab" * 32,
        ),
    ),
    pool="small",
    worker="small-0",
    attempts=2,
    dispatched_at=10.1,
    first_token_at=10.2,
    finished_at=11.0,
    result=Result.COMPLETED,
    code=None,
    usage=Usage(12, 30, 4),
)
BARE = DecisionRecord(
    "t-2",
    "default",
    "auto",
    1.0,
    0,
    None,
    None,
    (),
    None,
    None,
    0,
    None,
    None,
    1.0,
    Result.REJECTED,
    "queue_full",
    None,
)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def _record(number: int) -> DecisionRecord:
    return dataclasses.replace(FULL, ticket=f"t-{number}")


def test_a_record_is_written_as_it_was(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, epoch=1_700_000_000.5) as writer:
        assert writer.write(FULL)
        assert writer.write(BARE)
    full, bare = _rows(tmp_path)
    expected = dataclasses.asdict(dataclasses.replace(FULL, scores=None))
    expected["scores"] = {"length_rank": 0.5, "output_tokens": 80.0, "quality": [("small", 0.4), ("large", 0.9)]}
    expected["scores"] |= {"output_high": None, "output_tail": None}
    for choice in expected["choices"]:
        choice["alternatives"], choice["features"] = list(choice["alternatives"]), list(choice["features"])
    assert full == {**expected, "choices": list(expected["choices"]), "prompt": None}
    assert bare == {**dataclasses.asdict(BARE), "choices": [], "prompt": None}
    (file,) = tmp_path.glob("*.parquet")
    assert pq.read_schema(file).metadata[b"headway.epoch"] == b"1700000000.5"
    assert (writer.written, writer.dropped, writer.error) == (2, 0, None)


def test_no_prompt_is_written_unless_asked(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "off") as off, RecordWriter(tmp_path / "on", prompt_text=True) as on:
        off.write(FULL, "a private question")
        on.write(FULL, "a private question")
    assert [row["prompt"] for row in _rows(tmp_path / "on")] == ["a private question"]
    assert [row["prompt"] for row in _rows(tmp_path / "off")] == [None]
    assert all(b"private" not in file.read_bytes() for file in (tmp_path / "off").iterdir())


def test_a_prompt_that_is_no_utf8_is_written_all_the_same(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, prompt_text=True) as writer:
        writer.write(FULL, "half a \ud83d pair")
    assert [row["prompt"] for row in _rows(tmp_path)] == ["half a ? pair"]


@pytest.mark.parametrize("bad", [{"model": "\ud800"}, {"max_tokens": 10**30}, {"choices": None}])
def test_a_record_that_no_column_holds_does_not_end_the_writing(tmp_path: Path, bad: dict[str, Any]) -> None:
    with RecordWriter(tmp_path, rows_per_group=1, file_bytes=1) as writer:
        writer.write(dataclasses.replace(FULL, **bad))
        writer.write(FULL)
    assert [row["ticket"] for row in _rows(tmp_path)] == ["t-1"]
    assert (writer.written, writer.dropped) == (1, 1)
    assert writer.error is not None


def test_a_record_that_no_column_holds_takes_none_with_it(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for number in range(9):
            writer.write(_record(number))
        writer.write(dataclasses.replace(FULL, tenant="\ud800"))
        writer.write(_record(9))
    assert [row["ticket"] for row in _rows(tmp_path)] == [f"t-{number}" for number in range(10)]
    assert (writer.written, writer.dropped) == (10, 1)


def test_a_folder_in_which_no_file_can_be_made_loses_records_but_not_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, attempts = module._OpenFile, list[int]()

    def refuse_once(*arguments: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(*arguments)

    monkeypatch.setattr(module, "_OpenFile", refuse_once)
    with RecordWriter(tmp_path) as writer:
        writer.write(FULL)
        _until(lambda: writer.dropped == 1)
        writer.write(BARE)
    assert (writer.written, writer.dropped) == (1, 1)
    assert "Permission denied" in (writer.error or "")


def test_a_reader_sees_the_documented_schema(tmp_path: Path) -> None:
    with RecordWriter(tmp_path) as writer:
        for number in range(1000):
            writer.write(_record(number))
    (file,) = tmp_path.glob("*.parquet")
    assert pq.read_table(file).schema.equals(SCHEMA)
    assert pq.read_metadata(file).num_row_groups == 1


def test_long_prompts_are_written_in_smaller_groups(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, prompt_text=True) as writer:
        for number in range(600):
            writer.write(_record(number), "?" * 40_000)
    (file,) = tmp_path.glob("*.parquet")
    assert pq.read_metadata(file).num_row_groups > 1
    assert len(_rows(tmp_path)) == 600


def test_files_are_closed_at_a_size_and_keep_the_order(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, file_bytes=1, rows_per_group=10) as writer:
        for number in range(35):
            writer.write(_record(number))
    files = sorted(tmp_path.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 10, 5]
    assert [row["ticket"] for row in _rows(tmp_path)] == [f"t-{number}" for number in range(35)]


def test_a_file_is_closed_at_its_age_while_nothing_comes(tmp_path: Path) -> None:
    with RecordWriter(tmp_path, file_seconds=0.02) as writer:
        writer.write(FULL)
        _until(lambda: writer.written == 1)
        writer.write(BARE)
        _until(lambda: writer.written == 2)
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def _until(true: Any) -> None:
    pause = queue.Queue[None]()
    for _ in range(500):
        if true():
            return
        with pytest.raises(queue.Empty):
            pause.get(timeout=0.01)
    raise AssertionError("it did not happen")


def test_the_oldest_files_go_when_the_folder_is_full(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "one") as writer:
        writer.write(FULL)
    (one,) = (tmp_path / "one").iterdir()
    size = one.stat().st_size
    folder = tmp_path / "many"
    with RecordWriter(folder, max_bytes=4 * size + 100, file_bytes=size, rows_per_group=1) as writer:
        for number in range(12):
            writer.write(_record(number))
    tickets = [row["ticket"] for row in _rows(folder)]
    assert writer.written == 12
    assert tickets == [f"t-{number}" for number in range(12 - len(tickets), 12)]
    assert 1 <= len(tickets) <= 4
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 * size + 100


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").write_bytes(b"x" * 10_000)
    with RecordWriter(tmp_path, max_bytes=2_000, file_bytes=1_000, rows_per_group=1) as writer:
        for number in range(3):
            writer.write(_record(number))
    assert (tmp_path / "notes.parquet").exists()


def test_what_a_crash_left_is_deleted_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / "decisions-1.partial", tmp_path / "decisions-2.partial"
    for file in (old, young):
        file.write_bytes(b"PAR1")
    os.utime(old, (1000.0, 1000.0))
    os.utime(young, (9990.0, 9990.0))
    with RecordWriter(tmp_path, clock=lambda: 10_000.0):
        pass
    assert not old.exists()
    assert young.exists()


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = queue.Queue[None]()
    opened = module._OpenFile

    def slow(*arguments: Any) -> Any:
        gate.get()
        return opened(*arguments)

    monkeypatch.setattr(module, "_OpenFile", slow)
    writer = RecordWriter(tmp_path, queue_size=4)
    taken = [writer.write(_record(number)) for number in range(20)]
    gate.put(None)
    writer.close()
    assert taken.count(True) in (4, 5)  # one more if the thread had taken the first by then
    assert writer.dropped == taken.count(False)
    assert writer.written == taken.count(True)


def test_after_the_end_records_are_dropped(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.close()
    writer.close()
    assert not writer.write(FULL)
    assert writer.dropped == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_loses_records_but_not_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = module._OpenFile.finish
    attempts: list[int] = []

    def full_once(self: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        healthy(self)

    monkeypatch.setattr(module._OpenFile, "finish", full_once)
    with RecordWriter(tmp_path, file_bytes=1, rows_per_group=1) as writer:
        writer.write(FULL)
        writer.write(BARE)
    assert (writer.written, writer.dropped) == (1, 1)
    assert "No space left" in (writer.error or "")
    assert [row["ticket"] for row in _rows(tmp_path)] == ["t-2"]
    assert not list(tmp_path.glob("*.partial"))


def test_the_cap_must_hold_two_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least twice"):
        RecordWriter(tmp_path, max_bytes=10, file_bytes=6)
