"""Loads over HTTP: what is asked for, what is timed, and what a failure looks like."""

from __future__ import annotations

import pytest

from envs.calibration.live import LiveWorker
from envs.calibration.loads import ClosedLoad, OpenLoad, Sizes
from envs.calibration.server import TargetError, look
from predictors.latency.campaign import Limits, Role
from tests.envs.calibration.servers import Scripted, serving


def test_an_open_load_times_every_stream() -> None:
    script = Scripted()
    with serving(script) as url:
        load = OpenLoad("open", (0.0, 0.05, 0.05), (Sizes(20, 5), Sizes(30, 1), Sizes(40, 8)), Role.FIT)
        recorded = LiveWorker(url, "tiny").run(load)
    assert [(s.prompt_tokens, s.output_tokens, s.chunks) for s in recorded.samples] == [
        (20, 5, 5),
        (30, 1, 1),
        (40, 8, 8),
    ]
    assert not any(s.error for s in recorded.samples)
    for sample in recorded.samples:
        assert sample.ttft is not None
        assert sample.e2e is not None
        assert 0 < sample.ttft <= sample.e2e
    assert recorded.samples[0].arrival < recorded.samples[1].arrival
    assert recorded.lateness


def test_lengths_are_set_whatever_the_model_would_say() -> None:
    script = Scripted()
    with serving(script) as url:
        LiveWorker(url, "tiny").run(ClosedLoad("closed", 2, Sizes(12, 3), 2, 60.0))
    assert len(script.bodies) == 4
    for body in script.bodies:
        assert (len(body["prompt"]), body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (12, 3, 3, True)
    assert len({tuple(body["prompt"]) for body in script.bodies}) == 4, "no prompt is found in a prefix cache"


def test_a_closed_load_keeps_so_many_in_flight_and_stops_at_its_limit() -> None:
    script = Scripted()
    with serving(script) as url:
        recorded = LiveWorker(url, "tiny").run(ClosedLoad("closed", 3, Sizes(5, 2), 50, 0.0))
    assert len(recorded.samples) == 3


def test_words_take_the_place_of_token_ids_where_those_are_refused() -> None:
    script = Scripted(takes_token_ids=False)
    with serving(script) as url:
        worker = LiveWorker(url, "tiny")
        assert worker.probe() is None
        (sample,) = worker.run(ClosedLoad("closed", 1, Sizes(9, 2), 1, 60.0)).samples
    assert (sample.prompt_tokens, sample.error) == (9, "")


def test_failures_are_samples() -> None:
    with serving(Scripted(takes_token_ids=False)) as url:
        (refused,) = LiveWorker(url, "tiny").run(ClosedLoad("closed", 1, Sizes(9, 2), 1, 60.0)).samples
    assert "token ids are not taken" in refused.error
    (unreachable,) = LiveWorker(url, "tiny").run(ClosedLoad("closed", 1, Sizes(9, 2), 1, 60.0)).samples
    assert unreachable.error.startswith("connect_error")


def test_limits_are_read_where_the_server_shows_them() -> None:
    with serving(Scripted()) as url:
        shown = look(url)
    assert shown.model == "tiny"
    assert shown.limits == Limits(kv_blocks=640, block_size=16, max_model_len=4096)


@pytest.mark.parametrize(
    "models, asked, message", [(("a", "b"), None, "name one of them with --model"), (("a",), "b", "does not serve 'b'")]
)
def test_the_model_must_be_clear(models: tuple[str, ...], asked: str | None, message: str) -> None:
    with serving(Scripted(models=models)) as url, pytest.raises(TargetError, match=message):
        look(url, asked)


def test_a_target_that_does_not_answer_says_so() -> None:
    with pytest.raises(TargetError, match="http://127"):
        look("http://127.0.0.1:9")
