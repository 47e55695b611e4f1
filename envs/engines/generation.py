"""What clients may ask of the simulated worker: vLLM's bodies, checked as vLLM checks them, and its errors."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from envs.engines import tokenizer
from envs.engines.bodies import Body, ChatBody, CompletionBody, Message

_REPORTED_ERRORS: Final = 8
BodyT = TypeVar("BodyT", bound=BaseModel)


@dataclass
class ApiError(Exception):
    """A request that is answered with an error in vLLM's shape."""

    status: HTTPStatus
    message: str
    kind: str = "BadRequestError"
    param: str | None = None

    def body(self) -> bytes:
        """The JSON document."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": int(self.status)}
        return orjson.dumps({"error": error})


def bad_request(message: str, param: str | None = None) -> ApiError:
    """A 400 in vLLM's words for what it cannot serve."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, "BadRequestError", param)


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for tokens, checked. ``prompt`` is what an answerer sees: of a chat, the last message's text."""

    id: str
    chat: bool
    model: str
    prompt: str
    prompt_tokens: int
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    priority: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the served model allows."""

    model: str
    max_model_len: int


def read_json(raw: bytes, content_type: str) -> Any:
    """Parse a body.

    Raises:
        ApiError: another content type than JSON, or not JSON.
    """
    if content_type.lower().partition(";")[0].strip() != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(HTTPStatus.BAD_REQUEST, text, HTTPStatus.BAD_REQUEST.phrase)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        text = (
            f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body.{error.pos}', "
            f"'msg': 'JSON decode error', 'ctx': {{'error': {error.msg!r}}}}}"
        )
        raise ApiError(HTTPStatus.BAD_REQUEST, text, HTTPStatus.BAD_REQUEST.phrase, f"body.{error.pos}") from error


def read(schema: type[BodyT], document: Any) -> BodyT:
    """Check a document against a schema.

    Raises:
        ApiError: a field is missing or has the wrong type.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_input=False)
    lines = [f"  {{'type': {e['type']!r}, 'loc': {_where(e)!r}, 'msg': {e['msg']!r}}}" for e in found]
    head = f"{len(found)} validation error{'s' if len(found) > 1 else ''}:"
    text = "\n".join([head, *lines[:_REPORTED_ERRORS]])
    return ApiError(HTTPStatus.BAD_REQUEST, text, HTTPStatus.BAD_REQUEST.phrase, _where(found[0]))


def _where(error: Mapping[str, Any]) -> str:
    return ".".join(("body", *map(str, error["loc"])))


def check_model(asked: str | None, limits: Limits) -> None:
    """Raises ApiError (404) for another model than the one that is served; none asked for means that one."""
    if asked and asked != limits.model:
        text = f"The model `{asked}` does not exist. Valid aliases: {limits.model}."
        raise ApiError(HTTPStatus.NOT_FOUND, text, "NotFoundError", "model")


def completion(document: Any, headers: Mapping[str, str], limits: Limits) -> Generation:
    """Check the body of ``/v1/completions``.

    Raises:
        ApiError: 400 or 404, in vLLM's shape.
    """
    body = read(CompletionBody, document)
    check_model(body.model, limits)
    if body.suffix:
        raise bad_request("suffix is not currently supported", "suffix")
    if body.logprobs or body.echo:
        raise bad_request(
            "the simulated worker has no logprobs and does not echo", "logprobs" if body.logprobs else "echo"
        )
    prompt, prompt_tokens = _prompt(body.prompt)
    max_tokens = 16 if body.max_tokens is None else body.max_tokens
    return _generation(body, headers, limits, chat=False, prompt=prompt, prompt_tokens=prompt_tokens, asked=max_tokens)


def chat(document: Any, headers: Mapping[str, str], limits: Limits) -> Generation:
    """Check the body of ``/v1/chat/completions``.

    Raises:
        ApiError: 400 or 404, in vLLM's shape.
    """
    body = read(ChatBody, document)
    check_model(body.model, limits)
    if body.logprobs:
        raise bad_request("the simulated worker has no logprobs", "logprobs")
    contents = chat_contents(body.messages)
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _generation(
        body,
        headers,
        limits,
        chat=True,
        prompt=contents[-1],
        prompt_tokens=tokenizer.count_chat(contents),
        asked=asked,
    )


def chat_contents(messages: list[Message]) -> list[str]:
    """The text of each message.

    Raises:
        ApiError: no messages, or a part that is not text.
    """
    if not messages:
        raise bad_request("List should have at least 1 item after validation, not 0", "messages")
    return [_content(message) for message in messages]


def _content(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type not in ("text", "input_text", "output_text", "refusal") or part.text is None:
            kind = part.type.removeprefix("input_").removesuffix("_url")
            raise bad_request(f"At most 0 {kind}(s) may be provided in one prompt.", kind)
    return "\n".join(part.text or "" for part in message.content)


def _prompt(prompt: str | list[int] | list[str] | list[list[int]] | None) -> tuple[str, int]:
    if prompt is None or prompt == [] or prompt == "":
        raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, str):
        return prompt, tokenizer.count(prompt)
    if len(prompt) == 1 and not isinstance(prompt[0], int):
        return _prompt(prompt[0])
    ids = [token for token in prompt if isinstance(token, int)]
    if len(ids) != len(prompt):
        raise bad_request("the simulated worker takes one prompt a request", "prompt")
    try:
        return tokenizer.decode(ids), len(ids)
    except ValueError as error:
        raise bad_request(str(error), "prompt") from error


def _generation(
    body: Body,
    headers: Mapping[str, str],
    limits: Limits,
    *,
    chat: bool,
    prompt: str,
    prompt_tokens: int,
    asked: int | None,
) -> Generation:
    if body.stream_options and not body.stream:
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
    if (body.n or 1) != 1:
        raise bad_request("the simulated worker gives one answer a request (n=1)", "n")
    max_tokens = _max_tokens(asked, prompt_tokens, limits)
    if not 0 <= body.min_tokens <= max_tokens:
        text = f"min_tokens must be between 0 and max_tokens={max_tokens}, got {body.min_tokens}."
        raise bad_request(text, "min_tokens")
    options = body.stream_options
    name = headers.get("x-request-id") or body.request_id or uuid.uuid4().hex
    return Generation(
        id=f"{'chatcmpl' if chat else 'cmpl'}-{name}",
        chat=chat,
        model=limits.model,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        stream=bool(body.stream),
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.include_usage and options.continuous_usage_stats),
        priority=_priority(headers, body),
    )


def _max_tokens(asked: int | None, prompt_tokens: int, limits: Limits) -> int:
    """As vLLM 0.32: refused above the model's length, cut to what the prompt leaves of it."""
    most = limits.max_model_len
    if prompt_tokens >= most:
        text = (
            f"This model's maximum context length is {most} tokens. However, your prompt contains {prompt_tokens} "
            "input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise bad_request(text, "input_tokens")
    if asked is not None and asked < 1:
        raise bad_request(f"max_tokens must be at least 1, got {asked}.", "max_tokens")
    if asked is not None and asked > most:
        text = (
            f"max_tokens={asked} cannot be greater than max_model_len=max_total_tokens={most}. "
            "Please request fewer output tokens."
        )
        raise bad_request(text, "max_tokens")
    return min(most - prompt_tokens, most if asked is None else asked)


def _priority(headers: Mapping[str, str], body: Body) -> int:
    """As vLLM 0.32: the header ``X-Vllm-Priority``, where it is a number, overrides the body's field."""
    try:
        return int(headers.get("x-vllm-priority", body.priority))
    except ValueError:
        return body.priority
