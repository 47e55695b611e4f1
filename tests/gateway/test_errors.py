from __future__ import annotations

import json

import pytest

from controller.types import Rejected
from gateway.errors import ApiError, Dialect, from_rejected


@pytest.mark.parametrize(
    "status, kind",
    [(400, "invalid_request_error"), (404, "not_found_error"), (429, "rate_limit_error"), (500, "server_error")],
)
def test_the_body_is_openais_error_object(status: int, kind: str) -> None:
    body = json.loads(ApiError(status, "some_code", "what is wrong", param="model").body())
    assert body == {"error": {"message": "what is wrong", "type": kind, "param": "model", "code": "some_code"}}


def test_a_lone_surrogate_of_the_clients_is_written_out() -> None:
    body = json.loads(ApiError(400, "c", "not \ud800").body())
    assert body["error"]["message"] == "not \\ud800"


def test_an_event_is_the_same_object() -> None:
    error = ApiError(502, "c", "m")
    assert error.event() == b"data: " + error.body() + b"\n\n"


def test_a_refusal_keeps_its_status_code_and_time_to_come_back() -> None:
    error = from_rejected(Rejected("t", 429, "queue_full", "full", retry_after=0.2))
    assert (error.status, error.code) == (429, "queue_full")
    assert (b"retry-after", b"1") in error.headers()


def test_an_unknown_model_names_the_parameter() -> None:
    assert from_rejected(Rejected("t", 404, "model_not_found", "no")).param == "model"


def test_a_task_that_a_model_has_not_names_the_parameter() -> None:
    assert from_rejected(Rejected("t", 404, "task_not_supported", "no")).param == "model"


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "invalid_request_error"),
        (405, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_anthropics_error_object_and_event(status: int, kind: str) -> None:
    error = ApiError(status, "some_code", "what is wrong \ud800", param="model")
    body = error.body(Dialect.ANTHROPIC)
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "what is wrong \\ud800"}}
    assert error.event(Dialect.ANTHROPIC) == b"event: error\ndata: " + body + b"\n\n"


def test_further_headers_are_kept() -> None:
    assert (b"allow", b"POST") in ApiError(405, "c", "m", more=[(b"allow", b"POST")]).headers()


def test_a_request_that_was_not_read_ends_its_connection() -> None:
    assert (b"connection", b"close") in ApiError(413, "c", "m", close=True).headers()
