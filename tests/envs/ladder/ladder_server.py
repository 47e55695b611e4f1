"""Stands in, on a real socket, for a vLLM server that serves several models."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.upstream.servers import Exchange

_FIRST_STEP_S = 0.01
"""From the first token to the others, so that they do not come in one piece."""


class LadderServer:
    """A handler that answers each model's prompts from a table, and exactly as many tokens as asked where it must.

    ``fails`` are the models whose requests get a 500.
    """

    def __init__(self, answers: dict[str, dict[str, str]], fails: frozenset[str] = frozenset()) -> None:
        self.answers = answers
        self.fails = fails
        self.asked: list[dict[str, Any]] = []
        self.obeys = True
        """Whether it knows ``ignore_eos``."""

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await exchange.reply_json({"object": "list", "data": [{"id": name} for name in self.answers]})
            return
        body = exchange.json
        self.asked.append(body)
        if body["model"] in self.fails:
            await exchange.reply_json({"error": {"message": "the engine is dead"}}, 500)
            return
        prompt = body["messages"][0]["content"]
        text = self.answers[body["model"]].get(prompt, "dunno hmm")
        exact = body.get("ignore_eos") and self.obeys
        words = ["w "] * body["max_tokens"] if exact else [f"{word} " for word in text.split(" ")]
        await exchange.head(200, "content-type: text/event-stream")
        for place, word in enumerate(words):
            if exact and place == 1:
                await asyncio.sleep(_FIRST_STEP_S)
            await exchange.chunk(_event({"choices": [{"index": 0, "delta": {"content": word}}]}))
        await exchange.chunk(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 3, "completion_tokens": len(words)}
        await exchange.chunk(_event({"choices": [], "model": body["model"], "usage": usage}) + b"data: [DONE]\n\n")
        await exchange.end()


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()
