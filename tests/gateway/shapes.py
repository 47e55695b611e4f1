"""Answers in the shapes that vLLM 0.32 gives them, for workers that answer as their test says.

Copied from vLLM's protocol classes (``vllm.entrypoints.{openai,anthropic,pooling}``); ``tests/gateway/test_clients.py``
holds them to the official clients' types, too.
"""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.harness import DONE, USAGE, begin, event, usage_event
from tests.upstream.servers import Exchange

TEXT = "Hello you"
PIECES = ("Hel", "lo", " you")
MODEL = "p-model"


def chat_answer() -> dict[str, Any]:
    """A chat's answer."""
    message: dict[str, Any] = {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


def completion_answer() -> dict[str, Any]:
    """A completion's answer."""
    choice = {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


def embeddings_answer() -> dict[str, Any]:
    """Two vectors."""
    data = [{"index": i, "object": "embedding", "embedding": [0.5, -0.25]} for i in range(2)]
    usage = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": "embd-1", "object": "list", "created": 1, "model": MODEL, "data": data, "usage": usage}


def rerank_answer() -> dict[str, Any]:
    """Two documents, the second more relevant."""
    results = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": score}
        for index, text, score in ((1, "b", 0.9), (0, "a", 0.1))
    ]
    return {"id": "rerank-1", "model": MODEL, "usage": {"prompt_tokens": 7, "total_tokens": 7}, "results": results}


def message_answer() -> dict[str, Any]:
    """A message, as vLLM writes it without what is null."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": TEXT}],
        "model": MODEL,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }


def message_events() -> bytes:
    """The same as a stream."""
    message = {**message_answer(), "content": [], "stop_reason": None, "stop_sequence": None}
    start = {"type": "message_start", "message": {**message, "usage": {"input_tokens": 7, "output_tokens": 0}}}
    block = {"index": 0, "type": "content_block_start", "content_block": {"type": "text", "text": ""}}
    deltas = [
        {"index": 0, "type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    stop = {"index": 0, "type": "content_block_stop"}
    return _named([start, block, *deltas, stop, end, {"type": "message_stop"}])


def response_answer(status: str = "completed") -> dict[str, Any]:
    """A response; one that is not completed has neither output nor usage yet."""
    done = status == "completed"
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0},
        "total_tokens": 10,
    }
    return {
        "id": "resp_1",
        "created_at": 1,
        "incomplete_details": None,
        "instructions": None,
        "metadata": None,
        "model": MODEL,
        "object": "response",
        "output": [_item("completed", [_part(TEXT)])] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": 100,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": usage if done else None,
        "user": None,
    }


def response_events() -> bytes:
    """The same as a stream; it has no ``[DONE]``."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response_answer("in_progress")},
        {"type": "response.in_progress", "response": response_answer("in_progress")},
        {"type": "response.output_item.added", "item": _item("in_progress", []), "output_index": 0},
        {"type": "response.content_part.added", "part": _part(""), **place},
        *({"type": "response.output_text.delta", "delta": piece, "logprobs": [], **place} for piece in PIECES),
        {"type": "response.output_text.done", "text": TEXT, "logprobs": [], **place},
        {"type": "response.content_part.done", "part": _part(TEXT), **place},
        {"type": "response.output_item.done", "item": _item("completed", [_part(TEXT)]), "output_index": 0},
        {"type": "response.completed", "response": response_answer()},
    ]
    return _named([{**one, "sequence_number": number} for number, one in enumerate(events)])


def _item(status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content, "phase": None}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


def _named(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events)


ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": chat_answer(),
    "/v1/completions": completion_answer(),
    "/v1/embeddings": embeddings_answer(),
    "/v1/rerank": rerank_answer(),
    "/v2/rerank": rerank_answer(),
    "/rerank": rerank_answer(),
    "/v1/messages": message_answer(),
    "/v1/messages/count_tokens": {"input_tokens": 7, "context_management": {"original_input_tokens": 7}},
    "/v1/responses": response_answer(),
    "/tokenize": {"count": 2, "max_model_len": 8192, "tokens": [1, 2], "token_strs": None},
    "/detokenize": {"prompt": "hello"},
    "/v1/audio/transcriptions": {"text": "hello", "usage": {"type": "duration", "seconds": 2}},
}
STREAMS = {
    "/v1/chat/completions": b"".join(map(event, PIECES)) + usage_event() + DONE,
    "/v1/messages": message_events(),
    "/v1/responses": response_events(),
}


async def vllm(exchange: Exchange) -> None:
    """Answers every path above as vLLM would."""
    path = exchange.path
    form = exchange.headers.get("content-type", "").startswith("multipart/")
    if path not in ANSWERS:
        error = {"message": "Not Found", "type": "NotFoundError", "param": None, "code": 404}
        await exchange.reply_json({"error": error}, 404)
    elif not form and exchange.json.get("stream"):
        await begin(exchange)
        await exchange.chunk(STREAMS[path])
        await exchange.end()
    else:
        await exchange.reply_json(ANSWERS[path])
