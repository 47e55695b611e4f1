from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from controller.types import Scores
from gateway.endpoints import LISTED, OTHER
from predictors.types import Prompt
from tests.gateway.harness import (
    CHAT,
    COMPLETIONS,
    HELLO,
    STREAM,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    pool,
    serving,
    until,
    with_gateway,
)
from tests.gateway.test_metrics import read
from tests.upstream.servers import TIMEOUT, Exchange


def test_models_are_the_pools_their_models_and_the_aliases() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        models = await gateway.get("/v1/models")
        assert models["object"] == "list"
        assert {card["id"]: card["pools"] for card in models["data"]} == {"p": ["p"], "p-model": ["p"], "auto": ["p"]}
        one = await gateway.get("/v1/models/p-model")
        assert (one["object"], one["max_model_len"]) == ("model", 8192)
        missing = await gateway.get("/v1/models/org/none")
        assert missing["error"]["code"] == "model_not_found"

    with_gateway(chat, scenario)


def test_health_is_of_the_gateway_and_ready_is_of_its_workers() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert await gateway.get("/health") == {"status": "ok", "ready_workers": {"p": 1}}
        worker.healthy = False
        await until(lambda: gateway.app.runtime.ready_workers() == {"p": 0})
        for path, status in (("/health", 200), ("/ready", 503)):
            async with gateway.client.stream(b"GET", gateway.url + path) as response:
                assert response.status == status
        assert (await gateway.get("/health"))["status"] == "degraded"

    with_gateway(chat, scenario)


def test_a_gateway_without_any_artifact_serves_on_its_fallbacks_and_says_so() -> None:
    async def scenario() -> None:
        async with Worker(chat) as small, Worker(chat) as large:
            pools = (pool("small", small, max_inflight=1), pool("large", large, tier=1, max_inflight=1))
            learned = {"tier": "best_effort", "order": "length_rank", "fairness": "vtc", "place": "prefix"}
            async with serving(configured(*pools, stages=learned)) as gateway:
                answers = await asyncio.gather(*(gateway.ask({**HELLO, "stream": True}) for _ in range(12)))
                assert answers == [(200, STREAM)] * 12
                samples = read((await gateway.page()).encode())
        states = {
            f"{labels['kind']}/{labels['name']}": labels["state"]
            for name, pairs in samples
            if name == "headway_artifact_info"
            for labels in [dict(pairs)]
        }
        assert states == dict.fromkeys(
            ("length/fast", "length/remaining", "quality/llmrouter", "policy/best-effort"), "absent"
        )
        tier = {"stage": "tier", "implementation": "best_effort"}
        outcomes = {o: samples["headway_stage_total", tuple(sorted({**tier, "outcome": o}.items()))] for o in OUTCOMES}
        assert outcomes == {"scored": 0, "skipped": 0, "fallback": 12}
        reason = tuple(sorted({**tier, "reason": "no_artifact"}.items()))
        assert samples["headway_fallbacks_total", reason] == 12

    drive(scenario)


OUTCOMES = ("scored", "skipped", "fallback")


def test_unknown_paths_and_methods_are_errors_of_openais_shape() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for method, path, status in (
            (b"GET", "/v1/nothing", 404),
            (b"POST", "/v1/load_lora_adapter", 404),
            (b"POST", "/sleep", 404),
            (b"POST", "/collective_rpc", 404),
            (b"POST", "/health", 405),
            (b"GET", COMPLETIONS, 405),
            (b"DELETE", "/tokenize", 405),
        ):
            async with gateway.client.stream(method, gateway.url + path) as response:
                assert response.status == status
                assert (response.header(b"allow") is not None) is (status == 405)
                assert set(json.loads(await response.body())["error"]) == {"message", "type", "param", "code"}

    with_gateway(chat, scenario)


def test_the_openapi_document_is_true() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        document = await gateway.get("/openapi.json")
        paths = document["paths"]
        assert {path for path in paths if not path.startswith("/admin/")} == {
            *(endpoint.path for endpoint in LISTED),
            OTHER.path,
            "/v1/responses/{response_id}",
            "/v1/responses/{response_id}/cancel",
            "/v1/models",
            "/v1/models/{name}",
            "/health",
            "/ready",
            "/metrics",
        }
        assert {"/admin/fleet", "/admin/queue", "/admin/decisions", "/admin/summary"} < set(paths)
        for path, operations in paths.items():
            for method in operations:
                url = gateway.url + re.sub(r"{\w+}", "x", path)
                async with gateway.client.stream(method.upper().encode(), url, body=b"{") as response:
                    described = operations[method]["responses"]
                    assert str(response.status) in {*described, "404"}, path
                    named = described.get(str(response.status), {}).get("headers", {})
                    always = [name for name, header in named.items() if header["required"]]
                    assert all(response.header(name.lower().encode()) for name in always), path
        references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
        assert set(references) <= set(document["components"]["schemas"])

    with_gateway(chat, scenario)


def test_the_document_tells_which_headers_and_types_an_answer_of_the_relay_has() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        paths = (await gateway.get("/openapi.json"))["paths"]
        for body, kind in ((HELLO, "application/json"), ({**HELLO, "stream": True}, "text/event-stream")):
            async with await gateway.post(body) as response:
                described = paths[CHAT]["post"]["responses"][str(response.status)]
                assert (response.header(b"content-type") or b"").decode().partition(";")[0] == kind
                assert kind in described["content"]
                always = [name for name, header in described["headers"].items() if header["required"]]
                assert len(always) == 4
                assert all(response.header(name.lower().encode()) for name in always)
        schema = paths["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
        assert set(schema) == {"application/json", "multipart/form-data"}
        anthropic = paths["/v1/messages"]["post"]["responses"]["404"]["content"]["application/json"]["schema"]
        assert anthropic == {"$ref": "#/components/schemas/AnthropicError"}

    with_gateway(chat, scenario)


def test_health_answers_a_head_without_a_body() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        port = int(gateway.url.rpartition(":")[2])
        for path in ("/health", "/ready"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"HEAD {path} HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b""
            writer.close()

    with_gateway(chat, scenario)


def test_every_error_that_the_document_lists_for_the_relay_has_the_shape_it_gives() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        document = await gateway.get("/openapi.json")
        shape = document["components"]["schemas"]["Error"]["properties"]["error"]
        _, error = await gateway.error(b"{")
        assert set(shape["required"]) == set(error)

    with_gateway(chat, scenario)


def test_the_status_page_needs_nothing_from_elsewhere() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with gateway.client.stream(b"GET", gateway.url + "/") as response:
            page = (await response.body()).decode()
            policy = response.header(b"content-security-policy") or b""
        assert b"default-src 'none'" in policy
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
        for path in set(re.findall(r"get\(\"(/[a-z/]+)", page)):
            async with gateway.client.stream(b"GET", gateway.url + path) as response:
                assert response.status == 200, path

    with_gateway(chat, scenario)


def test_an_unexpected_failure_is_an_error_of_openais_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        def broken() -> Any:
            raise RuntimeError("a secret")

        monkeypatch.setattr(gateway.app.runtime, "ready_workers", broken)
        async with gateway.client.stream(b"GET", gateway.url + "/health") as response:
            assert response.status == 500
            error = json.loads(await response.body())["error"]
        assert error["code"] == "internal_error"
        assert "secret" not in error["message"]

    with_gateway(chat, scenario)


def test_the_event_loop_is_never_blocked() -> None:
    """A scorer that waits for the loop gets what it waits for: the loop runs while prompts are scored."""
    go_on = threading.Event()

    class Waits:
        def __init__(self) -> None:
            self.waited: list[bool] = []

        def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
            if not self.waited:
                self.waited.append(go_on.wait(TIMEOUT))
            return [Scores(length_rank=1.0) for _ in prompts]

    scorer = Waits()

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.02)
        await chat(exchange)

    async def scenario() -> None:
        async with (
            Worker(slow) as worker,
            serving(configured(pool("p", worker, max_inflight=1)), scorer=scorer) as gateway,
        ):
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, go_on.set)  # never called if the loop waited for the scorer
            answers = await asyncio.gather(*(gateway.ask({**HELLO, "stream": bool(i % 2)}) for i in range(16)))
            assert [status for status, _ in answers] == [200] * 16
            assert scorer.waited == [True]

    drive(scenario)
