"""The bodies that clients send, field by field as vLLM checks them; what has no use here is accepted and ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StreamOptions(BaseModel):
    """vLLM's ``stream_options``."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class Body(BaseModel):
    """Fields that chat and plain completions share."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    max_tokens: _Int64 | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: _Int64 | None = None
    ignore_eos: bool = False
    min_tokens: int = 0
    priority: _Int64 = 0
    request_id: str | None = None


class CompletionBody(Body):
    """``/v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    echo: bool | None = False
    logprobs: int | None = None
    suffix: str | None = None


class Part(BaseModel):
    """One part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[Part] | None = None


class ChatBody(Body):
    """``/v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: _Int64 | None = None
    logprobs: bool | None = False


class TokenizeBody(BaseModel):
    """``/tokenize``."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool | None = False


class DetokenizeBody(BaseModel):
    """``/detokenize``."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
