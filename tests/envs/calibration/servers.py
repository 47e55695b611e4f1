"""A server with just enough of vLLM's surface to be measured, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

CACHE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="640",cache_dtype="auto"} 1.0\n'


@dataclass
class Scripted:
    """Answers completions with as many events as tokens are asked for; keeps the bodies it was sent."""

    takes_token_ids: bool = True
    models: tuple[str, ...] = ("tiny",)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = [line.lower().partition(b":") for line in head.split(b"\r\n")]
                length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
                await self._answer(head.split(b" ")[1].decode(), await reader.readexactly(length), writer)
        except asyncio.IncompleteReadError:
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            cards = [{"id": name, "max_model_len": 4096} for name in self.models]
            _whole(writer, json.dumps({"data": cards}))
        elif path == "/metrics":
            _whole(writer, CACHE)
        else:
            await self._complete(json.loads(body), writer)

    async def _complete(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.bodies.append(body)
        if isinstance(body["prompt"], list) and not self.takes_token_ids:
            _whole(writer, '{"error": {"message": "token ids are not taken"}}', status=400)
            return
        count = len(body["prompt"]) if isinstance(body["prompt"], list) else len(body["prompt"].split())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(body["max_tokens"]):
            _event(writer, {"choices": [{"text": "x"}]})
            await asyncio.sleep(0.002)
        _event(writer, {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": body["max_tokens"]}})
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")
        await writer.drain()


def _event(writer: asyncio.StreamWriter, document: object) -> None:
    _chunk(writer, b"data: " + json.dumps(document).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _whole(writer: asyncio.StreamWriter, text: str, status: int = 200) -> None:
    writer.write(f"HTTP/1.1 {status} OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())


@contextmanager
def serving(script: Scripted) -> Iterator[str]:
    """The server's root URL, until the end of the block."""
    loop = asyncio.new_event_loop()

    async def listen() -> int:
        server = await asyncio.start_server(script, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(listen(), loop).result(10)}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
