from __future__ import annotations

import pytest

from gateway.authorization import bearer, presented, same, unauthorized


@pytest.mark.parametrize("value", ["Bearer k", "bearer k", "BEARER k", b"bEARER  k ", " Bearer k"])
def test_a_bearer_token_whatever_the_case_of_its_scheme(value: str | bytes) -> None:
    assert bearer(value) == "k"


@pytest.mark.parametrize("value", [None, "", b"", "Bearer", "Bearer ", "Basic k", "k", "Bearerk"])
def test_anything_else_is_none(value: str | bytes | None) -> None:
    assert bearer(value) is None


def test_both_ways_to_show_a_key_count() -> None:
    assert presented({b"authorization": b"bearer a", b"x-api-key": b" b "}) == ("a", "b")
    assert presented({b"x-api-key": b"b"}) == ("b",)
    assert presented({b"authorization": b"Basic a", b"x-api-key": b""}) == ()


@pytest.mark.parametrize(
    ("given", "right"), [("secret", True), ("secreT", False), ("", False), (None, False), ("é", False)]
)
def test_tokens_are_compared_whole(given: str | None, right: bool) -> None:
    assert same(given, "secret") is right


def test_the_answer_asks_for_a_bearer_token() -> None:
    headers = dict(unauthorized("no").headers())
    assert headers[b"www-authenticate"] == b'Bearer realm="headway"'
    assert b"connection" not in headers
    assert dict(unauthorized("no", close=True).headers())[b"connection"] == b"close"
