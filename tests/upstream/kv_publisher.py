"""A publisher of KV-cache events that speaks as vLLM's does: PUB for what is new, ROUTER for what was missed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from upstream.kv_events import END


def packed(*events: Any, rank: int | None = 0) -> bytes:
    """A batch as vLLM sends it now: an array of time, events and rank."""
    return msgspec.msgpack.encode([1.5, list(events), rank])


def stored(hashes: list[Any], parent: Any, tokens: list[int], **more: Any) -> dict[str, Any]:
    """Blocks of equal size with these tokens."""
    size = len(tokens) // len(hashes)
    fixed = {"block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens, "block_size": size}
    return {"type": "BlockStored", **fixed, "lora_id": None, "medium": "GPU", "lora_name": None, **more}


def removed(*hashes: Any, **more: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", **more}


CLEARED = {"type": "AllBlocksCleared"}


class Publisher:
    """Bound to free ports, or to those of one that ended. ``keeps`` messages can be replayed."""

    def __init__(self, *, keeps: int = 100, topic: bytes = b"kv", ports: tuple[int, int] | None = None) -> None:
        self._context = zmq.asyncio.Context()
        self._pub, self._router = self._context.socket(zmq.PUB), self._context.socket(zmq.ROUTER)
        self._topic = topic
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=keeps)
        self._number = 0
        self.old_replies = False
        """Answer replays without a topic, as older servers do."""
        self.silent = False
        """Answer no replays."""
        if ports is None:
            self.ports = tuple(socket.bind_to_random_port("tcp://127.0.0.1") for socket in (self._pub, self._router))
        else:
            self.ports = ports
            for socket, port in zip((self._pub, self._router), ports, strict=True):
                socket.bind(f"tcp://127.0.0.1:{port}")
        self._task = asyncio.get_running_loop().create_task(self._serve())

    @property
    def events(self) -> str:
        return f"tcp://127.0.0.1:{self.ports[0]}"

    @property
    def replay(self) -> str:
        return f"tcp://127.0.0.1:{self.ports[1]}"

    async def publish(self, payload: bytes, *, lost: bool = False) -> None:
        """Send a message; ``lost``: the subscriber does not get it."""
        number, self._number = self._number, self._number + 1
        self._kept.append((number, payload))
        if not lost:
            await self._pub.send_multipart([self._topic, number.to_bytes(8, "big"), payload])

    async def garbage(self, *frames: bytes) -> None:
        """Send what is no message."""
        await self._pub.send_multipart([self._topic, *frames])

    async def _serve(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            if self.silent:
                continue
            topic = [] if self.old_replies else [self._topic]
            for number, payload in self._kept:
                if number >= int.from_bytes(start, "big"):
                    await self._router.send_multipart([client, b"", *topic, number.to_bytes(8, "big"), payload])
            await self._router.send_multipart([client, b"", *([b""] if topic else []), END.to_bytes(8, "big"), b""])

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)


async def until(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(limit_s):
        while not holds():
            await asyncio.sleep(0.01)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test with a limit."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())
