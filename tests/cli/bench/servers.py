"""The bench's fake upstream and a misbehaving one, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.bench.gateway_upstream import Upstream


class Stalling(Upstream):
    """Stops its event loop once, for ``stall`` seconds, at the ``at``-th piece of data."""

    seen = 0
    at = 20
    stall = 0.3

    def data_received(self, data: bytes) -> None:
        Stalling.seen += 1
        if Stalling.seen == self.at:
            time.sleep(self.stall)
        super().data_received(data)


@contextmanager
def serving(connection: Callable[[Callable[..., object]], Upstream] = Upstream) -> Iterator[int]:
    """Serve on a free port, which is the value, until the end of the block."""
    loop = asyncio.new_event_loop()

    async def listen() -> int:
        server = await loop.create_server(lambda: connection(loop.call_soon), "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
