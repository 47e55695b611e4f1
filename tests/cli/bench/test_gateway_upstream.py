from __future__ import annotations

import json
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.gateway_upstream import MODEL, TEXT, Upstream, stream_chunks

PLAIN = b'{"model":"m","messages":[]}'
STREAM = b'{"stream": true, "stream_options": {"include_usage": true}}'


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def request(body: bytes, *, chunked: bool = False, path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def answers(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    """What one connection is answered, each piece received by itself."""
    wire: Any = Wire()

    def now(function: Any, *arguments: Any) -> None:
        function(*arguments)

    connection = Upstream(now)
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
    found: list[tuple[int, bytes]] = []

    class Reader:
        body = b""

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            found.append((parser.get_status_code(), self.body))
            self.body = b""

    parser = httptools.HttpResponseParser(Reader())
    parser.feed_data(wire.written)
    return found


@given(st.lists(st.tuples(st.sampled_from([PLAIN, STREAM]), st.booleans()), min_size=1, max_size=4), st.data())
def test_every_request_is_answered_however_it_is_cut(asked: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    raw = b"".join(request(body, chunked=chunked) for body, chunked in asked)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]
    found = answers(pieces)
    assert [status for status, _ in found] == [200] * len(asked)
    for (body, _), (_, answer) in zip(asked, found, strict=True):
        assert answer.startswith(b"data: ") == (body is STREAM)


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_sixteen_chunks_with_usage_for_who_asks(usage: bool) -> None:
    chunks = stream_chunks(usage)
    assert len(chunks) == 16
    events = [line[6:] for line in b"".join(chunks).split(b"\n\n") if line]
    assert events[-1] == b"[DONE]"
    parsed = [json.loads(event) for event in events[:-1]]
    assert "".join(choice["delta"]["content"] for event in parsed for choice in event["choices"]) == TEXT
    assert sum("usage" in event for event in parsed) == usage


def test_what_routers_ask_at_their_start_is_answered() -> None:
    for path in ("/health", "/metrics", "/v1/models", "/get_server_info", "/get_model_info"):
        ((status, body),) = answers([f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()])
        assert status == 200
        assert path == "/health" or MODEL.encode() in body
    ((status, _),) = answers([b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"])
    assert status == 404
