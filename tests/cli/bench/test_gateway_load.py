"""The requests, and the two generators that send them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest

from cli.bench import gateway_wrk
from cli.bench.gateway_client import closed_loop, is_whole, open_loop, poisson, sample
from cli.bench.gateway_prompts import Requests, prompts, write
from cli.bench.gateway_upstream import TEXT, WHOLE, Upstream, stream_chunks
from cli.bench.gateway_wrk import LoadError
from tests.cli.bench.servers import Stalling, serving

KEYS = ("key-a", "key-b")


@pytest.fixture(scope="module")
def requests_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("requests") / "requests"
    write(path, prompts(50, 7), KEYS)
    return path


def parts(raw: bytes) -> tuple[bytes, dict[str, object]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert int(head.rpartition(b"content-length: ")[2]) == len(body)
    fields: dict[str, object] = json.loads(body)
    return head, fields


def test_prompts_are_seeded_distinct_and_of_realistic_length() -> None:
    found = prompts(400, 3)
    assert found == prompts(400, 3) != prompts(400, 4)
    assert len(set(found)) > 395
    lengths = sorted(map(len, found))
    assert 80 < lengths[200] < 600
    assert lengths[-1] > 4 * lengths[200]


@pytest.mark.parametrize("streams", [False, True])
def test_no_two_requests_are_alike(requests_file: Path, streams: bool) -> None:
    raw = [one for run in ("0001", "0002") for one in islice(iter(Requests.read(requests_file, run, streams)), 120)]
    bodies = [parts(one)[1] for one in raw]
    assert len({json.dumps(body["messages"]) for body in bodies}) == 240
    assert all(bool(body.get("stream")) == streams for body in bodies)
    assert {head.split(b"Bearer ")[1].split(b"\r\n")[0] for head, _ in map(parts, raw)} == {b"key-a", b"key-b"}


def test_only_complete_answers_are_whole() -> None:
    stream = b"".join(stream_chunks(True))
    assert is_whole(WHOLE, False)
    assert is_whole(stream, True)
    assert not is_whole(WHOLE.replace(TEXT.encode()[-3:], b""), False)
    assert not is_whole(b"".join(stream_chunks(False)), True)
    for missing in (0, 7, 15):
        chunks = list(stream_chunks(True))
        del chunks[missing]
        assert not is_whole(b"".join(chunks), True)


@pytest.mark.parametrize("streams", [False, True])
def test_the_generators_see_whole_answers(requests_file: Path, streams: bool) -> None:
    with serving() as port:
        feed = Requests.read(requests_file, "0001", streams)
        assert all(status == 200 and is_whole(body, streams) for status, body in sample([port], feed, 3))
        load = closed_loop([port], feed, connections=3, seconds=0.2)
        assert load.answers > 3
        assert load.failed == 0
        found = open_loop([port], feed, poisson(200, 0.3, 1), warm=2)
        assert len(found.whole) == len(found.first) == len(poisson(200, 0.3, 1))
        assert found.failed == 0
        assert all(0 < first <= whole for first, whole in zip(found.first, found.whole, strict=True))


def test_a_stall_is_charged_to_every_request_that_was_due_in_it(requests_file: Path) -> None:
    Stalling.seen = 0
    due = [index / 100 for index in range(60)]
    with serving(Stalling) as port:
        found = open_loop([port], Requests.read(requests_file, "0001", False), due, warm=1)
    late = [latency for latency in found.whole if latency > Stalling.stall / 3]
    assert len(found.whole) == len(due)
    assert len(late) >= 10
    assert max(found.whole) >= Stalling.stall * 0.9


def test_answers_that_are_not_whole_fail(requests_file: Path) -> None:
    class Short(Upstream):
        def _reply(self, request: bytes) -> None:
            assert self._transport is not None
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    with serving(Short) as port:
        feed = Requests.read(requests_file, "0001", False)
        found = open_loop([port], feed, [0.0, 0.01, 0.02], warm=1)
        assert (len(found.whole), found.failed) == (0, 3)
        assert closed_loop([port], feed, connections=1, seconds=0.05).answers == 0


def test_nothing_listens(requests_file: Path) -> None:
    with pytest.raises(LoadError, match="no connection"):
        sample([1], Requests.read(requests_file, "0001", False), 1)


class Recording(Upstream):
    """Keeps what it is asked."""

    kept: ClassVar[list[bytes]] = []
    lock = threading.Lock()

    def __init__(self, later: Callable[..., object]) -> None:
        super().__init__(later)

    def _reply(self, request: bytes) -> None:
        with self.lock:
            self.kept.append(request)
        super()._reply(request)


@pytest.mark.skipif(gateway_wrk.wrk() is None, reason="wrk is not installed")
@pytest.mark.parametrize("streams", [False, True])
def test_wrk_sends_the_same_requests_and_no_two_alike(requests_file: Path, tmp_path: Path, streams: bool) -> None:
    Recording.kept = []
    lua = tmp_path / "wrk.lua"
    lua.write_text(gateway_wrk.script(streams))
    with serving(Recording) as one, serving(Recording) as two:
        load = gateway_wrk.run([one, two], lua, requests_file, "00ab", connections=4, seconds=1)
    assert load.failed == 0
    assert 0 < load.answers <= len(Recording.kept)
    size = len(WHOLE) if not streams else len(b"".join(stream_chunks(True)))
    assert load.bytes >= load.answers * size
    raw = Recording.kept[:3000]
    bodies = [parts(request)[1] for request in raw]
    assert len({json.dumps(body["messages"]) for body in bodies}) == len(bodies)
    expected_head, expected = parts(next(iter(Requests.read(requests_file, "00ab", streams))))
    head, body = next(parts(request) for request in raw if b"key-a" in request)
    assert head.split(b"\r\n")[:3] == expected_head.split(b"\r\n")[:3]
    assert {name: body[name] for name in body if name != "messages"} == {
        name: expected[name] for name in expected if name != "messages"
    }


def test_wrk_says_what_failed(requests_file: Path, tmp_path: Path) -> None:
    if gateway_wrk.wrk() is None:
        with pytest.raises(LoadError, match="not installed"):
            gateway_wrk.run([1], tmp_path, requests_file, "0001", connections=1, seconds=1)
        return

    class Refusing(Upstream):
        def _reply(self, request: bytes) -> None:
            assert self._transport is not None
            self._transport.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")

    lua = tmp_path / "wrk.lua"
    lua.write_text(gateway_wrk.script(False))
    with serving(Refusing) as port:
        load = gateway_wrk.run([port], lua, requests_file, "0001", connections=1, seconds=1)
    assert load.answers == 0
    assert load.failed > 0


def test_the_loop_of_the_open_loop_waits_in_microseconds() -> None:
    """Its selector must take fractions of a millisecond, which epoll does not."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        return type(loop._selector).__name__  # type: ignore[attr-defined]

    from cli.bench.gateway_client import _run

    assert _run(main()) == "SelectSelector"
