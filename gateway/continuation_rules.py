"""Which requests may be continued on another worker when theirs dies in the middle of the stream, and by what means.

Two means, both of stock vLLM. *Token replay* sends the prompt's and the produced token ids to ``/v1/completions``:
exact, a greedy answer goes on as it would have. *Text* gives the produced text back as the beginning of the answer
(``continue_final_message``), which the worker tokenises anew, so that what follows may differ.

A field that this module does not know is a reason not to continue: nobody can say what its worker would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from gateway.endpoints import Endpoint
from gateway.openai import Call

__all__ = ["CARRIED", "UNKNOWN_FIELD", "Mode", "greedy", "refusal", "stops", "text_refusal"]

UNKNOWN_FIELD = "nothing is known about its field"
"""How a refusal begins that goes on with a client's own words."""


class Mode(StrEnum):
    """What the gateway keeps of a stream, so as to continue it."""

    OFF = "off"
    """Nothing; a worker's death ends the stream with an error event."""
    TEXT = "text"
    """The text. Costs nothing until a worker dies; the continuation may differ from what would have come."""
    TOKENS = "tokens"
    """The token ids, which the worker is asked for (``return_token_ids``) and which are taken out of every event."""


CARRIED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logit_bias",
    "allowed_token_ids",
    "cache_salt",
    "session_id",
    "stream_interval",
    "user",
)
"""Fields that say how tokens are chosen and shown, with the same meaning in chat and in completions. A repetition
penalty counts the prompt's tokens and the answer's alike, so it does not notice the replay."""
_PROMPT = frozenset(
    {
        "messages",
        "prompt",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "reasoning_effort",
        "truncate_prompt_tokens",
        "truncation_side",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "parallel_tool_calls",
    }
)
"""Fields that make the prompt; the prompt's token ids have them in."""
_SETTLED = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "priority",
        "request_id",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "return_prompt_text",
        "length_penalty",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
    }
)
"""Fields that the gateway writes anew, or that say nothing about the tokens."""
_ONLY_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logprob_token_ids": ([],),
    "echo": (False,),
    "suffix": ("",),
    "prompt_embeds": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "bad_words": ([],),
    "thinking_token_budget": (),
    "repetition_detection": (),
    "watermarking": (False,),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "ec_transfer_params": (),
}
"""Fields with the values (besides null) that leave a stream continuable. Others count what the answer has held so far
(penalties, bad words of several tokens, budgets), show more than text, or hide tokens."""
_KNOWN = frozenset(CARRIED) | _PROMPT | _SETTLED | {"response_format", "structured_outputs"}


def refusal(call: Call) -> str | None:
    """Why a stream of this request cannot be continued by any means; ``None`` if it can."""
    if call.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS) or not call.streams:
        return "it is no stream of a chat or a completion"
    needs, fields = call.ticket.needs, call.document.fields
    if needs.structured_output:
        return "its output is structured"
    if needs.tools:
        return "it may call tools"
    for name, value in fields.items():
        if value is None or name in _KNOWN:
            continue
        plain = _ONLY_PLAIN.get(name)
        if plain is None:
            return f"{UNKNOWN_FIELD} {name[:40]!r}"
        if not any(value == allowed and isinstance(value, bool) is isinstance(allowed, bool) for allowed in plain):
            return f"it has {name}"
    if fields.get("seed") is not None and not greedy(fields):
        return "its samples are drawn from a seed"
    return None if call.endpoint is Endpoint.CHAT else _prompt_refusal(fields.get("prompt"))


def text_refusal(call: Call) -> str | None:
    """Why a continuable stream cannot be continued from its text."""
    fields = call.document.fields
    if fields.get("truncate_prompt_tokens") is not None:
        return "its prompt is truncated"
    if call.endpoint is Endpoint.COMPLETIONS:
        return None if isinstance(fields.get("prompt"), str) else "its prompt is no text"
    if fields.get("continue_final_message"):
        last = fields["messages"][-1]
        if isinstance(last.get("content"), str) and last.get("role") == "assistant":
            return None
        return "it continues a message that is no text"
    return "it asks for no generation prompt" if fields.get("add_generation_prompt") is False else None


def greedy(fields: Mapping[str, Any]) -> bool:
    """Whether the same tokens come again when the same position is generated again."""
    return fields.get("temperature") == 0 and type(fields["temperature"]) is not bool


def stops(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The request's stop strings."""
    given = fields.get("stop")
    found = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return tuple([stop for stop in found if isinstance(stop, str) and stop])


def _prompt_refusal(prompt: object) -> str | None:
    if isinstance(prompt, str):
        return None
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return None
    return "it has several prompts"
