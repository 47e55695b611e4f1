"""How an answer is cut, stretched and written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from envs.engines.generation import Generation
from envs.engines.reply import Chunks, compose, whole

REQUEST = Generation(
    id="cmpl-1",
    chat=False,
    model="m",
    prompt="p",
    prompt_tokens=3,
    max_tokens=10,
    min_tokens=0,
    ignore_eos=False,
    stop=(),
    stream=True,
    include_usage=True,
    continuous_usage=True,
    priority=0,
)


class Says:
    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    def answer(self, prompt: str, max_tokens: int | None = None, /) -> list[str]:
        return list(self.tokens[:max_tokens])


@pytest.mark.parametrize(
    "fields, said, text, reason, stop",
    [
        ({}, ("a", " b"), "a b", "stop", None),
        ({"max_tokens": 2}, ("a", " b"), "a b", "stop", None),
        ({"max_tokens": 2}, ("a", " b", " c"), "a b", "length", None),
        ({"max_tokens": 4, "ignore_eos": True}, ("a", " b"), "a ba b", "length", None),
        ({"min_tokens": 3}, ("a", " b"), "a ba", "stop", None),
        ({}, (), " …", "stop", None),
        ({"stop": ("b c",)}, ("a", " b", " c", " d"), "a ", "stop", "b c"),
        ({"stop": ("zzz", "d", "c")}, ("a", " b", " c", " d"), "a b ", "stop", "c"),
        ({"stop": ("d",), "max_tokens": 3}, ("a", " b", " c", " d"), "a b c", "length", None),
        ({"stop": ("",)}, ("a",), "a", "stop", None),
    ],
)
def test_answers_end_where_they_should(
    fields: dict[str, Any], said: tuple[str, ...], text: str, reason: str, stop: str | None
) -> None:
    reply = compose(replace(REQUEST, **fields), Says(*said))
    assert ("".join(reply.tokens), reply.finish_reason, reply.stop_reason) == (text, reason, stop)


def test_the_token_that_completes_a_stop_string_is_spent() -> None:
    reply = compose(replace(REQUEST, stop=("b c",)), Says("a", " b", " c", " d"))
    assert reply.tokens == ("a", " ", "")


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_cut_anywhere_is_the_same_stream(chat: bool) -> None:
    request = replace(REQUEST, chat=chat)
    reply = compose(request, Says(*["say", '"hi"\n→', "ü"]))
    chunks = Chunks(request, reply, 7)
    count = len(reply.tokens)
    at_once = chunks.tokens(0, count)
    assert at_once == b"".join(chunks.tokens(i, i + 1) for i in range(count))
    documents = [orjson.loads(line[6:]) for line in at_once.decode().strip().split("\n\n")]
    choices = [document["choices"][0] for document in documents]
    texts = [choice["delta"]["content"] if chat else choice["text"] for choice in choices]
    assert texts == list(reply.tokens)
    assert [choice["finish_reason"] for choice in choices] == [None] * (count - 1) + ["stop"]
    assert {document["created"] for document in documents} == {7}


def test_the_whole_answer_counts_its_tokens() -> None:
    reply = compose(REQUEST, Says("a", "b"))
    assert orjson.loads(whole(REQUEST, reply, 7))["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
    }
