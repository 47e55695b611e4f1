from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import shown


def event(content: Any, name: str = "", end: str = "\n") -> bytes:
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(content)}{end}{end}".encode()


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (chat(content="one"), "one"),
        (chat(role="assistant", content=""), ""),
        (chat(reasoning_content="hm"), "hm"),
        (chat(content=None, reasoning="hm"), "hm"),
        (chat(tool_calls=[{"function": {"arguments": "{}"}}]), ""),
        ({"choices": [{"index": 0, "text": "two"}]}, "two"),
        ({"choices": [], "usage": {"completion_tokens": 3}}, ""),
        ({"type": "response.output_text.delta", "delta": "three"}, "three"),
        ({"type": "response.function_call_arguments.delta", "delta": "{}"}, ""),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "four"}}, "four"),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, "hm"),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, ""),
        ({"choices": ["what?"]}, ""),
        ({"choices": [{"delta": {"content": ["parts"]}}]}, ""),
    ],
)
def test_the_text_of_an_event_is_read_in_every_dialect(content: dict[str, Any], text: str) -> None:
    assert shown(event(content)) == text
    assert shown(event(content, "delta", "\r\n")) == text


def test_what_is_no_json_is_passed_over() -> None:
    events = event(chat(content="a")) + b"data: {broken\n\n" + b": comment\n\n" + event(chat(content="b"))
    assert shown(events + b"data: [DONE]\n\n") == "ab"


@given(st.lists(st.text(), max_size=20), st.integers(0, 20))
def test_what_is_shown_does_not_depend_on_how_the_events_came(texts: list[str], at: int) -> None:
    events = [event(chat(content=text)) for text in texts]
    assert shown(b"".join(events)) == "".join(texts)
    assert shown(b"".join(events[:at])) + shown(b"".join(events[at:])) == "".join(texts)
