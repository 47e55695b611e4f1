"""Keys and limits as a client meets them: over a socket, before a worker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from controller.configuration import parse
from tests.gateway.harness import (
    HELLO,
    USAGE,
    Gateway,
    Worker,
    chat,
    hold,
    with_gateway,
)
from tests.gateway.test_tenants import ACME, ACME_LINE, GLOBEX, GLOBEX_LINE, PROXY, PROXY_LINE, STRANGER
from tests.upstream.servers import Exchange
from upstream.client import Response

KEYED = {
    "tenants": [{"name": "acme", "keys": [ACME_LINE]}, {"name": "globex", "keys": [GLOBEX_LINE]}],
    "auth": {"operator_keys": [PROXY_LINE]},
}


def limited(**limits: Any) -> dict[str, Any]:
    return {"limits": {"tenant": limits}}


def bearer(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def header(response: Response, name: bytes) -> bytes | None:
    return response.header(name)


async def recorded(gateway: Gateway) -> str:
    """The tenant of the last request, once it is over."""
    await gateway.quiet()
    tenant: str = gateway.app.runtime.plane.records.recent(1)[0].tenant
    return tenant


# Keys.


def test_a_key_says_whose_request_it_is() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for headers, tenant in (
            (bearer(ACME), "acme"),
            ({"authorization": f"bearer {GLOBEX}"}, "globex"),
            ({"x-api-key": ACME}, "acme"),
            (bearer(PROXY, **{"X-Headway-Tenant": "somebody"}), "somebody"),
        ):
            status, _ = await gateway.ask(HELLO, headers=headers)
            assert status == 200
            assert await recorded(gateway) == tenant

    with_gateway(chat, scenario, **KEYED)


def test_without_one_the_worker_hears_nothing_and_the_body_is_not_read() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for headers in ({}, bearer(STRANGER), bearer("acme"), {"X-Headway-Tenant": "acme"}):
            async with await gateway.post(HELLO, headers=headers) as response:
                assert response.status == 401
                assert header(response, b"www-authenticate") == b'Bearer realm="headway"'
                error = json.loads(await response.body())["error"]
                assert error["type"] == "authentication_error"
        status, error = await gateway.error(b"not even JSON")
        assert (status, error["code"]) == (401, "missing_api_key")
        assert worker.asked_for == []
        assert 'headway_not_served_total{code="missing_api_key"}' in await gateway.page()

    with_gateway(chat, scenario, **KEYED)


def test_a_message_is_refused_in_the_shape_that_its_clients_read() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, raw = await gateway.ask(HELLO, "/v1/messages")
        assert status == 401
        assert json.loads(raw)["error"]["type"] == "authentication_error"
        assert json.loads(raw)["type"] == "error"

    with_gateway(chat, scenario, **KEYED)


def test_models_are_shown_to_those_who_may_ask_for_them() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.get("/v1/models"))["error"]["code"] == "missing_api_key"
        key = b"Bearer " + ACME.encode()
        assert (await gateway.get("/v1/models", [(b"authorization", key)]))["object"] == "list"
        assert "error" in await gateway.get("/v1/models/auto")
        assert (await gateway.get("/health"))["status"] == "ok"

    with_gateway(chat, scenario, **KEYED)


def test_the_key_stays_in_the_gateway() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask(HELLO, headers={"x-api-key": ACME, "Authorization": "Bearer sk-else"})
        assert not {"authorization", "x-api-key"} & set((await worker.request()).headers)

    with_gateway(chat, scenario, **KEYED)


def test_the_admin_token_is_asked_for_as_it_should_be() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for scheme in ("Bearer", "bearer"):
            found = await gateway.get("/admin/summary", [(b"authorization", f"{scheme} of-the-operator".encode())])
            assert "uptime_s" in found
        async with gateway.client.stream(b"GET", gateway.url + "/admin/summary") as response:
            assert response.status == 401
            assert header(response, b"www-authenticate") == b'Bearer realm="headway"'

    with_gateway(chat, scenario, admin={"token": "of-the-operator"})


def test_keys_and_limits_change_while_the_gateway_runs() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.ask(HELLO, headers=bearer(ACME)))[0] == 200
        listed = [{"name": "acme", "keys": [GLOBEX_LINE], "limits": {"requests_per_minute": 1}}]
        before = gateway.app.runtime.configuration.model_dump(mode="json", exclude={"tenants"}, exclude_unset=True)
        await gateway.app.runtime.apply(parse({**before, "tenants": listed}))
        assert (await gateway.ask(HELLO, headers=bearer(ACME)))[0] == 401
        statuses = [(await gateway.ask(HELLO, headers=bearer(GLOBEX)))[0] for _ in range(2)]
        assert statuses == [200, 429]
        assert await recorded(gateway) == "acme"

    with_gateway(chat, scenario, **KEYED)


# Limits.


def test_every_answer_says_what_is_left() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for left in (1, 0):
            async with await gateway.post({**HELLO, "stream": left == 0}) as response:
                assert header(response, b"x-ratelimit-limit-requests") == b"2"
                assert header(response, b"x-ratelimit-remaining-requests") == b"%d" % left
                assert header(response, b"x-ratelimit-limit-tokens") == b"100000"
                await response.body()
            await gateway.quiet()
        async with await gateway.post(HELLO) as response:
            assert response.status == 429
            error = json.loads(await response.body())["error"]
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert header(response, b"retry-after") == b"30"
            assert header(response, b"x-ratelimit-remaining-requests") == b"0"
            tokens = header(response, b"x-ratelimit-remaining-tokens")
            assert tokens is not None
            assert int(tokens) >= 100_000 - 2 * USAGE["total_tokens"]
        assert len(worker.asked_for) == 2

    with_gateway(chat, scenario, **limited(requests_per_minute=2, tokens_per_minute=100_000))


def test_a_stream_that_told_no_usage_is_charged_all_the_same() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        await gateway.ask({**HELLO, "stream": True})
        await gateway.quiet()
        async with await gateway.post(HELLO) as response:
            left = int(header(response, b"x-ratelimit-remaining-tokens") or b"0")
            assert left < 1000 - 3, "the first one's three tokens, and what the second is expected to take"

    with_gateway(chat, scenario, **limited(tokens_per_minute=1000))


def test_a_workers_own_limits_do_not_contradict() -> None:
    async def answer(exchange: Exchange) -> None:
        body = json.dumps({"choices": [], "usage": USAGE}).encode()
        await exchange.reply(body, 200, "content-type: application/json", "x-ratelimit-limit-requests: 9")

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(HELLO) as response:
            names = [value for name, value in response.headers if name == b"x-ratelimit-limit-requests"]
            assert names == [b"2"]

    with_gateway(answer, scenario, **limited(requests_per_minute=2))


def test_concurrency_is_freed_by_a_client_that_leaves() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        first = asyncio.ensure_future(gateway.ask(HELLO))
        await worker.request()
        status, error = await gateway.error(HELLO)
        assert (status, error["code"]) == (429, "concurrency_limit_exceeded")
        first.cancel()
        await gateway.quiet()
        worker.answer = chat
        assert (await gateway.ask(HELLO))[0] == 200

    with_gateway(hold, scenario, **limited(concurrency=1))


def test_a_tenant_that_is_over_its_limit_leaves_the_others_alone() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        loud, quiet = {"X-Headway-Tenant": "loud"}, {"X-Headway-Tenant": "quiet"}
        statuses = [(await gateway.ask(HELLO, headers=loud))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await gateway.ask(HELLO, headers=quiet))[0] == 200

    with_gateway(chat, scenario, **limited(requests_per_minute=2))


def test_the_queue_is_bounded_by_tenant_and_in_bytes() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        running = asyncio.ensure_future(gateway.ask(HELLO))
        await worker.request()
        waiting = asyncio.ensure_future(gateway.ask({**HELLO, "user": "x" * 500}))
        await asyncio.sleep(0.05)
        status, error = await gateway.error({**HELLO, "user": "x" * 500})
        assert (status, error["code"]) == (429, "queue_full")
        assert "max_queue_bytes is 800" in error["message"]
        for task in (running, waiting):
            task.cancel()

    with_gateway(hold, scenario, max_inflight=1, **limited(max_queue_bytes=800))


def test_a_longer_answer_than_allowed_is_refused_and_no_wish_is_held_to_the_limit() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        status, error = await gateway.error({**HELLO, "max_tokens": 11})
        assert (status, error["code"], error["param"]) == (400, "max_tokens_exceeded", "max_tokens")
        await gateway.ask(HELLO)
        assert (await worker.request()).json["max_completion_tokens"] == 10

    with_gateway(chat, scenario, **limited(max_tokens=10))


def test_a_body_nested_too_deeply_is_refused() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for levels, expected in ((8, 200), (9, 400), (400, 400), (100_000, 400)):
            inner = b"[" * (levels - 1) + b"]" * (levels - 1)
            body = json.dumps(HELLO).encode()[:-1] + b', "metadata": ' + inner + b"}"
            status, _ = await gateway.ask(body)
            assert status == expected, levels

    with_gateway(chat, scenario, limits={"max_json_depth": 8})


def test_an_isolated_tenant_has_a_salt_that_stays_the_same_and_is_its_own() -> None:
    listed = [{"name": name, "cache_isolation": True} for name in ("a", "b")]

    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for name in ("a", "a", "b", "c"):
            await gateway.ask(HELLO, headers={"X-Headway-Tenant": name})
        salts = [exchange.json.get("cache_salt") for exchange in worker.asked_for]
        assert salts[0] == salts[1]
        assert len({salts[0], salts[2]}) == 2
        assert salts[3] is None

    with_gateway(chat, scenario, tenants=listed, auth={"cache_secret": "of this very test"})


def test_a_deadline_that_passes_in_the_queue_is_told_and_recorded() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        running = asyncio.ensure_future(gateway.ask(HELLO))
        await worker.request()
        status, error = await gateway.error(HELLO, headers={"X-Headway-Deadline-Ms": "60"})
        assert (status, error["code"]) == (504, "deadline_exceeded")
        record = gateway.app.runtime.plane.records.recent(1)[0]
        assert (record.code, record.result.value, record.dispatched_at) == ("deadline_exceeded", "rejected", None)
        assert 0.05 <= record.finished_at - record.submitted_at < 1.0
        running.cancel()
        assert len(worker.asked_for) == 1

    with_gateway(hold, scenario, max_inflight=1)
