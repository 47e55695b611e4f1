"""Subscribing to one engine's KV-cache events over ZeroMQ."""

from __future__ import annotations

import asyncio
import time

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from upstream.kv_events import END, KvEventsError, decode
from upstream.kv_events_order import Forget, Order, OrderCounts
from upstream.kv_events_types import Consumer, KvEndpoints

__all__ = ["KvSubscriber"]

_SLICE_S = 0.001
"""How long messages are worked off before others get their turn."""
_SEQUENCE_BYTES = 8


class KvSubscriber:
    """Listens for as long as :meth:`run` runs. A server that is away is waited for.

    Memory is bounded: at most ``queue`` messages of ``max_bytes`` each wait in the socket. What does not fit is a gap.
    """

    def __init__(
        self,
        endpoints: KvEndpoints,
        consumer: Consumer,
        *,
        queue: int = 1000,
        max_bytes: int = 1 << 24,
        replay_timeout_s: float = 5.0,
    ) -> None:
        self._endpoints = endpoints
        self._consumer = consumer
        self._queue, self._max_bytes, self._timeout_s = queue, max_bytes, replay_timeout_s
        self._order = Order()
        self._rested = 0.0
        self.events = 0
        """Events told to the consumer."""
        self.unknown = 0
        """Events of kinds that are not known, passed over."""
        self.malformed = 0
        """Messages that could not be read."""
        self.connections = 0
        """Times that a connection was made."""

    @property
    def counts(self) -> OrderCounts:
        """Messages, gaps, replays and resets so far."""
        return self._order.counts

    async def run(self, context: zmq.asyncio.Context) -> None:
        """Listen until cancelled. Raises KvEventsError for endpoints that cannot be connected to at all."""
        subscriber = self._socket(context, zmq.SUB)
        monitor = subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            subscriber.setsockopt_string(zmq.SUBSCRIBE, self._endpoints.topic)
            _connect(subscriber, self._endpoints.events)
            poller = zmq.asyncio.Poller()
            poller.register(subscriber, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            while True:
                ready = dict(await poller.poll())
                if monitor in ready:
                    await recv_monitor_message(monitor)
                    self.connections += 1
                    self._order.connected()
                elif subscriber in ready:
                    self._live(await subscriber.recv_multipart())
                while self._order.missing is not None:
                    await self._replay(context, self._order.missing)
                await self._rest()
        finally:
            subscriber.disable_monitor()
            monitor.close(linger=0)
            subscriber.close(linger=0)

    def _live(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or len(frames[1]) != _SEQUENCE_BYTES:
            self.malformed += 1
            return
        self._apply(self._order.live(int.from_bytes(frames[1], "big"), frames[2]))

    async def _replay(self, context: zmq.asyncio.Context, start: int) -> None:
        """Ask once. A socket for each time, so that no answer is taken for that to another question."""
        if self._endpoints.replay is None:
            self._apply(self._order.replay_failed())
            return
        dealer = self._socket(context, zmq.DEALER)
        try:
            _connect(dealer, self._endpoints.replay)
            await dealer.send_multipart([b"", start.to_bytes(_SEQUENCE_BYTES, "big")])
            any_came = False
            while await dealer.poll(round(self._timeout_s * 1000)):
                frames = await dealer.recv_multipart()  # empty, topic (not from older servers), number, payload
                if len(frames) < 3 or len(frames[-2]) != _SEQUENCE_BYTES:
                    self.malformed += 1
                    continue
                number = int.from_bytes(frames[-2], "big")
                if number == END:
                    self._apply(self._order.replay_ended())
                    return
                any_came = True
                self._apply(self._order.replayed(number, frames[-1]))
                await self._rest()
            self._apply(self._order.replay_ended(cut=True) if any_came else self._order.replay_failed())
        finally:
            dealer.close(linger=0)

    def _apply(self, todo: list[Forget | bytes]) -> None:
        for each in todo:
            if isinstance(each, Forget):
                self._consumer.on_forget(whole=each.whole)
                continue
            try:
                batch = decode(each)
            except KvEventsError:
                self.malformed += 1
                self._consumer.on_forget(whole=False)  # who knows what it said
                continue
            self.events += len(batch.events)
            self.unknown += batch.unknown
            self._consumer.on_batch(batch)

    async def _rest(self) -> None:
        """Messages that wait already are received without giving up the loop, so that has to be done at times."""
        if time.perf_counter() - self._rested > _SLICE_S:
            await asyncio.sleep(0)
            self._rested = time.perf_counter()

    def _socket(self, context: zmq.asyncio.Context, kind: int) -> zmq.asyncio.Socket:
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.RCVHWM, self._queue)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_bytes)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
        return socket


def _connect(socket: zmq.asyncio.Socket, endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise KvEventsError(
            f"cannot listen to KV-cache events at {endpoint!r}: {error}; write it like tcp://10.0.0.5:5557"
        ) from error
