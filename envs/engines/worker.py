"""The simulated worker: a raw ASGI application that looks like ``vllm serve`` and takes as long as a profile says.

Every ASGI server can run it; it needs nothing but an event loop. Unlike vLLM it does without a model: an
:class:`Answerer` writes the answers, and a :class:`SimEngine` in real time decides when their tokens come. Of vLLM's
options it takes ``--max-num-seqs``, ``--scheduling-policy`` (both through the engine) and ``--max-num-queued-reqs``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from envs.engines import exposition, generation, tokenizer
from envs.engines.base import EnginePhase, EventKind
from envs.engines.bodies import DetokenizeBody, TokenizeBody
from envs.engines.generation import ApiError, Generation, Limits
from envs.engines.realtime import RealTimeEngine, Stream
from envs.engines.reply import Answerer, Chunks, Reply, compose, whole
from envs.engines.sequence import SchedulingPolicy
from envs.engines.sim import SimEngine
from predictors.latency.model import Profile

VERSION: Final = "0.32.0"
"""The version of vLLM whose surface this is."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_TEXT: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_NOT_SIMULATED: Final = frozenset(
    {
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/chat/completions/batch",
        "/v1/embeddings",
        "/v2/embed",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/v1/score",
        "/score",
        "/classify",
        "/pooling",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    }
)
_WITHOUT: Final = "it has no model, so it makes up neither vectors nor scores, and speaks OpenAI's two older APIs only"
_LOOK_S: Final = 0.005
_BUSY: Final = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)


class ClientLeft(Exception):
    """The client closed the connection before its answer was complete."""


class SimWorker:
    """The application. ``model`` is the name it serves under; the profile's own by default.

    ``max_num_queued_reqs`` bounds the requests in flight, running and waiting, above which it answers 503.
    ``sleep_mode`` adds the endpoints that vLLM has with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``.
    """

    def __init__(
        self,
        profile: Profile,
        answerer: Answerer,
        *,
        model: str | None = None,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        max_num_queued_reqs: int | None = None,
        sleep_mode: bool = False,
    ) -> None:
        self.profile = profile
        self.answerer = answerer
        self.limits = Limits(model or profile.model, profile.max_model_len)
        self.policy = policy
        self.max_num_queued_reqs = max_num_queued_reqs
        self.statistics = exposition.WorkerStatistics()
        self._created = int(time.time())
        self._serving = 0
        self._realtime: RealTimeEngine | None = None
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/load"): self._load,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }
        if sleep_mode:
            self._routes |= {
                ("POST", "/sleep"): self._sleep,
                ("POST", "/wake_up"): self._wake,
                ("GET", "/is_sleeping"): self._is_sleeping,
            }

    @property
    def engine(self) -> RealTimeEngine:
        """The engine, started with the first use inside the event loop."""
        if self._realtime is None:
            self._realtime = RealTimeEngine(SimEngine(self.profile, policy=self.policy, stream=True))
        return self._realtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.engine.warm()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._realtime is not None:
            self._realtime.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"]))
        try:
            if route is None:
                raise self._no_route(scope)
            await route(scope, receive, send)
        except ApiError as error:
            await _respond(send, error.body(), int(error.status))
        except ClientLeft:
            return

    def _no_route(self, scope: Scope) -> ApiError:
        if scope["path"] in _NOT_SIMULATED:
            status = HTTPStatus.NOT_IMPLEMENTED
            return ApiError(status, f"the simulated worker does not serve {scope['path']}: {_WITHOUT}", status.phrase)
        known = any(path == scope["path"] for _, path in self._routes)
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return ApiError(status, status.phrase, status.phrase)

    # ------------------------------------------------------------------ small endpoints

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(send, b"")

    async def _version(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(send, orjson.dumps({"version": VERSION}))

    async def _load(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(send, orjson.dumps({"server_load": self._serving}))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self.engine.state()
        totals = self.engine.engine.totals
        text = exposition.page(self.limits.model, self.profile, state, totals, self.statistics)
        await _respond(send, text.encode(), content_type=_TEXT)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        card = {
            "id": self.limits.model,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": self.profile.name,
            "parent": None,
            "max_model_len": self.limits.max_model_len,
            "permission": [],
        }
        await _respond(send, orjson.dumps({"object": "list", "data": [card]}))

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = generation.read(TokenizeBody, await _json(scope, receive))
        generation.check_model(body.model, self.limits)
        if body.messages is not None:
            contents = generation.chat_contents(body.messages)
            count, text = tokenizer.count_chat(contents), "\n".join(contents)
        else:
            text = body.prompt or ""
            count = tokenizer.count(text)
        strings = tokenizer.pieces(text) if body.return_token_strs else None
        document = {"count": count, "max_model_len": self.limits.max_model_len, "tokens": tokenizer.encode(text)}
        await _respond(send, orjson.dumps({**document, "token_strs": strings}))

    async def _detokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = generation.read(DetokenizeBody, await _json(scope, receive))
        generation.check_model(body.model, self.limits)
        try:
            text = tokenizer.decode(body.tokens)
        except ValueError as error:
            raise generation.bad_request(str(error), "tokens") from error
        await _respond(send, orjson.dumps({"prompt": text}))

    # ------------------------------------------------------------------ sleep

    async def _sleep(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        level = query.get("level", ["1"])[-1]
        if level not in ("0", "1", "2"):
            raise ApiError(
                HTTPStatus.BAD_REQUEST, f"level must be 0, 1 or 2, not {level!r}", "Bad Request", "query.level"
            )
        if not self._sleeps() and level != "0":
            self.engine.sleep(int(level))
            await asyncio.sleep(self.profile.sleep_s)
        await _respond(send, orjson.dumps({"status": "sleeping", "level": int(level)}))

    async def _wake(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._sleeps():
            self.engine.wake()
        while self.engine.state().phase is not EnginePhase.READY:
            await asyncio.sleep(_LOOK_S)
        await _respond(send, orjson.dumps({"status": "awake", "tags": None}))

    async def _is_sleeping(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _respond(send, orjson.dumps({"is_sleeping": self._sleeps()}))

    def _sleeps(self) -> bool:
        return self.engine.state().phase is EnginePhase.SLEEPING

    # ------------------------------------------------------------------ generation

    async def _completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = await _json(scope, receive)
        await self._generate(generation.completion(document, _headers(scope), self.limits), receive, send)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = await _json(scope, receive)
        await self._generate(generation.chat(document, _headers(scope), self.limits), receive, send)

    async def _generate(self, request: Generation, receive: Receive, send: Send) -> None:
        self._admit()
        reply = compose(request, self.answerer)
        stream = self.engine.submit(
            request.prompt_tokens, len(reply.tokens), priority=request.priority, every_token=request.stream
        )
        watcher = asyncio.create_task(self._cancel_when_client_leaves(receive, stream))
        self._serving += 1
        try:
            serve = self._stream if request.stream else self._answer
            await serve(request, reply, stream, send)
        finally:
            self._serving -= 1
            watcher.cancel()
            self.engine.cancel(stream)
            self._record(request, reply, stream)

    def _admit(self) -> None:
        limit = self.max_num_queued_reqs
        if limit is not None and self.engine.in_flight + 1 > limit:
            self.statistics.refused["max_num_queued_reqs"] += 1
            status = HTTPStatus.SERVICE_UNAVAILABLE
            raise ApiError(status, _BUSY, status.phrase)

    async def _cancel_when_client_leaves(self, receive: Receive, stream: Stream) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.engine.cancel(stream)

    async def _answer(self, request: Generation, reply: Reply, stream: Stream, send: Send) -> None:
        await stream.progress(len(reply.tokens))
        if stream.ended is not EventKind.FINISHED:
            raise ClientLeft
        await _respond(send, whole(request, reply, int(time.time())), headers=_request_id(request))

    async def _stream(self, request: Generation, reply: Reply, stream: Stream, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [_EVENTS, *_request_id(request)]})
        chunks = Chunks(request, reply, int(time.time()))
        seen, seen_at = 0, 0.0
        while seen < len(reply.tokens):
            produced = await stream.progress(seen)
            if stream.ended not in (None, EventKind.FINISHED):
                raise ClientLeft
            now = self.engine.now
            if seen:
                self.statistics.more_tokens(produced - seen, now - seen_at)
            body = (b"" if seen else chunks.opening()) + chunks.tokens(seen, produced)
            seen, seen_at = produced, now
            last = produced == len(reply.tokens)
            await send(
                {"type": "http.response.body", "body": body + (chunks.closing() if last else b""), "more_body": True}
            )
        await send({"type": "http.response.body", "body": b""})

    def _record(self, request: Generation, reply: Reply, stream: Stream) -> None:
        finished = stream.ended is EventKind.FINISHED
        ended_at = self.engine.now if stream.ended_at is None else stream.ended_at
        first = stream.first_token_at
        if first is not None:
            self.statistics.first_token(first - stream.arrived_at)
        self.statistics.ended(
            reply.finish_reason if finished else "abort",
            ended_at - stream.arrived_at,
            request.prompt_tokens,
            stream.produced,
            request.max_tokens,
            ended_at - (ended_at if first is None else first),
        )


def _headers(scope: Scope) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _request_id(request: Generation) -> _Headers:
    """As with ``--enable-request-id-headers``."""
    return [(b"x-request-id", request.id.partition("-")[2].encode("latin-1", "replace"))]


async def _json(scope: Scope, receive: Receive) -> Any:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return generation.read_json(b"".join(pieces), _headers(scope).get("content-type", ""))


async def _respond(
    send: Send,
    body: bytes,
    status: int = 200,
    *,
    content_type: tuple[bytes, bytes] = _JSON,
    headers: _Headers | None = None,
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [content_type, length, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})
