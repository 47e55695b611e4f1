"""A fast fake upstream: vLLM's surface as far as a router looks at it, and the same answer to every request.

    python -m cli.bench.gateway_upstream --port 0

Prints its port and serves until it is told to end. It is not measured, so it knows no more of HTTP than it needs:
bodies with ``Content-Length`` or in chunks, keep-alive, one request after the other on a connection. A stream's chunks
are written one a turn of the event loop, so that they are separate packets as a real engine's are.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Mapping
from typing import cast

import orjson

__all__ = ["MODEL", "PIECES", "TEXT", "WHOLE", "Upstream", "stream_chunks"]

MODEL = "bench-model"
PIECES = tuple(f" word{index:02d}" for index in range(16))
"""What the 16 chunks of a stream say."""
TEXT = "".join(PIECES)
_USAGE = {"prompt_tokens": 64, "completion_tokens": 16, "total_tokens": 80}
_HEAD = {"id": "chatcmpl-bench", "created": 1700000000, "model": MODEL}
_METRICS = (
    f'vllm:num_requests_running{{model_name="{MODEL}"}} 1.0\n'
    f'vllm:num_requests_waiting{{model_name="{MODEL}"}} 0.0\n'
    f'vllm:kv_cache_usage_perc{{model_name="{MODEL}"}} 0.1\n'
).encode()
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream" ?: ?true')
_WANTS_USAGE = re.compile(rb'"include_usage" ?: ?true')


def _answer(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def _whole() -> bytes:
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]
    return orjson.dumps({**_HEAD, "object": "chat.completion", "choices": choices, "usage": _USAGE})


WHOLE = _whole()
"""The body of an answer that is no stream."""


def _event(**fields: object) -> bytes:
    return b"data: " + orjson.dumps({**_HEAD, "object": "chat.completion.chunk", **fields}) + b"\n\n"


def stream_chunks(usage: bool) -> tuple[bytes, ...]:
    """The 16 pieces of a stream's body; the last holds the usage too, if it is asked for, and the end."""
    events = []
    for index, piece in enumerate(PIECES):
        delta = {"role": "assistant", "content": piece} if index == 0 else {"content": piece}
        reason = "length" if index == len(PIECES) - 1 else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        events.append(_event(choices=[choice]))
    last = events[-1] + (_event(choices=[], usage=_USAGE) if usage else b"") + b"data: [DONE]\n\n"
    return (*events[:-1], last)


def _framed(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    framed = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return (head + framed[0], *framed[1:-1], framed[-1] + b"0\r\n\r\n")


_PLAIN = _answer(WHOLE)
_STREAM: Mapping[bool, tuple[bytes, ...]] = {usage: _framed(stream_chunks(usage)) for usage in (False, True)}
_INFO = orjson.dumps(
    {
        "model_id": MODEL,
        "model_path": MODEL,
        "served_model_name": MODEL,
        "tokenizer_path": "",
        "is_generation": True,
        "version": "0.32.0",
        "max_model_len": 131072,
        "tp_size": 1,
        "dp_size": 1,
        "status": "ready",
    }
)
_CARD = {"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm", "root": MODEL, "max_model_len": 131072}
_PAGES: Mapping[bytes, bytes] = {
    b"/health": _answer(b""),
    b"/health_generate": _answer(b""),
    b"/liveness": _answer(b""),
    b"/ping": _answer(b""),
    b"/metrics": _answer(_METRICS, b"text/plain; version=0.0.4"),
    b"/version": _answer(b'{"version":"0.32.0"}'),
    b"/v1/models": _answer(orjson.dumps({"object": "list", "data": [_CARD]})),
    b"/get_server_info": _answer(_INFO),
    b"/server_info": _answer(_INFO),
    b"/get_model_info": _answer(_INFO),
    b"/model_info": _answer(_INFO),
    b"/get_loads": _answer(b"[]"),
}
_UNKNOWN = _answer(b'{"detail":"Not Found"}', status=b"404 Not Found")


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, later: Callable[..., object]) -> None:
        self._later = later
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`, also for what follows."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while buffer:
            end = _end_of_request(buffer)
            if end == 0:
                break
            self._reply(buffer[:end])
            buffer = buffer[end:]
        self._buffer = buffer

    def _reply(self, request: bytes) -> None:
        assert self._transport is not None
        if not request.startswith(b"POST /v1/"):
            path = request.split(b" ", 2)[1].partition(b"?")[0]
            self._transport.write(_PAGES.get(path, _UNKNOWN))
        elif _STREAMS.search(request) is None:
            self._transport.write(_PLAIN)
        else:
            self._write(_STREAM[_WANTS_USAGE.search(request) is not None], 0)

    def _write(self, chunks: tuple[bytes, ...], index: int) -> None:
        if self._transport is None:
            return
        self._transport.write(chunks[index])
        if index + 1 < len(chunks):
            self._later(self._write, chunks, index + 1)


def _end_of_request(buffer: bytes) -> int:
    """How long the first request in ``buffer`` is; 0 while it is not complete."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return 0
    body = head + 4
    length = _LENGTH.search(buffer, 0, head + 2)
    if length is not None:
        end = body + int(length[1])
        return end if len(buffer) >= end else 0
    if _CHUNKED.search(buffer, 0, head + 2) is None:
        return body
    last = buffer.find(b"0\r\n\r\n", body)
    while last > body and buffer[last - 2 : last] != b"\r\n":
        last = buffer.find(b"0\r\n\r\n", last + 1)
    return last + 5 if last >= 0 else 0


async def serve(host: str, port: int) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(loop.call_soon), host, port, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Command line of the process."""
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
