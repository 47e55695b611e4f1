from __future__ import annotations

import asyncio

import pytest

from tests.upstream.servers import Exchange, Server
from upstream.probe import answers


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False)])
def test_only_200_counts(status: int, expected: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.reply(b"", status)

    async def run() -> bool:
        async with Server(handler) as server:
            return await answers(f"{server.url}/health")

    assert asyncio.run(run()) is expected


def test_nobody_there_is_no() -> None:
    assert asyncio.run(answers("http://127.0.0.1:9/health")) is False
