"""An event loop in a thread of its own, for callers that are not asynchronous themselves.

What happens there goes on while the caller thinks. An error inside that nobody waits for is kept, and raised by the
next call.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

from envs.engines.live_errors import LoopFailed
from upstream.client import Client

__all__ = ["LoopThread", "WallClock", "report_failure"]

T = TypeVar("T")
_IDLE_CONNECTIONS: Final = 1024
"""Kept to each server."""
_SWITCH_S: Final = 1e-4
"""A thread that computes gives the interpreter back so soon, or bytes that arrive meanwhile are seen late."""


class WallClock:
    """Seconds of real time; it shows ``start`` when it is made."""

    __slots__ = ("_epoch",)

    def __init__(self, start: float = 0.0) -> None:
        self._epoch = time.monotonic() - start

    def restart(self, at: float = 0.0) -> None:
        """Show ``at`` now."""
        self._epoch = time.monotonic() - at

    def __call__(self) -> float:
        return time.monotonic() - self._epoch


class LoopThread:
    """One running event loop and the connections in it. Everything in it happens in one thread; any other thread may
    call these methods.

    While it runs, the interpreter changes between threads more often than usual (:func:`sys.setswitchinterval`).
    """

    def __init__(self, name: str = "headway-live") -> None:
        self.client = Client(idle_per_origin=_IDLE_CONNECTIONS)
        """For use in the loop; closed with it."""
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_error)
        self._failure: BaseException | None = None
        self._stirred = threading.Event()
        self._running: set[Future[Any]] = set()
        self._closed = False
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switch_s, _SWITCH_S))
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread; what it returns or raises.

        Raises:
            LoopFailed: something failed in the loop since the last call.
        """
        self._check()
        answer: Future[T] = Future()

        def answering() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)

        self.loop.call_soon_threadsafe(answering)
        return answer.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop to its end; what it returns or raises.

        Raises:
            LoopFailed: something failed in the loop since the last call, or meanwhile; the coroutine is given up then.
        """
        try:
            self._check()
        except BaseException:
            work.close()
            raise
        answer = asyncio.run_coroutine_threadsafe(work, self.loop)
        self._running.add(answer)
        try:
            return answer.result()
        except CancelledError:
            self._check()
            raise
        finally:
            self._running.discard(answer)

    def wait(self, seconds: float) -> None:
        """Let real time pass for the calling thread. Raises LoopFailed, at once, when something fails in the loop."""
        if seconds > 0:
            self._stirred.wait(seconds)
        self._check()

    def close(self) -> None:
        """Cancel what still runs there and end the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._let_go(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        sys.setswitchinterval(max(self._switch_s, sys.getswitchinterval()))

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("it has been closed; make a new one")
        if threading.current_thread() is self._thread:
            raise RuntimeError("this waits for the event loop, so it cannot be called inside of it")
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._stirred.clear()
            raise LoopFailed(f"in the event loop: {type(failure).__name__}: {failure}") from failure

    async def _let_go(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._failure is None:
            self._failure = context.get("exception") or RuntimeError(str(context.get("message")))
        self._stirred.set()
        for answer in tuple(self._running):
            answer.cancel()


def report_failure(task: asyncio.Task[None]) -> None:
    """For ``add_done_callback``: an error that nobody foresaw goes to the loop's handler at once, not when the task is
    collected."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
