from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from upstream import sse

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.binary(max_size=12).map(lambda b: b"data: " + b.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from([b"", b": keep-alive", b"data:", b"data", b"event: x", b"id: 1", b"data: [DONE]"]),
)
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=20).map(lambda parts: b"".join(a + b for a, b in parts))


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    at = sorted({min(p, len(stream)) for p in points} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(at)]


def passed(chunks: list[bytes], limit: int = 1 << 20) -> list[bytes]:
    buffer = sse.EventBuffer(limit)
    return [*[out for chunk in chunks if (out := buffer.feed(chunk))], buffer.flush()]


@given(STREAMS, st.lists(st.integers(0, 300), max_size=12))
def test_nothing_is_added_lost_or_changed_by_any_chunking(stream: bytes, points: list[int]) -> None:
    assert b"".join(passed(cut(stream, points))) == stream
    assert b"".join(sse.split(stream)) == stream


@given(STREAMS, st.lists(st.integers(0, 300), max_size=12))
def test_the_events_are_the_same_for_any_chunking(stream: bytes, points: list[int]) -> None:
    events = [event for out in passed(cut(stream, points)) for event in sse.split(out)]
    assert events == sse.split(stream)


@given(STREAMS, st.lists(st.integers(0, 300), max_size=12), st.integers(1, 20))
def test_a_small_limit_bounds_memory_and_loses_nothing(stream: bytes, points: list[int], limit: int) -> None:
    assert b"".join(passed(cut(stream, points), limit)) == stream
    buffer = sse.EventBuffer(limit)
    held = 0
    for chunk in cut(stream, points):
        held += len(chunk) - len(buffer.feed(chunk))
        assert held <= limit + 1


def test_an_event_passes_as_soon_as_its_empty_line_is_there_and_not_before() -> None:
    buffer = sse.EventBuffer()
    assert buffer.feed(b"data: a\n") == b""
    assert buffer.feed(b"\nda") == b"data: a\n\n"
    assert buffer.feed(b"ta: b\r\n\r\n") == b"data: b\r\n\r\n"
    assert buffer.flush() == b""


def test_one_chunk_may_hold_many_events() -> None:
    assert sse.split(b"data: a\n\n: ping\n\ndata: b\ndata: c\n\nrest") == [
        b"data: a\n\n",
        b": ping\n\n",
        b"data: b\ndata: c\n\n",
        b"rest",
    ]


def test_data_joins_its_lines_and_ignores_comments_and_other_fields() -> None:
    assert sse.data(b"event: x\ndata: b\ndata:c\n\n") == b"b\nc"
    assert sse.data(b"data: [DONE]\r\n\r\n") == sse.DONE
    assert sse.data(b": keep-alive\n\n") is None
    assert sse.data(b"database: x\n\n") is None
