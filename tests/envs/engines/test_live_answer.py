"""A streamed answer is read the same however its bytes are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.engines.live_answer import LiveAnswer
from upstream.errors import ProtocolError

WORDS = ["Zwölf", " is", "", " the\n\nanswer", " \r\n…"]


def stream(end: bytes, *, chat: bool, usage: bool) -> bytes:
    """As vLLM writes it, with this end of a line; one token a word."""

    def event(word: str | None, produced: int, **more: Any) -> dict[str, Any]:
        told = {"usage": {"prompt_tokens": 9, "completion_tokens": produced}} if usage or word is None else {}
        said = {"delta": {"content": word}} if chat else {"text": word}
        return {"choices": [] if word is None else [{"index": 0, **said, **more}], **told}

    opening = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}] if chat else []
    middle = [event(word, i + 1) for i, word in enumerate(WORDS[:-1])]
    last = [event(WORDS[-1], len(WORDS), finish_reason="stop"), event(None, len(WORDS))]
    lines = [b"data: " + json.dumps(one).encode() for one in [*opening, *middle, *last]]
    return b": keep-alive" + 2 * end + b"".join(line + 2 * end for line in [*lines, b"data: [DONE]"])


@given(
    end=st.sampled_from([b"\n", b"\r\n"]),
    chat=st.booleans(),
    usage=st.booleans(),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_cuts_change_nothing(end: bytes, chat: bool, usage: bool, cuts: list[int]) -> None:
    data = stream(end, chat=chat, usage=usage)
    answer = LiveAnswer()
    at = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    counts = [0]
    for moment, (start, stop) in enumerate(pairwise(at)):
        answer.take(data[start:stop], float(moment))
        counts.append(answer.produced)
    assert answer.text == "".join(WORDS)
    assert (answer.produced, answer.prompt_tokens, answer.finish_reason, answer.done) == (5, 9, "stop", True)
    assert counts == sorted(counts)
    assert answer.first_token_at == next(i for i, count in enumerate(counts[1:]) if count)
    assert answer.last_token_at == next(float(i) for i, count in enumerate(counts[1:]) if count == 5)


def test_text_is_kept_only_if_it_is_wanted() -> None:
    answer = LiveAnswer(keep_text=False)
    answer.take(stream(b"\n", chat=True, usage=True), 1.0)
    assert answer.text is None
    assert answer.produced == 5


def test_cached_tokens_are_read_where_they_are_told() -> None:
    answer = LiveAnswer()
    told = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}
    answer.take(b"data: " + json.dumps({"choices": [], "usage": told}).encode() + b"\n\n", 1.0)
    assert answer.cached_tokens == 4


@pytest.mark.parametrize(
    "payload", [b"[]", b"7", b"{}", b'{"choices": [3]}', b'{"choices": [], "usage": {"a": 1}}', b"{"]
)
def test_what_is_not_openai_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="not of OpenAI's form"):
        LiveAnswer().take(b"data: " + payload + b"\n\n", 1.0)
