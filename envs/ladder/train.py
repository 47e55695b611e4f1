"""Training a member of the ladder: a plain loop, checkpointed, taken up where it stopped, in a fixed order of data."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional
from torch.optim import Optimizer

from envs.ladder.batches import IGNORED, Batch, Stream, batches, encoder, tokenizer
from envs.ladder.network import Llama
from envs.ladder.optimiser import optimisers, share_of_rate
from envs.ladder.shapes import Shape
from envs.ladder.vocabulary import END, SIZE, SPECIAL
from envs.tasks import Task, grade

__all__ = ["RECIPES", "Progress", "Recipe", "StateMismatch", "Trained", "right_answers", "train"]

_CLIP: Final = 1.0
_ASKED_TOGETHER: Final = 512
_REPORT: Final = 50
"""Steps between two looks at the loss, which waits for the device."""
_KEPT: Final = 0.7
"""Of the smoothed loss, at each look."""


class StateMismatch(Exception):
    """What an earlier run left cannot be gone on with: made with other settings, or not readable. Says which."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a run."""

    steps: int
    seed: int = 0
    batch_tokens: int = 65_536
    """Tokens in a batch, padding included."""
    learning_rate: float = 2e-3
    warmup: int = 200
    cooldown: float = 0.4
    """Share of the steps over which the learning rate falls to zero."""
    decay: float = 0.05
    """Weight decay of the matrices."""
    noise: float = 0.3
    """Share of the prompts that are reworded."""
    practice: float = 0.0
    """Share of phrasings, and of instructions, beyond those of the suite."""


RECIPES: Final[Mapping[str, Recipe]] = {
    "small": Recipe(steps=2_500, learning_rate=4e-3, practice=0.5),
    "medium": Recipe(steps=5_000, learning_rate=3e-3, practice=0.5),
    "large": Recipe(steps=18_000, learning_rate=2e-3, practice=0.5),
}
"""By the model's name: how the shipped one was trained."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int
    loss: float
    """Nats a token of the answers, smoothed over a few looks at it."""
    tokens: int
    """Read in this process, padding included."""
    seconds: float
    """Of this process."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gives: the model (on the CPU) and how it came about."""

    network: Llama
    recipe: Recipe
    history: Sequence[tuple[int, float]]
    """Steps and smoothed losses."""
    tokens: int
    """Read, padding included."""
    tasks: int
    """Learned from, each once."""
    seconds: float
    """Of all processes that worked on it."""
    device: str


@dataclass(slots=True)
class _Run:
    step: int = 0
    place: int = 0
    loss: float = float("nan")
    tokens: int = 0
    tasks: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)


def train(
    shape: Shape,
    recipe: Recipe,
    state: Path,
    *,
    device: str,
    workers: int = 0,
    save_every: int = 500,
    progress: Callable[[Progress], None] = lambda _: None,
    stop_after: int | None = None,
) -> Trained | None:
    """Train one member; take up what ``state`` holds, and keep it up to date every ``save_every`` steps.

    ``workers`` processes prepare batches. On a GPU the blocks are compiled and compute in bfloat16. With
    ``stop_after`` the run ends, saved, after that many steps of this process; the result is ``None`` then.

    Raises:
        StateMismatch: ``state`` was written by a run with another shape or recipe, or is no state.
        KeyboardInterrupt: SIGINT or SIGTERM came; the step was ended and ``state`` written.
    """
    torch.manual_seed(recipe.seed)
    network = Llama(shape, SIZE).to(device)
    pair = optimisers(network, recipe.learning_rate, recipe.decay)
    run = _restored(state, shape, recipe, network, pair, device)
    before, began, read = run.seconds, time.monotonic(), run.tokens
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        for block in network.model.layers:
            block.compile(dynamic=True)
    order = Stream(recipe.seed, recipe.batch_tokens, recipe.noise, recipe.practice)
    first = run.step
    with _asked_to_stop() as stop:
        for place, batch in batches(order, run.place, workers):
            if stop or run.step >= recipe.steps or (stop_after is not None and run.step - first >= stop_after):
                break
            loss = _learn(network, pair, batch, _rate(run.step, recipe), device)
            run.tokens += batch.tokens.numel()
            run.step, run.place, run.tasks = run.step + 1, place + 1, run.tasks + len(batch.tokens)
            if run.step % _REPORT == 0 or run.step == recipe.steps:
                run.loss = float(loss) if isnan(run.loss) else _KEPT * run.loss + (1 - _KEPT) * float(loss)
                run.history.append((run.step, run.loss))
                run.seconds = before + time.monotonic() - began
                progress(Progress(run.step, run.loss, run.tokens - read, time.monotonic() - began))
            if run.step % save_every == 0:
                _save(state, shape, recipe, network, pair, run)
    run.seconds = before + time.monotonic() - began
    _save(state, shape, recipe, network, pair, run)
    if stop:
        raise KeyboardInterrupt
    if run.step < recipe.steps:
        return None
    finished = Llama(shape, SIZE)  # without what was compiled
    finished.load_state_dict(network.state_dict())
    return Trained(
        finished.eval(),
        recipe,
        tuple(run.history),
        run.tokens,
        run.tasks,
        run.seconds,
        _named(device),
    )


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Receives the signals to stop, which then end no step in its middle; none outside the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda number, _: received.append(number))
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rate(step: int, recipe: Recipe) -> float:
    return recipe.learning_rate * share_of_rate(step, recipe.steps, recipe.warmup, recipe.cooldown)


def _learn(network: Llama, pair: Iterable[Optimizer], batch: Batch, rate: float, device: str) -> torch.Tensor:
    """One step; the loss before it."""
    tokens = batch.tokens.to(device).long()
    targets = batch.targets.to(device).long()
    with torch.autocast("cuda", torch.bfloat16) if device.startswith("cuda") else nullcontext():
        logits = network(tokens)
    loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
    for optimiser in pair:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def right_answers(network: Llama, tasks: Sequence[Task], most: int = 1024) -> list[bool]:
    """Whether the model's likeliest answer to each task is right."""
    order = sorted(range(len(tasks)), key=lambda index: len(tasks[index].prompt))
    end = SPECIAL.index(END)
    right = [False] * len(tasks)
    device = next(network.parameters()).device.type
    with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext():
        for start in range(0, len(order), _ASKED_TOGETHER):
            chosen = order[start : start + _ASKED_TOGETHER]
            answers = network.answers([encoder().prompt(tasks[index].prompt) for index in chosen], end, most)
            for index, answer in zip(chosen, answers, strict=True):
                right[index] = grade(tasks[index], tokenizer().decode(answer))
    return right


def _named(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU, {torch.get_num_threads()} threads"


def _described(shape: Shape, recipe: Recipe) -> dict[str, Any]:
    return {"shape": asdict(shape), "recipe": asdict(recipe)}


def _restored(
    state: Path, shape: Shape, recipe: Recipe, network: Llama, pair: Sequence[Optimizer], device: str
) -> _Run:
    if not state.exists():
        return _Run()
    try:
        kept = torch.load(state, map_location=device, weights_only=True)
        begun = Recipe(**kept["settings"]["recipe"])
        run = _Run(**{**kept["run"], "history": [(step, loss) for step, loss in kept["run"]["history"]]})
    except Exception as error:  # of torch, zipfile or the format it is read as
        raise StateMismatch(f"{state} is not the state of a run that this version can go on with") from error
    # Until the rate falls, runs of different lengths are the same.
    level = min(begun.steps * (1 - begun.cooldown), recipe.steps * (1 - recipe.cooldown))
    same = begun == recipe or (replace(begun, steps=recipe.steps) == recipe and run.step <= level)
    if not same or kept["settings"]["shape"] != asdict(shape):
        raise StateMismatch(
            f"{state} was left at step {run.step} by a run with other settings ({kept['settings']}); "
            "give the same settings to go on, or discard it"
        )
    network.load_state_dict(kept["network"])
    for optimiser, values in zip(pair, kept["optimisers"], strict=True):
        optimiser.load_state_dict(values)
    return run


def _save(state: Path, shape: Shape, recipe: Recipe, network: Llama, pair: Sequence[Optimizer], run: _Run) -> None:
    """In one piece: a run that is killed meanwhile leaves the one before."""
    state.parent.mkdir(parents=True, exist_ok=True)
    partial = state.with_name(f".{state.name}.{os.getpid()}")
    content = {
        "settings": _described(shape, recipe),
        "network": network.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in pair],
        "run": asdict(run),
    }
    torch.save(content, partial)
    partial.replace(state)
