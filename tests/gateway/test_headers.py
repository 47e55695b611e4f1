from __future__ import annotations

import pytest

from controller.types import Dispatch
from gateway.headers import from_worker, request_id, session, to_worker


def dispatch(attempt: int = 1, priority: int | None = None) -> Dispatch:
    return Dispatch("t1", "p", "w", "http://w", "m", priority, attempt)


@pytest.mark.parametrize("given", [b"abc", b"a" * 128, b"{weird}/but:visible"])
def test_a_clients_request_id_is_kept(given: bytes) -> None:
    assert request_id(given, "made") == given


@pytest.mark.parametrize("given", [None, b"", b"a" * 129, b"two words", b"line\nbreak", b"caf\xc3\xa9"])
def test_one_that_cannot_be_a_header_or_a_log_line_is_replaced(given: bytes | None) -> None:
    assert request_id(given, "made") == b"made"


def test_what_belongs_to_the_gateway_stays_there() -> None:
    sent = [
        (b"host", b"x"),
        (b"x-vllm-priority", b"-9"),
        (b"x-headway-tenant", b"t"),
        (b"cookie", b"c"),
        (b"x-a", b"1"),
    ]
    assert to_worker(sent, b"id", dispatch(), keep_key=True) == [(b"x-a", b"1"), (b"x-request-id", b"id")]


def test_a_key_that_names_a_tenant_stays_too() -> None:
    sent = [(b"authorization", b"Bearer k")]
    assert (b"authorization", b"Bearer k") in to_worker(sent, b"id", dispatch(), keep_key=True)
    assert to_worker(sent, b"id", dispatch(), keep_key=False) == [(b"x-request-id", b"id")]


def test_the_gateways_priority_goes_along() -> None:
    assert (b"x-vllm-priority", b"-4") in to_worker([], b"id", dispatch(priority=-4), keep_key=True)


def test_a_further_attempt_has_an_id_of_its_own() -> None:
    assert (b"x-request-id", b"id-2") in to_worker([], b"id", dispatch(attempt=2), keep_key=True)


def test_the_client_learns_who_answered_and_not_how_it_was_framed() -> None:
    got = from_worker([(b"transfer-encoding", b"chunked"), (b"content-type", b"x"), (b"x-a", b"1")], b"id", dispatch())
    assert (b"content-type", b"x") in got
    assert (b"x-a", b"1") in got
    assert (b"x-headway-worker", b"w") in got
    assert b"transfer-encoding" not in dict(got)


@pytest.mark.parametrize("keep_key", [True, False])
def test_the_workers_own_key_goes_in_place_of_whatever_the_client_showed(keep_key: bool) -> None:
    sent = [(b"authorization", b"Bearer k"), (b"x-api-key", b"k")]
    kept = to_worker(sent, b"id", dispatch(), keep_key=keep_key, key=b"Bearer worker")
    assert kept == [(b"x-request-id", b"id"), (b"authorization", b"Bearer worker")]


def test_a_session_is_a_short_visible_word() -> None:
    assert session(None) is None
    assert session(b"agent-7/run:3") == "agent-7/run:3"
    for wrong in (b"", b"two words", b"x" * 129, "ü".encode()):
        with pytest.raises(ValueError, match="X-Headway-Session must be 1 to 128 visible"):
            session(wrong)
