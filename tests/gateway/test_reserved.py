"""Nothing that only the gateway may set comes through from a client, at any endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.types import Dispatch
from gateway.endpoints import LISTED, Endpoint, find
from gateway.errors import ApiError
from gateway.headers import from_worker, to_worker
from gateway.isolation import CacheKey
from gateway.openai import Call, Wish, body_for, parse


def at(path: str) -> Endpoint:
    endpoint = find("POST", path)
    assert endpoint is not None
    return endpoint


CHAT, COMPLETIONS, OTHER = at("/v1/chat/completions"), at("/v1/completions"), at("/v1/something/new")
RESPONSES, MESSAGES = at("/v1/responses"), at("/v1/messages")
ENDPOINTS = (*LISTED, OTHER)
WISH = Wish("t1", "team", lowest_priority=-2, highest_priority=5, deadline=None)
HELLO = [{"role": "user", "content": "hello"}]
ASKED = {
    "model": "auto",
    "messages": HELLO,
    "prompt": "hello",
    "input": "hello",
    "query": "hello",
    "documents": ["hello"],
    "texts": ["hello"],
    "text_1": "a",
    "text_2": "b",
    "tokens": [1],
}
BY_PATH = {"/v1/chat/completions/batch": {"messages": [HELLO]}}


def named(endpoint: Endpoint) -> str:
    return endpoint.path


def asked(endpoint: Endpoint, wish: Wish = WISH, **fields: Any) -> Call:
    body = {**ASKED, **BY_PATH.get(endpoint.path, {}), **fields}
    return parse(endpoint, json.dumps(body).encode(), wish)


def sent(call: Call, priority: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(body_for(call, Dispatch("t1", "p", "w", "http://w", "auto", priority, 1)))
    return body


# Headers.


@pytest.mark.parametrize(
    "name",
    [
        b"x-vllm-priority",
        b"x-data-parallel-rank",
        b"x-headway-tenant",
        b"x-headway-deadline-ms",
        b"x-headway-ticket",
        b"x-headway-pool",
        b"x-headway-worker",
        b"x-headway-anything",
        b"x-request-id",
        b"cookie",
        b"host",
        b"transfer-encoding",
    ],
)
def test_a_clients_header_of_this_name_goes_nowhere(name: bytes) -> None:
    dispatch = Dispatch("t1", "p", "w", "http://w", "m", None, 1)
    assert (name, b"-99") not in to_worker([(name, b"-99")], b"id", dispatch, keep_key=True)


def test_a_worker_cannot_speak_for_the_gateway_either() -> None:
    dispatch = Dispatch("t1", "p", "w", "http://w", "m", None, 1)
    answer = from_worker([(b"x-headway-worker", b"another"), (b"x-headway-new", b"1")], b"id", dispatch)
    assert [value for name, value in answer if name == b"x-headway-worker"] == [b"w"]
    assert b"x-headway-new" not in dict(answer)


# Members.


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_a_priority_is_a_wish_within_the_tenants_range(endpoint: Endpoint) -> None:
    for wished, clamped in ((-99, -2), (99, 5), (1, 1)):
        call = asked(endpoint, priority=wished)
        assert call.ticket.priority == clamped
        assert "priority" not in sent(call)
        if endpoint.takes_priority:
            assert sent(call, priority=7)["priority"] == 7
    spelt = json.dumps({**ASKED, **BY_PATH.get(endpoint.path, {})}).replace('"model"', '"pri\\u006frity":-99,"model"')
    assert "priority" not in sent(parse(endpoint, spelt.encode(), WISH)), "however it is spelt"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_where_a_worker_fetches_its_cache_from_is_no_clients_business(endpoint: Endpoint) -> None:
    assert "kv_transfer_params" not in sent(asked(endpoint, kv_transfer_params={"remote_host": "10.0.0.1"}))


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_an_isolated_tenants_cache_has_a_salt_made_from_its_own(endpoint: Endpoint) -> None:
    key = CacheKey(bytes(32), "team")
    isolated = WISH._replace(cache_key=key)
    assert sent(asked(endpoint, isolated))["cache_salt"] == key.salt()
    assert sent(asked(endpoint, isolated, cache_salt="own"))["cache_salt"] == key.salt("own")
    assert sent(asked(endpoint, isolated, cache_salt=None))["cache_salt"] == key.salt()
    assert sent(asked(endpoint, cache_salt="own"))["cache_salt"] == "own"
    assert "cache_salt" not in sent(asked(endpoint))


def test_the_salt_keeps_prefixes_apart_for_placement_too() -> None:
    long = [{"role": "user", "content": "x" * 600}]
    wishes = [WISH, *(WISH._replace(cache_key=CacheKey(bytes(32), name)) for name in "ab")]
    prefixes = [asked(CHAT, wish, messages=long).ticket.prefix for wish in wishes]
    assert len(set(prefixes)) == 3
    assert asked(CHAT, wishes[1], messages=long, cache_salt="own").ticket.prefix not in prefixes


def test_whoever_starts_from_the_request_starts_from_what_may_go_on() -> None:
    """A stream that is continued elsewhere is a request built anew from the first one's members."""
    wish = WISH._replace(cache_key=CacheKey(bytes(32), "team"), longest_answer=10)
    document = asked(CHAT, wish, priority=1, kv_transfer_params={}, cache_salt="own", user="u").document
    assert document.fields == json.loads(document.body)
    assert document.fields["max_completion_tokens"] == 10
    assert document.fields["cache_salt"] == CacheKey(bytes(32), "team").salt("own")
    assert document.fields["user"] == "u"
    assert not {"priority", "kv_transfer_params"} & set(document.fields)


# The longest answer.


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_no_endpoint_takes_a_longer_answer_than_the_tenant_may_have(endpoint: Endpoint, name: str) -> None:
    limited = WISH._replace(longest_answer=10)
    with pytest.raises(ApiError) as caught:
        asked(endpoint, limited, **{"max_tokens": 5, name: 11})
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "max_tokens_exceeded", name)
    assert "10 tokens at most" in error.message
    assert sent(asked(endpoint, limited, **{"max_tokens": 5, name: 10}))[name] == 10


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(CHAT, "max_completion_tokens"), (COMPLETIONS, "max_tokens"), (RESPONSES, "max_output_tokens")],
)
def test_a_request_that_does_not_say_gets_the_longest(endpoint: Endpoint, name: str) -> None:
    limited = WISH._replace(longest_answer=10)
    for fields in ({}, {name: None}):
        call = asked(endpoint, limited, **fields)
        assert call.ticket.max_tokens == call.prompt.max_tokens == 10
        assert sent(call)[name] == 10


def test_the_workers_own_default_stays_where_it_is_within_the_limit() -> None:
    call = asked(COMPLETIONS, WISH._replace(longest_answer=100))
    assert call.ticket.max_tokens == 16
    assert "max_tokens" not in sent(call)


def test_what_does_not_generate_is_given_no_limit() -> None:
    assert "max_tokens" not in sent(asked(at("/v1/embeddings"), WISH._replace(longest_answer=10)))


# Sizes.


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_a_ticket_knows_what_its_request_weighs(endpoint: Endpoint) -> None:
    body = json.dumps({**ASKED, **BY_PATH.get(endpoint.path, {})}).encode()
    assert parse(endpoint, body, WISH).ticket.body_bytes == len(body)


def test_several_answers_are_counted() -> None:
    assert asked(CHAT, n=3).ticket.answers == 3
    assert asked(CHAT, n=5000).ticket.answers == 5000
    for strange in (None, 0, -1, 10**9, "3", True, 1.5):
        assert asked(MESSAGES, n=strange).ticket.answers == 1
    for no_count in (None, 0, -1):
        assert asked(CHAT, n=no_count).ticket.answers == 1
    for what_workers_might_take_for_one in ("64", 64.0, True):
        with pytest.raises(ApiError):
            asked(CHAT, n=what_workers_might_take_for_one)


def test_what_a_worker_is_told_to_fetch_cannot_come_in_by_a_side_door() -> None:
    assert b"ec_transfer_params" not in asked(CHAT, ec_transfer_params={"host": "x"}).document.body
    with pytest.raises(ApiError) as caught:
        asked(CHAT, vllm_xargs={"kv_transfer_params": "x"})
    assert (caught.value.status, caught.value.code) == (400, "reserved_field")
    with pytest.raises(ApiError, match="must not hold kv_cache_report_mode"):
        asked(CHAT, vllm_xargs={"kv_cache_report_mode": "full"})
    assert b"vllm_xargs" in asked(CHAT, vllm_xargs={"mine": 1}).document.body


def test_a_negative_limit_is_none() -> None:
    with pytest.raises(ApiError) as caught:
        asked(CHAT, WISH._replace(longest_answer=100), max_tokens=-1)
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=named)
def test_depth_is_limited(endpoint: Endpoint) -> None:
    shallow = WISH._replace(max_depth=8)
    deep: Any = "x"
    for _ in range(8):
        deep = [deep]
    with pytest.raises(ApiError) as caught:
        asked(endpoint, shallow, metadata=deep)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert "8 brackets inside each other" in caught.value.message
    asked(endpoint, shallow, metadata=deep[0])
