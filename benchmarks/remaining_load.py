"""What re-predicting running answers is worth to placement: the load of workers as it is believed to be.

    python -m benchmarks.remaining_load [--place least_load …] [--seeds 8] [--requests 3000] [--load 0.85 …]
                                        [--data DIR] [--json FILE]

Simulated workers (the 8B profile, the last one slower) behind the control plane. Prompts and answers are real ones,
those of another model at each seed; their lengths are expected by ``fast``, and what is left of them is said by
``remaining`` every 48 tokens, both by models that never saw the prompt. Beside them stand no re-prediction (an
expectation counts down, and doubles when it is outgrown), the truth at each look, and the truth from the start, which
the queue (``length_rank``) knows as well. Every figure is a ratio to no re-prediction under the same placement and
seed: the mean over seeds with its 95 % interval (Student's t). ``error`` is the mean absolute error of what was
believed to be left of the running answers, in tokens, each time that they were heard of. ``whole answers`` are not
heard of until they end: they are believed to have all to come, or are counted down by their age.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from zlib import crc32

import numpy as np
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.placement import POOL, PROFILE, figures, over_seeds, ratio, slower
from controller.pipeline import ControlPlane
from controller.protocols import Resources, Stages
from controller.settings import ControlSettings
from controller.stages import build
from controller.store.artifacts import ArtifactStore, shipped_models
from controller.tickets import TicketState
from controller.types import PoolSpec, Scores, Ticket, TicketId, WorkerSpec
from controller.unseen import Unseen
from envs.engines.sim import SimEngine
from envs.fleet import FleetRequest, SimFleet
from predictors.latency.model import Profile

if TYPE_CHECKING:
    from cli.report import Report
    from predictors.length.remaining.data import Answers

EVERY: Final = 48
OFF: Final = "none"
WHOLE: Final = "whole answers"
KNOWN: Final = (OFF, "remaining", "truth at each look", "truth from the start", WHOLE, f"{WHOLE}, by age")
PLACES: Final = ("least_load", "freeness", "predicted_latency")
SHOWN: Final = ("ttft_mean_ratio", "e2e_mean_ratio", "e2e_p99_ratio", "normalised_mean_ratio", "error_ratio", "error")
_CHARS_PER_TOKEN: Final = 4
_ANSWERS: Final = "lengths/arena_answers.csv.gz"


@dataclass(frozen=True, slots=True)
class Streams:
    """Answers (n): tokens of prompt and answer, what the ranker expects, and at which tokens was said what is left."""

    models: tuple[str, ...]
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    scores: tuple[Scores, ...]
    looks: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]

    def of(self, model: str) -> list[int]:
        """The rows of one model's answers."""
        return [row for row, name in enumerate(self.models) if name == model]


class _Uncounted(Unseen):
    """Leaves answers that come whole at what was expected of them."""

    def add(self, state: TicketState) -> None:
        """Nothing is counted down."""


class Watched(ControlPlane):
    """Tells itself of every answer's progress what was said of it by then; ``known`` is one of :data:`KNOWN`, ``told``
    the share of the looks of ``remaining`` that are not left out."""

    def __init__(
        self, pools: Sequence[PoolSpec], stages: Stages, settings: ControlSettings, known: str, told: float
    ) -> None:
        super().__init__(pools, stages, settings=settings)
        if known == WHOLE:
            self._unseen = _Uncounted(self._fleet)
        self._known = known
        self._told = told
        self._rows: dict[TicketId, int] = {}
        self._streams: Streams | None = None
        self.errors: list[float] = []

    def watch(self, streams: Streams, rows: Mapping[TicketId, int]) -> None:
        """Whose answers the tickets get."""
        self._streams, self._rows = streams, dict(rows)

    def on_first_token(self, ticket: TicketId, now: float) -> None:
        if not self._known.startswith(WHOLE):
            super().on_first_token(ticket, now)

    def on_tokens(self, ticket: TicketId, total_output_tokens: int, now: float) -> None:
        if not self._known.startswith(WHOLE):
            super().on_tokens(ticket, total_output_tokens, now)
        streams = self._streams
        if streams is None:
            return
        row = self._rows[ticket]
        left = streams.outputs[row] - total_output_tokens
        tokens, said = streams.looks[row]
        at = bisect_right(tokens, total_output_tokens) - 1
        told = at >= 0 and tokens[at] > 0 and crc32(f"{ticket} {at}".encode()) < self._told * 2**32
        if self._known == "remaining" and told:
            self.on_remaining(ticket, tokens[at], said[at], now)
        elif self._known == "truth at each look" and total_output_tokens >= EVERY:
            self.on_remaining(ticket, total_output_tokens, left, now)
        state = self._tickets.get(ticket)
        if state is not None:
            self.errors.append(abs(state.work - left))


def read(folder: Path, folds: int = 5) -> Streams:
    """Every answer by models that never saw its prompt."""
    from predictors.embedding import Embedder
    from predictors.length.data import read_arena
    from predictors.length.remaining.data import read_answers
    from predictors.length.remaining.evaluation import Knowledge, out_of_fold
    from predictors.length.remaining.train import Priors, RemainingSettings, look_at, prompt_priors
    from predictors.length.train import grouped_folds

    answers, lengths = read_answers(folder), read_arena(folder)
    embeddings = Embedder().embed([prompt.text for prompt in lengths.prompts])
    groups = np.asarray(answers.groups)
    of = grouped_folds(answers.groups, folds, 0)
    rank, typical = np.empty(len(answers)), np.empty(len(answers))

    def priors(known: set[str]) -> Priors:
        found = prompt_priors(answers, lengths, embeddings, known)
        judged = ~np.isin(groups, sorted(known))
        rank[judged], typical[judged] = found.rank[judged], found.typical[judged]
        return found

    looks = look_at(answers, EVERY)
    said = out_of_fold(answers, looks, of, priors, Knowledge(), RemainingSettings(every=EVERY))["remaining"].expected
    found = []
    for row in range(len(answers)):
        rows = looks.answer == row
        found.append((tuple(looks.tokens[rows].tolist()), tuple(said[rows].tolist())))
    return _streams(answers, rank.tolist(), typical.tolist(), tuple(found))


def _streams(
    answers: Answers,
    rank: Sequence[float],
    typical: Sequence[float],
    looks: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...],
) -> Streams:
    prompts = tuple(max(8, len(prompt.text) // _CHARS_PER_TOKEN) for prompt in answers.prompts)
    scores = tuple(Scores(r, t) for r, t in zip(rank, typical, strict=True))
    return Streams(answers.models, prompts, tuple(max(2, n) for n in answers.tokens.tolist()), scores, looks)


def replay(
    streams: Streams,
    rows: Sequence[int],
    at: Sequence[float],
    place: str,
    known: str,
    profiles: Sequence[Profile],
    told: float,
) -> dict[str, float]:
    """Every request to its end."""
    settings = ControlSettings(max_queue=1_000_000, max_queue_s=1e9, record_share=0.0, score_always=True)
    pools = (PoolSpec(POOL, profiles[0].model, 0, context_length=profiles[0].max_model_len, profile=PROFILE),)
    chosen = {"order": ("length_rank", {"ageing": "relative"}), "place": (place, {})}
    resources = Resources(pools, settings, artifacts=ArtifactStore(shipped_models(), None))
    control = Watched(pools, build(chosen, resources), settings, known, told)
    requests = []
    for i, (row, when) in enumerate(zip(rows, at, strict=True)):
        output, scores = streams.outputs[row], streams.scores[row]
        if known == "truth from the start":
            scores = Scores(scores.length_rank, float(output))
        ticket = Ticket(str(i), POOL, prompt_tokens=streams.prompts[row], streams=not known.startswith(WHOLE))
        requests.append(FleetRequest(when, ticket, streams.prompts[row], {POOL: output}, scores, i))
    control.watch(streams, {str(i): row for i, row in enumerate(rows)})
    fleet = SimFleet(control)
    for i, profile in enumerate(profiles):
        held = profile.kv_blocks * profile.block_size
        fleet.add_worker(WorkerSpec(f"w{i}", POOL, f"sim://w{i}", 256, kv_tokens=held), SimEngine(profile))
    return {**figures(fleet.replay(requests)), "error": float(np.mean(control.errors))}


def capacity(streams: Streams, rows: Sequence[int], profiles: Sequence[Profile]) -> float:
    """Requests/s that the fleet ends while a queue of them is never empty, after the first quarter of that time."""
    settings = ControlSettings(max_queue=1_000_000, max_queue_s=1e9, record_share=0.0)
    pools = (PoolSpec(POOL, profiles[0].model, 0, context_length=profiles[0].max_model_len),)
    fleet = SimFleet(ControlPlane(pools, build({}, Resources(pools, settings)), settings=settings))
    fleet.add_worker(WorkerSpec("w", POOL, "sim://w", 256), SimEngine(profiles[0]))
    requests = [
        FleetRequest(0.0, Ticket(str(i), POOL, prompt_tokens=streams.prompts[row]), streams.prompts[row],
                     {POOL: streams.outputs[row]}, None, i)
        for i, row in enumerate(rows[:1200])
    ]  # fmt: skip
    ended = fleet.replay(requests)
    last = max(one.first_token_at or 0.0 for one in ended)
    ends = np.array([one.at for one in ended])
    rate = float(((ends > last / 4.0) & (ends <= last)).sum() / (0.75 * last))
    return rate * sum(profiles[0].a / one.a for one in profiles)


def study(
    streams: Streams, place: str, load: float, requests: int, seeds: int, profiles: Sequence[Profile], told: float
) -> dict[str, list[dict[str, float]]]:
    """Figures by what is known, seed by seed."""
    found: dict[str, list[dict[str, float]]] = {known: [] for known in KNOWN}
    models = sorted(set(streams.models))
    for seed in range(seeds):
        random = np.random.default_rng([seed, 53])
        rows = random.choice(streams.of(models[seed % len(models)]), requests).tolist()
        rate = load * capacity(streams, rows, profiles)
        at = np.cumsum(random.exponential(1.0 / rate, requests)).tolist()
        for known in KNOWN:
            found[known].append(replay(streams, rows, at, place, known, profiles, told))
    return found


def main(
    place: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PLACES)}; all if left out.")] = None,
    load: Annotated[list[float] | None, typer.Option(help="In capacities; 0.85 and 1.05 if left out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with another model's answers.")] = 8,
    requests: Annotated[int, typer.Option(min=300, help="Of a run.")] = 3000,
    workers: Annotated[int, typer.Option(min=2, help="Of the fleet.")] = 4,
    slow: Annotated[float, typer.Option(min=1, help="How many times as long the last one takes a step.")] = 2.0,
    told: Annotated[float, typer.Option(min=0, max=1, help="Share of the looks that a gateway has time for.")] = 1.0,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Replay the same answers under every knowledge of what is left."""
    from cli.missing import data_dir
    from cli.report import Report

    if unknown := sorted(set(place or ()) - set(PLACES)):
        raise typer.BadParameter(f"no placement is called {unknown[0]!r}; there are {', '.join(PLACES)}")
    folder = data_dir(data, _ANSWERS)
    console, errors = Console(), Console(stderr=True)
    profile = Profile.load(ArtifactStore(shipped_models(), None).resolve(f"profile/{PROFILE}"))
    profiles = (*(profile,) * (workers - 1), slower(profile, slow))
    errors.print("fitting fast and remaining, five folds")
    streams = read(folder)
    settings = {
        "places": list(place or PLACES),
        "loads": list(load or (0.85, 1.05)),
        "seeds": seeds,
        "requests": requests,
        "workers": workers,
        "slow": slow,
        "told": told,
        "profile": PROFILE,
        "every": EVERY,
    }
    report = Report("benchmarks remaining_load", 0, settings)
    for name in place or PLACES:
        for share in load or (0.85, 1.05):
            errors.print(f"{name} at {share}")
            _rows(report, study(streams, name, share, requests, seeds, profiles, told), name, share)
    report.show(console, "÷ no re-prediction (mean over seeds, 95 % interval)", SHOWN)
    report.write(json_path)


def _rows(report: Report, runs: Mapping[str, Sequence[Mapping[str, float]]], place: str, load: float) -> None:
    for known, mine in runs.items():
        ratios = {f"{name}_ratio": ratio(mine, runs[OFF], name) for name in mine[0]}
        plain = {name: over_seeds([run[name] for run in mine]) for name in mine[0]}
        report.row({"place": place, "load": load, "known": known}, {**ratios, **plain})


if __name__ == "__main__":
    typer.run(main)
