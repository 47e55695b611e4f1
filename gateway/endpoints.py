"""The endpoints that are relayed: one row each, which parser, relay and OpenAPI document go by.

Listed are those of vLLM that belong to a client. Any other ``POST /v1/…`` passes to the pool that its ``model`` names,
unread; what belongs to a worker's operator (``/sleep``, ``/collective_rpc``, adapters to load, …) never does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Final

from controller.types import Task
from gateway import reading
from gateway.errors import Dialect

__all__ = ["LISTED", "OTHER", "Endpoint", "Stateful", "dialect_of", "find", "target"]

COMPLETION_MAX_TOKENS: Final = 16
"""What OpenAI and vLLM take for ``/v1/completions`` without ``max_tokens``."""


class Stateful(StrEnum):
    """Members that only the worker which stored the response before could serve."""

    PREVIOUS_RESPONSE = "previous_response_id"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One path, and what the gateway has to know about its requests and answers."""

    CHAT: ClassVar[Endpoint]
    COMPLETIONS: ClassVar[Endpoint]
    RESPONSES: ClassVar[Endpoint]
    MESSAGES: ClassVar[Endpoint]

    path: str
    summary: str
    read: reading.Reader
    task: Task | None
    """What a pool must be able to do; ``None`` for what every pool can."""
    limits: tuple[str, ...] = ()
    """Members that limit the answer's tokens; the first that is not null counts."""
    default_limit: int | None = None
    """Tokens, where no such member is given at all."""
    streams: bool = False
    """It may answer with events."""
    usage_option: bool = False
    """Its streams tell their usage only if ``stream_options`` asks for it."""
    takes_priority: bool = True
    """The worker reads ``priority`` from the body; it reads the header anyway."""
    form: bool = False
    """The body may be a form (``multipart/form-data``)."""
    stateful: tuple[Stateful, ...] = ()
    """Members that are refused."""
    dialect: Dialect = Dialect.OPENAI
    required: tuple[str, ...] = ("model",)
    members: Mapping[str, Any] = field(default_factory=dict)
    """JSON schemas of further members that matter to the gateway."""
    generates: bool = field(init=False)
    """Whether tokens come out, so that its requests are ranked, and may choose a tier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "generates", self.task is Task.GENERATE)


_TEXTS = {"type": ["string", "array", "null"]}
_CHATS = {"type": "array", "minItems": 1, "items": {"type": "object"}}
_INTEGER = {"type": ["integer", "null"]}
_OBJECT = {"type": ["object", "null"]}
_ARRAY = {"type": ["array", "null"]}
_TOOLS = {"tools": _ARRAY, "tool_choice": {}}
_STREAM = {"stream": {"type": ["boolean", "null"]}}
_OPTIONS = {**_STREAM, "stream_options": _OBJECT}

Endpoint.CHAT = Endpoint(
    "/v1/chat/completions",
    "Chat completion",
    reading.chat,
    Task.GENERATE,
    ("max_completion_tokens", "max_tokens"),
    streams=True,
    usage_option=True,
    required=("model", "messages"),
    members={
        **_OPTIONS,
        **_TOOLS,
        "messages": _CHATS,
        "max_tokens": _INTEGER,
        "max_completion_tokens": _INTEGER,
        "response_format": _OBJECT,
    },
)
Endpoint.COMPLETIONS = Endpoint(
    "/v1/completions",
    "Text completion",
    reading.completion,
    Task.GENERATE,
    ("max_tokens",),
    COMPLETION_MAX_TOKENS,
    streams=True,
    usage_option=True,
    members={**_OPTIONS, "prompt": _TEXTS, "prompt_embeds": {}, "max_tokens": _INTEGER},
)
Endpoint.RESPONSES = Endpoint(
    "/v1/responses",
    "Response",
    reading.input_items,
    Task.GENERATE,
    ("max_output_tokens",),
    streams=True,
    stateful=(Stateful.PREVIOUS_RESPONSE, Stateful.BACKGROUND),
    required=("model", "input"),
    members={
        **_STREAM,
        **_TOOLS,
        "input": {"type": ["string", "array"]},
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": _INTEGER,
        "text": _OBJECT,
    },
)
Endpoint.MESSAGES = Endpoint(
    "/v1/messages",
    "Message, in Anthropic's shape",
    reading.messages,
    Task.GENERATE,
    ("max_tokens",),
    streams=True,
    takes_priority=False,
    dialect=Dialect.ANTHROPIC,
    required=("model", "messages", "max_tokens"),
    members={
        **_STREAM,
        **_TOOLS,
        "messages": _CHATS,
        "system": _TEXTS,
        "max_tokens": {"type": "integer"},
        "output_config": _OBJECT,
    },
)
OTHER: Final = Endpoint(
    "/v1/{path}",
    "Anything else that the workers of the named model serve",
    reading.anything,
    None,
    streams=True,
    takes_priority=False,
    form=True,
)
"""The row of the paths that are not listed."""


def _pooling(path: str, summary: str, read: reading.Reader, task: Task, *required: str, **members: Any) -> Endpoint:
    return Endpoint(path, summary, read, task, required=("model", *required), members=members)


def _ranked(path: str) -> Endpoint:
    members: dict[str, Any] = {"query": {}, "documents": {"type": ["array", "string", "object"]}, "top_n": _INTEGER}
    return _pooling(path, "Documents by relevance", reading.ranking, Task.RERANK, "query", "documents", **members)


def _scored(path: str) -> Endpoint:
    return _pooling(path, "Scores of pairs", reading.pairs, Task.SCORE, queries={}, documents={}, text_1={}, text_2={})


def _speech(path: str, summary: str) -> Endpoint:
    return Endpoint(path, summary, reading.nothing, Task.TRANSCRIBE, streams=True, takes_priority=False, form=True)


def _uncounted(path: str, summary: str, *required: str, **more: Any) -> Endpoint:
    names = ("model", *required)
    return Endpoint(path, summary, reading.nothing, None, takes_priority=False, required=names, **more)


LISTED: Final = (
    Endpoint.CHAT,
    Endpoint(
        "/v1/chat/completions/batch",
        "Several chat completions at once",
        reading.chats,
        Task.GENERATE,
        ("max_completion_tokens", "max_tokens"),
        required=("model", "messages"),
        members={"messages": {"type": "array", "minItems": 1, "items": _CHATS}, "max_tokens": _INTEGER},
    ),
    Endpoint.COMPLETIONS,
    Endpoint.RESPONSES,
    Endpoint.MESSAGES,
    _uncounted(
        "/v1/messages/count_tokens",
        "Tokens of a message, in Anthropic's shape",
        "messages",
        dialect=Dialect.ANTHROPIC,
        members={"messages": _CHATS, "system": _TEXTS},
    ),
    _pooling("/v1/embeddings", "Embeddings", reading.embedding, Task.EMBED, input=_TEXTS, messages=_ARRAY),
    _pooling("/v2/embed", "Embeddings, in Cohere's shape", reading.texts, Task.EMBED, texts=_ARRAY, images=_ARRAY),
    _ranked("/v1/rerank"),
    _ranked("/v2/rerank"),
    _ranked("/rerank"),
    _scored("/v1/score"),
    _scored("/score"),
    _pooling("/classify", "Classes", reading.embedding, Task.CLASSIFY, input=_TEXTS, messages=_ARRAY),
    Endpoint(
        "/pooling",
        "Hidden states",
        reading.anything,
        Task.POOL,
        members={"input": _TEXTS, "messages": _ARRAY, "data": {}},
    ),
    Endpoint(
        "/generative_scoring",
        "Scores of items by the probabilities of label tokens",
        reading.anything,
        None,
        takes_priority=False,
    ),
    _speech("/v1/audio/transcriptions", "Speech to text"),
    _speech("/v1/audio/translations", "Speech to English text"),
    _uncounted("/tokenize", "Token ids of a text or a chat", members={"prompt": _TEXTS, "messages": _ARRAY}),
    _uncounted("/detokenize", "Text of token ids", "tokens", members={"tokens": {"type": "array"}}),
)
"""Every path with a shape that the gateway knows."""

_TABLE: Final = {endpoint.path: endpoint for endpoint in LISTED}
_PATH: Final = re.compile(r"/v1(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_OURS: Final = re.compile(r"/v1/(models|realtime)(/.*)?|/v1/responses/(?!render$).*")
"""Not relayed: what the gateway answers itself, and what only one worker could answer."""
_BELOW_MESSAGES: Final = Endpoint.MESSAGES.path + "/"
_QUERY: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:@/?%\[\]-]{1,2048}")
_OPERATORS: Final = re.compile(
    r".*/(?:(?:un)?load_lora_adapter|sleep|wake_up|is_sleeping|release_\w+|reset_\w+_cache|flush_cache|collective_rpc"
    r"|server_info|pause|resume|is_paused|abort_requests|(?:start|stop)_profile|\w*elastic_ep|\w*weights?(?:_\w+)?)(?:/.*)?"
)
"""Segments that mean a worker's operator, wherever a server has them."""


def find(method: str, path: str) -> Endpoint | None:
    """What is relayed at this path (decoded, without the query); ``None`` where nothing is.

    A listed path is found for any method, so that the relay can say which one it takes.
    """
    listed = _TABLE.get(path)
    if listed is not None:
        return listed
    if method != "POST" or not _PATH.fullmatch(path) or _OURS.fullmatch(path):
        return None
    return None if _OPERATORS.fullmatch(path) else _other(path)


def target(endpoint: Endpoint, query: bytes) -> str:
    """What to ask a worker for: the path, with the client's query where it is one."""
    return f"{endpoint.path}?{query.decode()}" if query and _QUERY.fullmatch(query) else endpoint.path


def dialect_of(path: str) -> Dialect:
    """Whose shape errors have at this path, whatever is or is not there."""
    return Dialect.ANTHROPIC if path == Endpoint.MESSAGES.path or path.startswith(_BELOW_MESSAGES) else Dialect.OPENAI


def _other(path: str) -> Endpoint:
    return replace(OTHER, path=path, dialect=dialect_of(path))
