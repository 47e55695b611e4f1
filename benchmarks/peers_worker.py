"""A simulated server for ``benchmarks.peers``, for rehearsals and for machines without a GPU.

    python -m benchmarks.peers_worker --port PORT [--profile h100-8b] [--max-num-seqs N]

It is ``headway worker sim`` with two things that the real server has: a prefix cache (of blocks of 256 characters,
which count as 64 tokens each), and answers of just ``min_tokens`` tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controller.prefix import block_hashes
from controller.store import ArtifactStore, shipped_models
from envs.engines.base import EngineRequest
from envs.engines.realtime import RealTimeEngine
from envs.engines.sim import SimEngine
from envs.engines.worker import Receive, Scope, Send, SimWorker

_BLOCK_TOKENS: Final = 64
_PATHS: Final = frozenset({"/v1/completions", "/v1/chat/completions"})
_asked: ContextVar[tuple[int, ...]] = ContextVar("_asked", default=())
"""Hashes of the prompt of the request that the running task serves."""
app = typer.Typer(add_completion=False)


class CachingEngine(SimEngine):
    """Looks prompts up in its cache."""

    def submit(self, request: EngineRequest) -> None:
        """With the prompt of the task that submits it."""
        super().submit(replace(request, prefix=_asked.get()))


class CachingWorker(SimWorker):
    """Knows prompts by their text."""

    @property
    def engine(self) -> RealTimeEngine:
        """See :class:`SimWorker`."""
        if self._realtime is None:
            engine = CachingEngine(self.profile, policy=self.policy, stream=True, prefix_tokens=_BLOCK_TOKENS)
            self._realtime = RealTimeEngine(engine)
        return self._realtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await super().__call__(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        _asked.set(block_hashes(prompt_text(body)))
        waiting = [{"type": "http.request", "body": body}]

        async def again() -> Any:
            return waiting.pop() if waiting else await receive()

        await super().__call__(scope, again, send)


class ShortAnswers:
    """Says a word, which the worker repeats until ``min_tokens``."""

    def answer(self, prompt: str, max_tokens: int | None = None, /) -> Sequence[str]:
        """See :class:`envs.engines.reply.Answerer`."""
        return (" word",)


def prompt_text(body: bytes) -> str:
    """All of a request's text; empty for what is no request."""
    try:
        document = json.loads(body)
        if "prompt" in document:
            return str(document["prompt"])
        return "\n".join(str(message.get("content")) for message in document["messages"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Where it listens, on 127.0.0.1.")],
    profile: Annotated[str, typer.Option(help="How fast it is.")] = "h100-8b",
    model: Annotated[str, typer.Option(help="Name to serve under.")] = "sim",
    max_num_seqs: Annotated[int, typer.Option(help="Requests that run at once.")] = 16,
) -> None:
    """Serve until told to end."""
    import uvicorn

    from cli.simulate.machines import load_profile

    chosen = replace(load_profile(profile, ArtifactStore(shipped_models(), None)), max_num_seqs=max_num_seqs)
    worker = CachingWorker(chosen, ShortAnswers(), model=model)
    uvicorn.run(worker, host="127.0.0.1", port=port, log_level="warning", backlog=4096, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    app()
