from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.nesting import deeper_than

LEAVES = st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a', max_size=6)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.integers(1, 8))
def test_it_tells_the_depth_of_whatever_json(fields: dict[str, Any], limit: int) -> None:
    assert deeper_than(limit, json.dumps(fields).encode(), fields) == (depth(fields) > limit)


@pytest.mark.parametrize("levels", [99, 100, 101, 450])
def test_at_the_limit(levels: int) -> None:
    body = b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    assert deeper_than(100, body, json.loads(body)) == (levels > 100)


def test_brackets_in_text_do_not_count() -> None:
    body = json.dumps({"a": "[{" * 1000}).encode()
    assert not deeper_than(3, body, json.loads(body))
