from __future__ import annotations

import json
from typing import Any

import pytest

from controller.prefix import block_hashes
from controller.types import Dispatch, Needs
from gateway.errors import ApiError
from gateway.openai import Call, Endpoint, Wish, body_for, parse

WISH = Wish("t1", "team", lowest_priority=-2, highest_priority=5, deadline=9.0)


def chat(**fields: Any) -> Call:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    return parse(Endpoint.CHAT, json.dumps(body).encode(), WISH)


def completion(**fields: Any) -> Call:
    return parse(Endpoint.COMPLETIONS, json.dumps({"model": "auto", "prompt": "hello", **fields}).encode(), WISH)


def refused(endpoint: Endpoint, body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(endpoint, json.dumps(body).encode(), WISH)
    assert caught.value.status == 400
    return caught.value


# What the controller is told.


def test_a_ticket_has_what_a_decision_needs_and_never_the_text() -> None:
    call = chat(max_tokens=7)
    assert (call.ticket.id, call.ticket.tenant, call.ticket.deadline) == ("t1", "team", 9.0)
    assert (call.ticket.model, call.ticket.prompt_chars, call.ticket.max_tokens) == ("auto", 5, 7)
    assert call.ticket.needs == Needs()
    assert "hello" not in repr(call.ticket)


def test_a_prompt_is_what_the_user_said_last_with_the_users_turns() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "three"},
    ]
    call = chat(messages=messages)
    assert (call.prompt.text, call.prompt.turns) == ("three", 2)
    assert chat(messages=messages[:3]).prompt.text == "one\ntwo"
    assert chat(messages=messages[:1]).prompt.text == "be brief"
    assert call.ticket.prompt_chars == len("be brief\none\ntwo\nthree")


def test_the_prefix_depends_on_the_salt() -> None:
    long = [{"role": "user", "content": "x" * 1000}]
    assert chat(messages=long).ticket.prefix == block_hashes("x" * 1000)
    assert chat(messages=long, cache_salt="s").ticket.prefix == block_hashes("x" * 1000, salt="s")


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 3, "max_tokens": 5}, 3),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, None),
    ],
)
def test_the_limit_of_a_chats_answer(fields: dict[str, Any], expected: int | None) -> None:
    call = chat(**fields)
    assert call.ticket.max_tokens == call.prompt.max_tokens == expected


def test_a_completion_without_a_limit_has_openais() -> None:
    assert completion().ticket.max_tokens == 16
    assert completion(max_tokens=None).ticket.max_tokens is None


@pytest.mark.parametrize(
    "prompt, text, tokens",
    [
        ("hello", "hello", None),
        (["a", "b"], "a\nb", None),
        ([1, 2, 3], "", 3),
        ([[1, 2], [3]], "", 3),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, text: str, tokens: int | None) -> None:
    call = completion(prompt=prompt)
    assert (call.prompt.text, call.ticket.prompt_tokens) == (text, tokens)


@pytest.mark.parametrize(
    "fields, needs",
    [
        ({"tools": [{"type": "function"}]}, Needs(tools=True)),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, Needs()),
        ({"tools": []}, Needs()),
        ({"functions": [{"name": "f"}]}, Needs(tools=True)),
        ({"response_format": {"type": "json_object"}}, Needs(structured_output=True)),
        ({"response_format": {"type": "text"}}, Needs()),
        ({"guided_regex": "a+"}, Needs(structured_output=True)),
        ({"structured_outputs": {"choice": ["a"]}}, Needs(structured_output=True)),
    ],
)
def test_what_a_request_needs_of_a_pool(fields: dict[str, Any], needs: Needs) -> None:
    assert chat(**fields).ticket.needs == needs


def test_modalities_come_from_the_content_parts() -> None:
    parts = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "something_new"},
    ]
    needs = chat(messages=[{"role": "user", "content": parts}]).ticket.needs
    assert needs == Needs(modalities=frozenset({"image", "audio"}))


def test_tools_count_towards_the_prompts_length() -> None:
    assert chat(tools=[{"type": "function"}]).ticket.prompt_chars == 5 + len('[{"type": "function"}]')


@pytest.mark.parametrize("asked, given", [(None, 0), (-99, -2), (3, 3), (99, 5)])
def test_a_clients_priority_is_clamped_to_its_tenants_range(asked: int | None, given: int) -> None:
    assert chat(priority=asked).ticket.priority == given


# What is refused.


@pytest.mark.parametrize(
    "change, param, code",
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 3}, "model", "invalid_type"),
        ({"model": "m" * 1025}, "model", "invalid_type"),
        ({"model": "\ud800"}, "model", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": 3}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"content": [3]}]}, "messages[0].content[0]", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 5.0}, "max_tokens", "invalid_type"),
        ({"max_tokens": 10**400}, "max_tokens", "invalid_type"),
        ({"max_tokens": -(2**63)}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": True}, "max_completion_tokens", "invalid_type"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"stream": True, "stream_options": 1}, "stream_options", "invalid_type"),
        ({"priority": "high"}, "priority", "invalid_type"),
        ({"cache_salt": 1}, "cache_salt", "invalid_type"),
    ],
)
def test_a_wrong_chat_names_the_field(change: dict[str, Any], param: str, code: str) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], **change}
    error = refused(Endpoint.CHAT, body)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize("prompt", [None, 3, [], ["a", 1], [[]], [[1], "a"], {"a": 1}, [True]])
def test_a_wrong_prompt(prompt: Any) -> None:
    assert refused(Endpoint.COMPLETIONS, {"model": "auto", "prompt": prompt}).param == "prompt"


def test_the_message_does_not_repeat_a_large_value() -> None:
    assert len(refused(Endpoint.CHAT, {"model": ["x" * 10_000], "messages": [{}]}).message) < 200


# What the worker is sent.


def sent(call: Call, priority: int | None = None, model: str = "m") -> dict[str, Any]:
    dispatch = Dispatch("t1", "p", "w", "http://w", model, priority, 1)
    body: dict[str, Any] = json.loads(body_for(call, dispatch))
    return body


def test_only_the_model_changes() -> None:
    assert sent(chat(seed=1)) == {**json.loads(chat(seed=1).document.text), "model": "m"}


def test_the_priority_is_the_gateways_or_none() -> None:
    assert sent(chat(priority=5), priority=12)["priority"] == 12
    assert sent(chat(), priority=-3)["priority"] == -3
    assert "priority" not in sent(chat(priority=5))


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"continuous_usage_stats": True, "x": 1}, {"continuous_usage_stats": True, "x": 1, "include_usage": True}),
        ({"include_usage": True, "x": 1}, {"include_usage": True, "x": 1}),
    ],
)
def test_a_stream_is_asked_for_its_usage(given: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    call = chat(stream=True, stream_options=given)
    assert sent(call)["stream_options"] == expected
    assert call.adds_usage is not bool(given and given.get("include_usage"))


def test_an_answer_at_once_needs_no_stream_options() -> None:
    assert "stream_options" not in sent(chat())
    assert not chat().adds_usage
