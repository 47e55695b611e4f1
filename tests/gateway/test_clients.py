"""The official clients against the gateway, in front of a worker that answers in vLLM's shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from controller.types import Usage
from tests.gateway import shapes
from tests.gateway.harness import Gateway, Worker, configured, drive, pool, serving
from tests.upstream.servers import Exchange, Handler

USER: Any = {"role": "user", "content": "hello"}
Scenario = Callable[[openai.AsyncOpenAI, anthropic.AsyncAnthropic, Gateway, Worker], Awaitable[None]]


def with_clients(scenario: Scenario, answer: Handler = shapes.vllm) -> None:
    async def run() -> None:
        tasks = ["generate", "embed", "rerank", "transcribe"]
        async with (
            Worker(answer) as worker,
            serving(configured(pool("p", worker, tasks=tasks, adapters=["p-lora"]))) as gateway,
            openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as one,
            anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as other,
        ):
            await scenario(one, other, gateway, worker)

    drive(run)


async def ended(gateway: Gateway, count: int = 1) -> list[Usage | None]:
    """What the records of the last requests say they cost."""
    await gateway.quiet()
    return [record.usage for record in gateway.app.runtime.plane.records.recent(count)]


def test_the_scripted_answers_have_the_official_shapes() -> None:
    ChatCompletion.model_validate(shapes.chat_answer(), strict=True)
    Completion.model_validate(shapes.completion_answer(), strict=True)
    CreateEmbeddingResponse.model_validate(shapes.embeddings_answer(), strict=True)
    Response.model_validate({**shapes.response_answer(), "text": {"format": {"type": "text"}}})
    Message.model_validate({**shapes.message_answer(), "stop_sequence": None})
    for stream, kind in (
        (shapes.message_events(), TypeAdapter[Any](RawMessageStreamEvent)),
        (shapes.response_events(), TypeAdapter[Any](ResponseStreamEvent)),
    ):
        for line in stream.splitlines():
            if line.startswith(b"data: "):
                kind.validate_python(json.loads(line[6:]))


def test_openai_chat_and_completions() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        answer = await client.chat.completions.create(model="auto", messages=[USER], n=1, logprobs=False)
        assert (answer.choices[0].message.content, answer.usage and answer.usage.completion_tokens) == (shapes.TEXT, 3)
        assert worker.asked_for[0].json["model"] == "p-model"
        stream = await client.chat.completions.create(model="auto", messages=[USER], stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == shapes.TEXT
        assert all(chunk.usage is None for chunk in chunks)
        legacy = await client.completions.create(model="p", prompt="hello", max_tokens=3)
        assert legacy.choices[0].text == shapes.TEXT
        assert await ended(gateway, 3) == [Usage(7, 3)] * 3

    with_clients(scenario)


def test_openai_responses_whole_and_as_a_stream() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        answer = await client.responses.create(model="auto", input="hello", max_output_tokens=100)
        assert (answer.output_text, answer.usage and answer.usage.input_tokens) == (shapes.TEXT, 7)
        stream = await client.responses.create(model="auto", input=[USER], stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == shapes.TEXT
        assert worker.asked_for[1].json == {"model": "p-model", "input": [USER], "stream": True}
        assert await ended(gateway, 2) == [Usage(7, 3, 5)] * 2

    with_clients(scenario)


def test_openai_stored_responses_are_refused_clearly() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        for ask in (
            client.responses.retrieve("resp_1"),
            client.responses.cancel("resp_1"),
            client.responses.delete("resp_1"),
            client.responses.create(model="auto", input="and?", previous_response_id="resp_1"),
            client.responses.create(model="auto", input="hello", background=True),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await ask
            assert (caught.value.status_code, caught.value.code) == (501, "stateful_responses")
            assert "'input'" in caught.value.message or "'background'" in caught.value.message
        assert worker.asked_for == []

    with_clients(scenario)


def test_openai_embeddings_models_and_audio() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        vectors = await client.embeddings.create(model="auto", input=["a", "b"], encoding_format="float")
        assert [one.embedding for one in vectors.data] == [[0.5, -0.25]] * 2
        assert await ended(gateway) == [Usage(7, 0)]
        models = {model.id: model async for model in client.models.list()}
        assert set(models) == {"auto", "p", "p-model", "p-lora"}
        assert (models["p-lora"].to_dict()["parent"], models["auto"].to_dict()["parent"]) == ("p-model", None)
        assert (await client.models.retrieve("p-model")).to_dict()["tasks"] == [
            "embed",
            "generate",
            "rerank",
            "transcribe",
        ]
        text = await client.audio.transcriptions.create(model="auto", file=("a.wav", b"RIFF\0\xff"), language="de")
        assert text.text == "hello"
        sent = await worker.request(2)
        assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"p-model" in sent.body
        assert b"RIFF\0\xff" in sent.body

    with_clients(scenario)


def test_an_adapter_is_asked_for_by_its_name() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        await client.chat.completions.create(model="p-lora", messages=[USER])
        assert worker.asked_for[0].json["model"] == "p-lora"

    with_clients(scenario)


def test_openai_errors_of_gateway_and_worker() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.responses.create(model="ghost", input="hello")
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        wrong: Any = {}
        with pytest.raises(openai.BadRequestError) as missing:
            await client.embeddings.create(model="auto", input=wrong)
        assert missing.value.param == "input"
        with pytest.raises(openai.NotFoundError, match="does not serve the task classify"):
            await client.post("/../classify", body={"model": "p", "input": "x"}, cast_to=object)
        with pytest.raises(openai.NotFoundError, match="Not Found"):
            await client.post("/unheard-of", body={"model": "p", "x": 1}, cast_to=object)
        assert (await worker.request(1)).json == {"model": "p-model", "x": 1}

    with_clients(scenario)


def test_openai_rerank_and_anything_else_pass() -> None:
    async def scenario(
        client: openai.AsyncOpenAI, _: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        body = {"model": "p-model", "query": "hello", "documents": ["a", "b"], "top_n": 2}
        answer: Any = await client.post("/rerank", body=body, cast_to=object)
        assert answer == shapes.rerank_answer()
        assert worker.asked_for[0].json == body
        assert await ended(gateway) == [Usage(7, 0)]
        for path, expected in (("/tokenize", [1, 2]), ("/detokenize", None)):
            status, raw = await gateway.ask({"model": "auto", "prompt": "hello", "tokens": [1]}, path)
            assert (status, json.loads(raw).get("tokens")) == (200, expected)

    with_clients(scenario)


def test_anthropic_messages_whole_and_as_a_stream() -> None:
    async def scenario(
        _: openai.AsyncOpenAI, client: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        answer = await client.messages.create(model="auto", max_tokens=50, messages=[USER], system="be brief")
        assert answer.content[0].type == "text"
        assert answer.content[0].text == shapes.TEXT
        async with client.messages.stream(model="auto", max_tokens=50, messages=[USER]) as stream:
            assert "".join([text async for text in stream.text_stream]) == shapes.TEXT
            final = await stream.get_final_message()
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 7, 3)
        assert await ended(gateway, 2) == [Usage(7, 3)] * 2
        assert worker.asked_for[1].json["model"] == "p-model"
        assert "priority" not in worker.asked_for[1].json
        count = await client.messages.count_tokens(model="auto", messages=[USER])
        assert count.input_tokens == 7

    with_clients(scenario)


def test_anthropic_errors_have_its_shape() -> None:
    async def scenario(
        _: openai.AsyncOpenAI, client: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await client.messages.create(model="ghost", max_tokens=5, messages=[USER])
        body: Any = unknown.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
        assert "ghost" in body["error"]["message"]
        with pytest.raises(anthropic.BadRequestError, match="messages"):
            await client.messages.create(model="auto", max_tokens=5, messages=[])
        with pytest.raises(anthropic.APIStatusError) as refused:
            await client.get("/v1/messages", cast_to=object)
        assert refused.value.status_code == 405
        assert refused.value.response.headers["allow"] == "POST"

    with_clients(scenario)


def test_a_worker_that_dies_in_a_stream_is_an_error_of_each_clients_kind() -> None:
    seen = asyncio.Event()

    async def dies(exchange: Exchange) -> None:
        await exchange.head(200, "content-type: text/event-stream")
        events = shapes.STREAMS[exchange.path]
        await exchange.chunk(events[: events.index(b'"lo"')])
        await seen.wait()
        exchange.kill()

    async def scenario(
        one: openai.AsyncOpenAI, other: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        messages = await other.messages.create(model="p", max_tokens=5, messages=[USER], stream=True)
        with pytest.raises(anthropic.APIStatusError, match="p-0"):
            await everything(messages)
        seen.clear()
        responses = await one.responses.create(model="p", input="hello", stream=True)
        with pytest.raises(openai.APIError, match="p-0"):
            await everything(responses)

    async def everything(stream: Any) -> None:
        async for _ in stream:
            seen.set()

    with_clients(scenario, dies)


async def _busy(exchange: Exchange) -> None:
    await exchange.reply_json({"error": {"message": "full", "code": 503}}, 503)


def test_no_room_anywhere_is_each_clients_own_error() -> None:
    async def scenario(
        one: openai.AsyncOpenAI, other: anthropic.AsyncAnthropic, gateway: Gateway, worker: Worker
    ) -> None:
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            await other.messages.create(model="auto", max_tokens=5, messages=[USER])
        body: Any = overloaded.value.body
        assert (overloaded.value.status_code, body["error"]["type"]) == (503, "overloaded_error")
        with pytest.raises(openai.InternalServerError) as busy:
            await one.embeddings.create(model="auto", input="a")
        assert (busy.value.status_code, busy.value.code) == (503, "worker_busy")

    with_clients(scenario, _busy)
