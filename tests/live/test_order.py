"""The order that the controller decides reaches the server's own queue."""

from __future__ import annotations

import asyncio

import httpx

from envs.engines.vllm_process import VllmProcess
from tests.live.fleet import URGENT, Gateway
from tests.live.test_vllm import overtaking


def test_an_urgent_tenant_overtakes_inside_a_full_server(narrow_gateway: Gateway, workers: list[VllmProcess]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient() as client:
            urgent = {"priority": -10}
            await overtaking(client, workers[0].url, narrow_gateway.url, urgent, **{"x-headway-tenant": URGENT})

    asyncio.run(main())
