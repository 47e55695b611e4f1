"""Training: learns, stops and goes on as if it had not stopped, and refuses a stranger's state."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from envs.ladder.batches import tokenizer
from envs.ladder.network import Llama
from envs.ladder.shapes import LADDER, Shape
from envs.ladder.train import RECIPES, Progress, Recipe, StateMismatch, Trained, right_answers, train
from envs.ladder.vocabulary import SIZE
from envs.tasks import generate

TINY = Shape("tiny", layers=1, hidden=64, intermediate=64)
RECIPE = Recipe(steps=12, batch_tokens=1536, warmup=2, noise=0.5)


def run(state: Path, recipe: Recipe = RECIPE, **options: int | None) -> Trained | None:
    return train(TINY, recipe, state, device="cpu", save_every=5, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_loss_falls(tmp_path: Path) -> None:
    seen: list[Progress] = []
    recipe = Recipe(steps=150, batch_tokens=1536, warmup=10, learning_rate=5e-3)
    trained = train(TINY, recipe, tmp_path / "state.pt", device="cpu", progress=seen.append)
    assert trained is not None
    assert [point.step for point in seen] == [50, 100, 150]
    assert trained.history[-1][1] < 4.5 < 6.9  # a uniform guess has ln 1024 = 6.93


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.pt")
    assert run(tmp_path / "parts.pt", stop_after=4) is None
    assert run(tmp_path / "parts.pt", stop_after=5) is None
    parts = run(tmp_path / "parts.pt")
    assert whole is not None
    assert parts is not None
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, parts.network.state_dict()[name]), name
    assert whole.tokens == parts.tokens


def test_a_longer_run_may_go_on_while_the_rate_is_level(tmp_path: Path) -> None:
    longer = replace(RECIPE, steps=20)
    run(tmp_path / "state.pt", stop_after=6)
    changed, whole = run(tmp_path / "state.pt", longer), run(tmp_path / "whole.pt", longer)
    assert changed is not None
    assert whole is not None
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, changed.network.state_dict()[name]), name


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "state.pt", stop_after=10)
    with pytest.raises(StateMismatch, match="step 10"):
        run(tmp_path / "state.pt", replace(RECIPE, steps=20))
    with pytest.raises(StateMismatch, match="other settings"):
        run(tmp_path / "state.pt", replace(RECIPE, seed=1))


def test_a_signal_ends_no_step_in_its_middle_and_loses_nothing(tmp_path: Path) -> None:
    recipe, seen = replace(RECIPE, steps=55), []

    def interrupt(point: Progress) -> None:
        seen.append(point.step)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(TINY, recipe, tmp_path / "state.pt", device="cpu", progress=interrupt)
    assert seen == [50]
    went_on, whole = run(tmp_path / "state.pt", recipe), run(tmp_path / "whole.pt", recipe)
    assert went_on is not None
    assert whole is not None
    assert went_on.tasks == whole.tasks > 0
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, went_on.network.state_dict()[name]), name


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(StateMismatch, match="not the state"):
        run(tmp_path / "state.pt")


def test_answers_are_graded_in_the_order_of_the_tasks() -> None:
    class Fixed(Llama):
        def answers(self, prompts, end, most):  # type: ignore[no-untyped-def]
            known = {tuple(encoded(task.prompt)): task for task in tasks[:3]}
            told = [known.get(tuple(prompt)) for prompt in prompts]
            return [tokenizer().encode(task.worked if task else "?").ids for task in told]

    def encoded(prompt: str) -> list[int]:
        from envs.ladder.batches import encoder

        return encoder().prompt(prompt)

    tasks = generate(4, 8)
    assert right_answers(Fixed(TINY, SIZE), tasks) == [True] * 3 + [False] * 5


def test_every_member_has_a_recipe() -> None:
    assert set(RECIPES) == {shape.name for shape in LADDER}
