"""What bodies become, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from envs.engines import tokenizer
from envs.engines.generation import ApiError, Generation, Limits, chat, completion, read_json

LIMITS = Limits("m", 100)


def ask(**body: Any) -> Generation:
    return completion({"prompt": "hello you", **body}, {}, LIMITS)


def talk(messages: Any, **body: Any) -> Generation:
    return chat({"messages": messages, **body}, {}, LIMITS)


def test_defaults() -> None:
    request = ask()
    assert (request.prompt, request.prompt_tokens, request.max_tokens) == ("hello you", 2, 16)
    assert (request.stream, request.include_usage, request.priority, request.stop) == (False, False, 0, ())


def test_a_chat_may_run_to_the_end_of_the_context() -> None:
    request = talk([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello you"}])
    assert request.prompt == "hello you"
    assert request.prompt_tokens == 3 + (4 + 2) + (4 + 2)
    assert request.max_tokens == 100 - request.prompt_tokens


def test_text_parts_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert talk([{"role": "user", "content": parts}]).prompt == "one\ntwo"
    with pytest.raises(ApiError, match="At most 0 image"):
        talk([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_token_ids_are_a_prompt_too() -> None:
    ids = tokenizer.encode("hello you")
    for prompt in (ids, [ids], ["hello you"]):
        request = ask(prompt=prompt)
        assert (request.prompt, request.prompt_tokens) == ("hello you", 2)


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert talk([{"role": "user", "content": "x"}], max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_the_answer_is_cut_to_what_the_prompt_leaves() -> None:
    assert ask(max_tokens=100).max_tokens == 98


def test_names_come_from_the_header_the_body_or_nowhere() -> None:
    assert completion({"prompt": "x", "request_id": "b"}, {"x-request-id": "h"}, LIMITS).id == "cmpl-h"
    assert ask(request_id="b").id == "cmpl-b"
    assert ask().id != ask().id


def test_unknown_fields_do_not_matter() -> None:
    assert ask(temperature=0.3, tools=[{"type": "function"}], wished_for=1).max_tokens == 16


@pytest.mark.parametrize(
    "body, param",
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [5]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"n": 2}, "n"),
        ({"suffix": "s"}, "suffix"),
        ({"logprobs": 1}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperature": "warm"}, "body.temperature"),
    ],
)
def test_what_cannot_be_served_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        ask(**body)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    "body", [{"messages": []}, {"messages": [{"content": "x"}]}, {"messages": [{"role": 1}]}, [], 3]
)
def test_a_chat_needs_messages(body: Any) -> None:
    with pytest.raises(ApiError) as refused:
        chat(body, {}, LIMITS)
    assert refused.value.status == 400


def test_many_errors_are_reported_briefly() -> None:
    with pytest.raises(ApiError) as refused:
        talk([{"role": 1}] * 50)
    assert refused.value.message.startswith("50 validation errors:")
    assert refused.value.message.count("\n") == 8


def test_json_with_parameters_in_its_content_type() -> None:
    assert read_json(b"{}", "Application/JSON; charset=utf-8") == {}
