"""What the demo does between workers and table, against workers that are a few lines here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cli.demo.runner import DemoError, Demonstration, DemoRequest, DemoWorkers
from tests.cli.demo.test_unloaded import Worker
from tests.upstream.servers import Server

POOLS = [{"name": "able", "model": "able", "tier": 1, "max_inflight": 2},
         {"name": "quick", "model": "quick", "tier": 0, "max_inflight": 2}]  # fmt: skip


def demonstration(tmp_path: Path, prompts: list[str], *, ask: bool = True) -> Demonstration:
    requests = [
        DemoRequest(0.1 * i, prompt, 64, 2.0, False, None, lambda text: text.startswith("right"))
        for i, prompt in enumerate(prompts)
    ]
    workers = DemoWorkers(POOLS, {}, ask_unloaded=ask)
    return Demonstration(workers, (), requests, about={}, seed=1, port=8080, logs=tmp_path)


def ask(shown: Demonstration, able: Worker, quick: Worker) -> int:
    ended = 0

    def advance() -> None:
        nonlocal ended
        ended += 1

    async def run() -> None:
        async with Server(able) as upper, Server(quick) as lower:
            shown._urls = {"able": upper.url, "quick": lower.url}
            await shown.ask_unloaded(advance)

    asyncio.run(run())
    return ended


def test_the_highest_tier_s_own_answers_are_the_peak(tmp_path: Path) -> None:
    shown, able, quick = demonstration(tmp_path, ["right", "wrong", "right too"]), Worker(), Worker()
    assert ask(shown, able, quick) == shown.unloaded_questions == 6
    assert [request.peak for request in shown.requests] == [1.0, 0.0, 1.0]
    assert list(shown.settings()["unloaded"]) == ["quick", "able"]
    assert shown.settings()["unloaded"]["able"]["quality"] == pytest.approx(2 / 3)
    for worker, model in ((able, "able"), (quick, "quick")):
        assert {body["model"] for body in worker.bodies} == {model}
        assert {(body["max_tokens"], body["temperature"]) for body in worker.bodies} == {(64, 0)}
        assert worker.most == 2


def test_a_pool_that_does_not_answer_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="pool quick left 1 of 2 prompts unanswered"):
        ask(demonstration(tmp_path, ["right", "fail"]), Worker(), Worker())


def test_where_the_peak_is_known_nobody_is_asked(tmp_path: Path) -> None:
    shown = demonstration(tmp_path, ["right"], ask=False)
    assert shown.unloaded_questions == 0
    assert "unloaded" not in shown.settings()
