"""Anthropic's official client works against the gateway: ``/v1/messages`` of real vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest

from tests.live.fleet import MODEL, Gateway, visible_tokens

HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "What is 12 + 30? Show your work."}]
VISIBLE = {"allowed_token_ids": visible_tokens()}


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=120) as opened:
        yield opened


@pytest.mark.parametrize("model", [MODEL, "auto"])
def test_messages(client: anthropic.Anthropic, model: str) -> None:
    answer = client.messages.create(model=model, messages=HELLO, max_tokens=12, extra_body=VISIBLE)
    assert answer.role == "assistant"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert 0 < answer.usage.output_tokens <= 12
    assert answer.usage.input_tokens > 5


def test_messages_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL, system="Be brief.", messages=HELLO, max_tokens=12, extra_body=VISIBLE
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert "content_block_delta" in kinds
    assert 0 < answer.usage.output_tokens <= 12


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 5


def test_errors_are_the_clients_own_exceptions(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="gpt-17") as caught:
        client.messages.create(model="gpt-17", messages=HELLO, max_tokens=4)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "not_found_error"
