"""The official client works against the gateway as against OpenAI."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.live.fleet import MODEL, Gateway, visible_tokens

SUM = "What is 12 + 30? Show your work."
VISIBLE = {"allowed_token_ids": visible_tokens()}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=120) as opened:
        yield opened


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"auto", MODEL} <= names


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": SUM}], max_tokens=12, temperature=0, extra_body=VISIBLE
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12


def test_chat_streams(client: openai.OpenAI) -> None:
    pieces = []
    usage = None
    for chunk in client.chat.completions.create(
        model="auto",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}],
        max_completion_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=VISIBLE,
    ):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    assert len(pieces) > 1
    assert usage is not None
    assert usage.completion_tokens >= len(pieces)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=SUM, max_tokens=8, temperature=0, extra_body=VISIBLE)
    assert answer.choices[0].text
    streamed = client.completions.create(
        model=MODEL, prompt=SUM, max_tokens=8, temperature=0, stream=True, extra_body=VISIBLE
    )
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == answer.choices[0].text


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL, input=SUM, max_output_tokens=12, temperature=0, store=False, extra_body=VISIBLE
    )
    assert answer.model == MODEL
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 12


def test_responses_stream(client: openai.OpenAI) -> None:
    asked = client.responses.create(
        model="auto", input=SUM, max_output_tokens=12, temperature=0, store=False, stream=True, extra_body=VISIBLE
    )
    kinds = [event.type for event in asked]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_what_the_client_has_no_method_for(client: openai.OpenAI, gateway: Gateway) -> None:
    """vLLM's tokenizer endpoints, below ``/v1`` on neither server."""
    server = client.with_options(base_url=gateway.url)
    tokens = server.post("/tokenize", body={"model": MODEL, "prompt": "12 + 30"}, cast_to=object)
    assert isinstance(tokens, dict)
    assert tokens["count"] == len(tokens["tokens"]) > 0
    text = server.post("/detokenize", body={"model": MODEL, "tokens": tokens["tokens"]}, cast_to=object)
    assert isinstance(text, dict)
    assert "12 + 30" in text["prompt"]


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-17"):
        client.chat.completions.create(model="gpt-17", messages=[{"role": "user", "content": "Hello"}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}], temperature=-1)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[])
