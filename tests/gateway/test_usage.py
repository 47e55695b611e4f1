from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Usage
from gateway.stream import StreamMeter
from gateway.usage import usage_at_end, usage_in
from tests.gateway import shapes


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}, Usage(7, 3)),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, Usage(7, 0)),
        ({"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}}, Usage(7, 0, 5)),
        ({"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}}, Usage(7, 0, 0)),
        ({"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": None}}}, Usage(7, 0)),
        ({"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": -5}}}, None),
        (
            {"usage": {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 5}}},
            Usage(7, 3, 5),
        ),
        ({"usage": {"input_tokens": 2, "output_tokens": 3, "cache_read_input_tokens": 5}}, Usage(7, 3, 5)),
        (
            {"usage": {"input_tokens": 2, "output_tokens": 3, "cache_creation_input_tokens": 5}},
            Usage(7, 3),
        ),
        ({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 0}}}, Usage(7, 0)),
        ({"type": "response.completed", "response": {"usage": {"input_tokens": 7, "output_tokens": 3}}}, Usage(7, 3)),
        ({"type": "response.created", "response": {"usage": None}}, None),
        ({"embeddings": {}, "meta": {"billed_units": {"input_tokens": 7}}}, Usage(7, 0)),
        ({"usage": {"type": "duration", "seconds": 3}}, None),
        ({"usage": {"input_tokens": -1, "output_tokens": 3}}, None),
        ({"usage": {"input_tokens": True}}, None),
        ({"input_tokens": 7}, None),
        ({}, None),
    ],
)
def test_where_each_shape_says_it(answer: dict[str, Any], usage: Usage | None) -> None:
    assert usage_in(answer) == usage


def test_a_later_event_that_only_tells_the_output_completes_the_first() -> None:
    first = usage_in({"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}})
    assert usage_in({"type": "message_delta", "usage": {"output_tokens": 5}}, first) == Usage(7, 5)


@given(st.lists(st.floats(-1, 1), max_size=50), st.integers(0, 10**9))
def test_a_long_answers_usage_is_found_at_its_end(vector: list[float], tokens: int) -> None:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    data = [{"index": 0, "object": "embedding", "embedding": vector}]
    for body in ({"data": data, "usage": usage}, {"data": data, "usage": usage, "model": "m"}):
        assert usage_at_end(json.dumps(body, separators=(",", ":")).encode()) == Usage(tokens, 0)
        assert usage_at_end(json.dumps(body).encode()) == Usage(tokens, 0)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["/v1/messages", "/v1/responses"]), st.lists(st.integers(0, 5000), max_size=20))
def test_a_stream_of_named_events_is_unchanged_and_counted_however_it_is_cut(path: str, cuts: list[int]) -> None:
    stream = shapes.STREAMS[path]
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    meter = StreamMeter(drop_usage=False)
    passed = b"".join([meter.feed(stream[start:end]) for start, end in pairwise(places)])
    assert passed + meter.end() == stream
    assert meter.usage == Usage(7, 3, 5 if path == "/v1/responses" else None)
    assert meter.error is None


@given(st.binary(max_size=200))
def test_no_usage_is_found_where_there_is_none(body: bytes) -> None:
    assert usage_at_end(body) is None
    assert usage_at_end(b'{"usage":' + body[:20].replace(b"{", b"")) is None
