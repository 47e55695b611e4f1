"""The endpoints of a vLLM server that headway itself calls. (What clients ask for goes through the gateway's relay.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from upstream import metrics
from upstream.client import Client
from upstream.errors import ProtocolError, UnexpectedStatus
from upstream.types import Header, Timeouts

__all__ = ["ModelCard", "Tokenized", "VllmClient"]

_BODY_LIMIT = 1 << 24
_JSON: tuple[Header, ...] = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of ``/v1/models``. ``context_length`` is vLLM's ``max_model_len``, in tokens."""

    id: str
    context_length: int | None


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A prompt as the worker's tokenizer sees it."""

    count: int
    context_length: int | None
    tokens: tuple[int, ...]


class VllmClient:
    """One server, through a shared :class:`~upstream.client.Client`. ``url`` is its root, without ``/v1``; ``headers``
    go with every request.

    Every method raises an UpstreamError when the server cannot be reached, and UnexpectedStatus when it says no.
    """

    def __init__(
        self, client: Client, url: str, *, timeouts: Timeouts | None = None, headers: Sequence[Header] = ()
    ) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._headers = tuple(headers)
        self._timeouts = timeouts or Timeouts(connect=2.0, first_byte=5.0, idle=5.0, total=10.0)

    async def health(self) -> bool:
        """Whether the engine lives. An overloaded or hanging engine still says that it does."""
        url = self._url + "/health"
        async with self._client.stream(b"GET", url, headers=self._headers, timeouts=self._timeouts) as response:
            await response.body(_BODY_LIMIT)
            if response.status in (200, 503):
                return response.status == 200
            raise UnexpectedStatus(url, response.status, b"")

    async def one_token(self, model: str, *more: Header) -> None:
        """Have the engine generate one token; ``more`` are further headers. Raises as every method does."""
        body = orjson.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0})
        await self._call(b"POST", "/v1/completions", body, more)

    async def metrics(self) -> metrics.WorkerMetrics:
        """The worker's load. Raises MetricsError if its page has not what headway needs."""
        page = await self._call(b"GET", "/metrics")
        return metrics.parse(page.decode("utf-8", errors="replace"))

    async def models(self) -> tuple[ModelCard, ...]:
        """The models that the server answers for, adapters included."""
        cards = _list(await self._json(b"GET", "/v1/models"), "data", "/v1/models")
        return tuple(ModelCard(str(card["id"]), _integer(card.get("max_model_len"))) for card in cards)

    async def version(self) -> str:
        """The server's version, such as ``0.32.0``."""
        answer = await self._json(b"GET", "/version")
        if not isinstance(answer.get("version"), str):
            raise ProtocolError(f"{self._url}/version answered without a version")
        return str(answer["version"])

    async def tokenize(
        self, model: str, prompt: str | None = None, messages: Sequence[Mapping[str, object]] | None = None
    ) -> Tokenized:
        """Tokens of a plain prompt, or of messages through the model's chat template. Give exactly one of them."""
        if (prompt is None) == (messages is None):
            raise ValueError("give either a prompt or messages")
        what = {"prompt": prompt} if prompt is not None else {"messages": messages}
        answer = await self._json(b"POST", "/tokenize", orjson.dumps({"model": model, **what}))
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not isinstance(answer.get("count"), int):
            raise ProtocolError(f"{self._url}/tokenize answered without tokens and their count")
        return Tokenized(answer["count"], _integer(answer.get("max_model_len")), tuple(tokens))

    async def sleep(self, level: int = 1) -> None:
        """Abort what runs and give the GPU's memory up: level 1 keeps the weights in main memory, 2 drops them.

        This, :meth:`wake` and :meth:`asleep` need a server started with ``--enable-sleep-mode`` and
        ``VLLM_SERVER_DEV_MODE=1``; others answer 404.
        """
        await self._call(b"POST", f"/sleep?level={level}&mode=abort")

    async def wake(self) -> None:
        """Take the memory again; the server answers when it is awake."""
        await self._call(b"POST", "/wake_up")

    async def asleep(self) -> bool:
        """Whether it sleeps."""
        return bool((await self._json(b"GET", "/is_sleeping")).get("is_sleeping"))

    async def _call(self, method: bytes, path: str, body: bytes = b"", more: Sequence[Header] = ()) -> bytes:
        headers = (*self._headers, *more, *_JSON) if body else (*self._headers, *more)
        async with self._client.stream(
            method, self._url + path, headers=headers, body=body, timeouts=self._timeouts
        ) as response:
            answer = await response.body(_BODY_LIMIT)
            if response.status != 200:
                raise UnexpectedStatus(self._url + path, response.status, answer)
            return answer

    async def _json(self, method: bytes, path: str, body: bytes = b"") -> dict[str, Any]:
        raw = await self._call(method, path, body)
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"{self._url}{path} answered with something that is not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ProtocolError(f"{self._url}{path} answered with JSON that is not an object")
        return answer


def _list(answer: dict[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    entries = answer.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise ProtocolError(f"{path} answered without a list {key!r} of entries that have an id")
    return entries


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
