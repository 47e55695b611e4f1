from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.types import Dispatch, Needs, Task
from gateway.endpoints import LISTED, OTHER, Endpoint, dialect_of, find
from gateway.errors import ApiError, Dialect
from gateway.openai import Call, Wish, body_for, parse

WISH = Wish("t1", "team", lowest_priority=-2, highest_priority=5, deadline=None)
USER = {"role": "user", "content": "hello"}
LEAST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/chat/completions/batch": {"messages": [[USER], [USER]]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [USER], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/embeddings": {"input": ["hello", "world"]},
    "/v2/embed": {"texts": ["hello"], "input_type": "search_query", "embedding_types": ["float"]},
    "/v1/rerank": {"query": "hello", "documents": ["a", "b"]},
    "/v2/rerank": {"query": "hello", "documents": ["a", "b"]},
    "/rerank": {"query": "hello", "documents": ["a", "b"]},
    "/v1/score": {"queries": "hello", "documents": ["a", "b"]},
    "/score": {"text_1": "hello", "text_2": "world"},
    "/classify": {"input": "hello"},
    "/pooling": {"input": "hello"},
    "/generative_scoring": {"query": "hello", "items": ["a"], "label_token_ids": [1, 2]},
    "/v1/audio/transcriptions": {},
    "/v1/audio/translations": {},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1, 2]},
}
"""A least body of every endpoint, without the model."""


def call(path: str, **fields: Any) -> Call:
    endpoint = find("POST", path)
    assert endpoint is not None
    return parse(endpoint, json.dumps({"model": "auto", **LEAST.get(path, {}), **fields}).encode(), WISH)


def dispatched(model: str = "auto", priority: int | None = None) -> Dispatch:
    return Dispatch("t1", "p", "p-0", "http://w", model, priority, 1)


def test_every_endpoint_is_found_by_its_path_for_any_method() -> None:
    assert {endpoint.path for endpoint in LISTED} == set(LEAST)
    for endpoint in LISTED:
        for method in ("POST", "GET", "HEAD", "DELETE"):
            assert find(method, endpoint.path) is endpoint


def test_the_guide_lists_every_endpoint_with_its_task() -> None:
    guide = Path(__file__).parents[2] / "docs" / "endpoints.md"
    told: dict[str, str] = {}
    for line in guide.read_text().splitlines():
        if line.startswith("| `/"):
            paths, task, *_ = line.strip("| ").split(" | ")
            told.update(dict.fromkeys(re.findall(r"`(/[^`]+)`", paths), task))
    listed = {endpoint.path: endpoint.task.value if endpoint.task else "–" for endpoint in LISTED}
    assert {path: told.get(path) for path in listed} == listed


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/load_lora_adapter/x",
        "/v1/sleep",
        "/v1/engine/collective_rpc",
        "/v1/update_weights",
        "/v1/start_weight_update",
        "/v1/reset_prefix_cache/now",
        "/v1/audio/../load_lora_adapter",
        "/v1/../sleep",
        "/v1//sleep",
        "/v1/./sleep",
        "/v1/a%2fb",
        "/v1/a b",
        "/v1/a\r\nb",
        "/v1/a?b",
        "/v1/",
        "/v1",
        "/v1/models",
        "/v1/models/m",
        "/v1/realtime",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/sleep",
        "/wake_up",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/start_profile",
        "/inference/v1/generate",
        "/abort_requests",
        "/invocations",
        "/metrics",
    ],
)
def test_what_is_an_operators_or_the_gateways_own_is_never_relayed(path: str) -> None:
    assert find("POST", path) is None


@given(st.text(max_size=40))
def test_no_path_that_could_mean_another_one_is_relayed(text: str) -> None:
    endpoint = find("POST", f"/v1/{text}")
    if endpoint is not None:
        assert all(part and part.strip(".") for part in endpoint.path[1:].split("/"))
        assert endpoint.path.isascii()
        assert not set(endpoint.path) & set("%?#\\ \r\n;")


def test_anything_else_below_v1_passes_by_post_alone() -> None:
    other = find("POST", "/v1/systemone")
    assert other is not None
    assert (other.path, other.task, other.generates, other.read) == ("/v1/systemone", None, False, OTHER.read)
    assert find("GET", "/v1/systemone") is None
    assert find("POST", "/v1/chat/completions/render") is not None
    assert find("POST", "/v1/responses/render") is not None
    assert find("POST", "/v1/sleepless") is not None


def test_errors_have_anthropics_shape_below_its_path_only() -> None:
    dialects = {endpoint.path: dialect_of(endpoint.path) for endpoint in LISTED}
    assert {path for path, dialect in dialects.items() if dialect is Dialect.ANTHROPIC} == {
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    assert all(endpoint.dialect is dialects[endpoint.path] for endpoint in LISTED)
    assert dialect_of("/v1/messages/render") is Dialect.ANTHROPIC
    assert dialect_of("/v1/messagesx") is Dialect.OPENAI


@pytest.mark.parametrize("path", LEAST)
def test_a_request_that_needs_no_change_goes_on_as_it_came(path: str) -> None:
    body = ('{ "model":"auto" ,' + json.dumps(LEAST[path])[1:].replace(": ", " :  ")).encode()
    if not LEAST[path]:
        body = b'{ "model":"auto" }'
    endpoint = find("POST", path)
    assert endpoint is not None
    assert body_for(parse(endpoint, body, WISH), dispatched()) == body


KNOWN = {"model", "stream", "stream_options", "priority", "max_tokens", "max_completion_tokens", "max_output_tokens"}
KNOWN |= {"response_format", "tools", "functions", "tool_choice", "cache_salt", "text", "output_config", "instructions"}
KNOWN |= {"previous_response_id", "background", "system", "images", "inputs", "queries", "items", "data_1", "data_2"}
KNOWN |= {
    "truncate_prompt_tokens",
    "text_1",
    "text_2",
    "documents",
    *(name for body in LEAST.values() for name in body),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
UNKNOWN = st.dictionaries(st.text(max_size=12).filter(lambda name: name not in KNOWN), VALUES, max_size=6)
"""Members that the gateway does not look at, ``n``, ``logprobs``, ``seed`` and the like among them."""


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LEAST)),
    UNKNOWN,
    st.booleans(),
    st.sampled_from(["auto", "p-model"]),
    st.none() | st.integers(-9, 9),
    st.booleans(),
)
def test_the_worker_gets_the_clients_members_but_for_the_documented_changes(
    path: str, unknown: dict[str, Any], stream: bool, model: str, priority: int | None, wishes: bool
) -> None:
    endpoint = find("POST", path)
    assert endpoint is not None
    body = {**unknown, "model": "auto", **LEAST[path], **({"stream": True} if stream else {})}
    sent = json.dumps({**body, **({"priority": 3} if wishes else {})}, ensure_ascii=True).encode()
    arrived = json.loads(body_for(parse(endpoint, sent, WISH), dispatched(model, priority)))
    expected = {**body, "model": model}
    if priority is not None and endpoint.takes_priority:
        expected["priority"] = priority
    if stream and endpoint.usage_option:
        expected["stream_options"] = {"include_usage": True}
    assert arrived == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "seed": 7, "logprobs": True, "top_logprobs": 5},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"minimum": 1e400}}}},
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"logit_bias": {"5": -100}, "vllm_xargs": {"a": [1, 2.50]}, "return_token_ids": True},
    ],
)
def test_what_a_chat_can_ask_for_passes_byte_for_byte(fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "auto", "messages": [USER], **fields}).encode()
    assert body_for(parse(Endpoint.CHAT, body, WISH), dispatched()) == body


# What the controller is told.


def test_what_does_not_generate_is_one_unit_of_work_and_nothing_is_predicted_for_it() -> None:
    for path in LEAST:
        asked = call(path)
        generates = asked.endpoint.generates
        assert asked.ticket.needs.generates is generates
        if not generates:
            assert (asked.ticket.max_tokens, asked.prompt.text, asked.ticket.prefix) == (1, "", ()), path
        assert asked.ticket.needs.task is asked.endpoint.task


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("/v1/embeddings", Task.EMBED),
        ("/v2/embed", Task.EMBED),
        ("/v1/rerank", Task.RERANK),
        ("/score", Task.SCORE),
        ("/classify", Task.CLASSIFY),
        ("/pooling", Task.POOL),
        ("/v1/audio/translations", Task.TRANSCRIBE),
        ("/tokenize", None),
        ("/v1/messages/count_tokens", None),
        ("/v1/messages", Task.GENERATE),
        ("/v1/responses", Task.GENERATE),
    ],
)
def test_the_task_of_an_endpoint(path: str, task: Task | None) -> None:
    assert call(path).ticket.needs.task is task


def test_a_message_is_read_with_its_system_prompt_tools_and_limit() -> None:
    blocks = [
        {"type": "text", "text": "one"},
        {"type": "image", "source": {"type": "base64", "data": "aaaa", "media_type": "image/png"}},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "two"}]},
    ]
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    asked = call("/v1/messages", system="be brief", messages=[{"role": "user", "content": blocks}], tools=tools)
    assert (asked.prompt.text, asked.prompt.turns, asked.ticket.max_tokens) == ("one\ntwo", 1, 9)
    assert asked.ticket.needs == Needs(tools=True, modalities=frozenset({"image"}))
    assert not call("/v1/messages", tools=tools, tool_choice={"type": "none"}).ticket.needs.tools
    shape = {"format": {"type": "json_schema", "schema": {}}}
    assert call("/v1/messages", output_config=shape).ticket.needs.structured_output


def test_what_tools_gave_back_is_not_what_the_user_said() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "42 rows"}
    messages = [
        {"role": "user", "content": "write a long essay"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [result]},
    ]
    asked = call("/v1/messages", messages=messages)
    assert (asked.prompt.text, asked.prompt.turns) == ("write a long essay", 1)
    assert asked.ticket.prompt_chars > len("write a long essay")


def test_a_response_is_read_with_its_instructions_items_and_limit() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "input_image", "image_url": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "two"},
    ]
    asked = call("/v1/responses", instructions="be brief", input=items, max_output_tokens=4)
    assert (asked.prompt.text, asked.ticket.max_tokens) == ("one", 4)
    assert asked.ticket.needs == Needs(modalities=frozenset({"image"}))
    assert call("/v1/responses", text={"format": {"type": "json_object"}}).ticket.needs.structured_output
    assert not call("/v1/responses", text={"format": {"type": "text"}}).ticket.needs.structured_output


@pytest.mark.parametrize("field", [{"previous_response_id": "resp_1"}, {"background": True}])
def test_what_only_one_worker_could_answer_is_refused_with_what_to_do_instead(field: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        call("/v1/responses", **field)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        501,
        "stateful_responses",
        next(iter(field)),
    )
    assert call("/v1/responses", previous_response_id=None, background=False, store=True)


@pytest.mark.parametrize(
    ("path", "fields", "chars", "tokens", "share"),
    [
        ("/v1/embeddings", {"input": "four"}, 4, None, 1.0),
        ("/v1/embeddings", {"input": ["aaa", "a"]}, 5, None, 0.75),
        ("/v1/embeddings", {"input": ["aaa", "a"], "truncate_prompt_tokens": -1}, 5, None, 0.0),
        ("/v1/embeddings", {"input": [1, 2, 3]}, 0, 3, 1.0),
        ("/v1/embeddings", {"input": [[1, 2, 3], [4]]}, 0, 4, 0.75),
        ("/v1/embeddings", {"input": [USER]}, 5, None, 1.0),
        ("/v1/embeddings", {"input": [[USER], [USER]]}, 11, None, 0.5),
        ("/v1/rerank", {"query": "aa", "documents": ["b", "ccc"]}, 8, None, 0.625),
        ("/v1/rerank", {"query": "aa", "documents": [{"content": [{"text": "b"}]}]}, 3, None, 1.0),
        ("/v1/score", {"queries": ["a", "b"], "documents": ["c", "ddd"]}, 6, None, 4 / 6),
        ("/score", {"text_1": "a", "text_2": ["b", "b"]}, 4, None, 0.5),
        ("/tokenize", {"prompt": "x" * 900}, 0, 0, 0.0),
        ("/pooling", {"input": "x" * 400}, 0, 101, 0.0),
    ],
)
def test_how_much_is_read_and_how_much_of_it_at_once(
    path: str, fields: dict[str, Any], chars: int, tokens: int | None, share: float
) -> None:
    asked = call(path, **fields).ticket
    assert (asked.prompt_chars, asked.prompt_tokens) == (chars, tokens)
    assert asked.needs.share == pytest.approx(share)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/chat/completions/batch", "messages"),
        ("/v1/responses", "input"),
        ("/v1/messages", "messages"),
        ("/v1/embeddings", "input"),
        ("/v2/embed", "texts"),
        ("/v1/rerank", "query"),
        ("/rerank", "documents"),
        ("/v1/score", "queries"),
        ("/classify", "input"),
        ("/tokenize", "model"),
        ("/v1/systemone", "model"),
    ],
)
def test_what_an_endpoint_needs_is_named_when_it_is_missing(path: str, field: str) -> None:
    endpoint = find("POST", path)
    assert endpoint is not None
    body = {"model": "auto", **LEAST.get(path, {})}
    del body[field]
    with pytest.raises(ApiError) as caught:
        parse(endpoint, json.dumps(body).encode(), WISH)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_a_priority_is_read_where_the_endpoint_has_one_and_taken_out_everywhere() -> None:
    with pytest.raises(ApiError):
        call("/v1/embeddings", priority="high")
    odd = call("/v1/systemone", priority="high")
    assert odd.ticket.priority == 0
    assert json.loads(body_for(odd, dispatched(priority=4))) == {"model": "auto"}
