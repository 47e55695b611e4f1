"""The same recorded conversations through headway and the gateways that people use today, before the same servers.

    python -m benchmarks.peers load --name overload --rate 60 --seconds 40 --burst 150 --out FILE
    python -m benchmarks.peers run --worker URL --worker URL --model NAME --load FILE --out FILE \\
        --system headway --system smg:cache_aware --system vllm-router:cache_aware --system round_robin
    python -m benchmarks.peers report FILE [--json FILE] [--plot FILE]

``load`` draws conversations of several tenants, one of them with half of the requests, over prompts that headway's
predictor was not fitted on, with the recorded lengths of one model's answers. ``run`` starts each gateway in turn
before the servers and asks it everything, each turn at its recorded time or when the answer before it has ended,
whichever is later; runs share no prefix, by a salt. ``report`` compares goodput, latency, cache hits, and what tenants
get.

Servers may run random weights (``--load-format dummy``): an answer ends after its recorded length, because
``min_tokens`` keeps one token out until then and ``logit_bias`` forces it afterwards. All gateways pass these on, none
reads them, and all are told the same ``max_tokens`` for every request. With ``--own-answers`` answers are the model's
own. Without a GPU: ``python -m benchmarks.peers_worker`` is a simulated server.
"""

from __future__ import annotations

import json
import math
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers_drive import Told
    from benchmarks.peers_figures import Run

_SHOWN: Final = (
    *("goodput", "good_share", "throughput", "hit_rate", "normalised_mean", "normalised_p90", "ttft_p50", "ttft_p99"),
    *("e2e_p50", "e2e_p99", "light_e2e_p99", "heavy_e2e_p99", "failed"),
)
_DRAWN: Final = (
    ("goodput", "goodput, requests/s"),
    ("normalised_mean", "mean s/token"),
    ("ttft_p90", "p90 to first token, s"),
    ("light_e2e_p99", "worst light tenant's p99, s"),
)
app = typer.Typer(add_completion=False, help=__doc__)


@contextmanager
def _said() -> Iterator[None]:
    """Turns what can go wrong into a line and exit code 1."""
    from benchmarks.peers_workload import WorkloadError
    from cli.bench.gateway_wrk import LoadError
    from cli.missing import fail
    from predictors.length.data import LengthDataError

    try:
        yield
    except (WorkloadError, LoadError, LengthDataError) as error:
        raise fail(str(error), 1) from error


@app.command()
def load(
    out: Annotated[Path, typer.Option(help="Where the requests go, as gzipped JSON.")],
    name: Annotated[str, typer.Option(help="What reports call this level of load.")] = "overload",
    rate: Annotated[float, typer.Option(help="Requests/s, without the burst.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="How long requests come.")] = 30.0,
    burst: Annotated[int, typer.Option(help="Further requests, within a second in the middle.")] = 40,
    tenants: Annotated[int, typer.Option(help="The first has half of the requests, the others share the rest.")] = 6,
    turns: Annotated[int, typer.Option(help="Turns that a conversation has at most; as few as one are as likely.")] = 4,
    think: Annotated[float, typer.Option(help="Mean seconds between two turns.")] = 6.0,
    system_words: Annotated[int, typer.Option(help="Words of a system prompt, about, on average.")] = 1500,
    max_tokens: Annotated[int, typer.Option(help="What every request asks for; answers are kept below.")] = 2048,
    context: Annotated[int, typer.Option(help="Tokens that the servers take, prompt and answer together.")] = 8192,
    scale: Annotated[float, typer.Option(help="Recorded lengths are multiplied by this.")] = 1.0,
    answers_of: Annotated[str | None, typer.Option(help="Whose lengths; by default the model's with most.")] = None,
    tasks: Annotated[int, typer.Option(help="Draw from so many verifiable tasks, for models that answer them.")] = 0,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Draw the conversations."""
    from benchmarks.peers_workload import Shape, arena_questions, make, task_questions
    from cli.missing import data_dir
    from predictors.length.data import ARENA_LENGTHS

    shape = Shape(*(name, rate, seconds, burst, tenants, turns, think, system_words, max_tokens, context, scale, seed))
    with _said():
        if tasks:
            questions, source = task_questions(tasks, seed)
        else:
            questions, source = arena_questions(
                data_dir(data, ARENA_LENGTHS),
                _held_out(),
                answers_of=answers_of,
                scale=scale,
                max_tokens=max_tokens,
                seed=seed,
            )
        workload = make(shape, questions, source)
    workload.write(out)
    asked = [turn.question.output_tokens for each in workload.sessions for turn in each.turns if turn.at >= 0]
    typer.echo(
        f"{len(asked)} requests in {len(workload.sessions)} conversations, {sum(asked)} tokens of answers: {source}"
    )


def _held_out() -> Sequence[str]:
    """The arena groups that the shipped ``length/fast`` was not fitted on."""
    from controller.store import ArtifactStore, shipped_models

    groups: Sequence[str] = ArtifactStore(shipped_models(), None).verify("length/fast").held_out["arena"]["groups"]
    return groups


@app.command()
def run(
    worker: Annotated[list[str], typer.Option(help="A server's root URL; several.")],
    model: Annotated[str, typer.Option(help="The model that all of them serve.")],
    load_paths: Annotated[list[Path], typer.Option("--load", help="What `load` wrote; several, one level each.")],
    out: Annotated[Path, typer.Option(help="Where results go, a JSON line a request; what is there is kept.")],
    system: Annotated[list[str], typer.Option(help="headway, smg:POLICY, vllm-router:POLICY, round_robin; several.")],
    max_inflight: Annotated[
        int, typer.Option(help="Requests that headway keeps on a server: its --max-num-seqs.")
    ] = 64,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the load generator.")] = 2,
    gateway_processes: Annotated[int, typer.Option(min=1, help="Processes of headway; peers use threads.")] = 1,
    own_answers: Annotated[bool, typer.Option("--own-answers", help="Do not set the answers' lengths.")] = False,
    completions: Annotated[
        bool, typer.Option("--completions", help="Ask /v1/completions, for models without a chat template.")
    ] = False,
    envs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where peers are installed; HEADWAY_HOME/peers if left out.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="No run is begun after so long.")] = 60.0,
) -> None:
    """Measure each gateway at each level of load."""
    from benchmarks.peers_systems import Fleet, check, running
    from benchmarks.peers_workload import read
    from controller.store import home_in

    began = time.monotonic()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a gateway's stream holds two, and shells give 1,024
    with _said(), tempfile.TemporaryDirectory() as work, out.open("a") as file:
        for each in system:
            check(each)
        shapes = [read(path).shape for path in load_paths]
        fleet = Fleet(tuple(worker), model, max_inflight, min(shape.context for shape in shapes))
        for name in system:
            with running(name, fleet, envs or home_in(os.environ) / "peers", Path(work), gateway_processes) as gateway:
                for path in load_paths:
                    if time.monotonic() - began > 60.0 * minutes:
                        return
                    told, line = _measure(name, path, fleet, gateway.url, processes, own_answers, completions)
                    line |= {"version": gateway.version, "gateway_processes": gateway_processes}
                    file.write(json.dumps({"run": line}) + "\n")
                    file.writelines(json.dumps(asdict(one)) + "\n" for one in told)
                    file.flush()


def _measure(
    name: str, path: Path, fleet: Any, url: str, processes: int, own_answers: bool, completions: bool
) -> tuple[list[Told], dict[str, Any]]:
    """What became of each request of one level, and what there is to say of the run."""
    from benchmarks.peers_drive import Target, drive
    from benchmarks.peers_systems import cached, metrics, wait_idle
    from benchmarks.peers_workload import read

    wait_idle(fleet.urls)
    before = [metrics(each) for each in fleet.urls]
    salt = secrets.token_hex(4)
    told = drive(path, Target(url, fleet.model, own_answers, not completions), name, salt, processes)
    wait_idle(fleet.urls)
    hit_rate = cached(before, [metrics(each) for each in fleet.urls])
    level = told[0].level
    failed = [one.error for one in told if one.error is not None]
    seconds = max(one.at + one.e2e for one in told)
    typer.echo(f"{name} {level}: {len(told)} ended in {seconds:.1f} s, {len(failed)} failed {failed[:1]}", err=True)
    workload = read(path)
    line = {"id": salt, "system": name, "level": level, "hit_rate": hit_rate, "max_inflight": fleet.max_inflight}
    return told, line | {"shape": asdict(workload.shape), "source": workload.source, "own_answers": own_answers}


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="What `run` wrote.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the main figures here.")] = None,
    ttft: Annotated[float, typer.Option(help="Seconds that a first token may take …")] = 2.0,
    ttft_per_1k: Annotated[float, typer.Option(help="… and for each 1,000 tokens of the prompt.")] = 0.0625,
    tpot: Annotated[float, typer.Option(help="Seconds that each further token may take, on average.")] = 0.1,
    normalised: Annotated[float, typer.Option(help="Seconds a token, of the other kind of goodput.")] = 0.1,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples behind each interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Each system's figures by level, and headway's as ratios to the best peer's."""
    import numpy as np
    from rich.console import Console

    from benchmarks.peers_figures import HEADWAY, Objectives, best_peer, mean_figures, ratios
    from cli.report import Report

    objectives = Objectives(ttft, ttft_per_1k, tpot, normalised)
    runs, lines = read_runs(path)
    shown = Report("benchmarks peers", seed, {"objectives": asdict(objectives), "resamples": resamples, "runs": lines})
    over, intervals, against, ratios_of = {}, {}, {}, {}
    for level, systems in runs.items():
        for name, each in systems.items():
            shown.row({"level": level, "system": name, "runs": len(each)}, mean_figures(each, objectives))
        best = best_peer(systems, objectives)
        if best is not None and HEADWAY in systems:
            found = ratios(systems, HEADWAY, objectives, resamples, np.random.default_rng(seed))
            ratios_of[level] = found
            over[level] = {n: _finite(each.value) for n, each in found.items()}
            intervals[level] = {n: [_finite(each.lo), _finite(each.hi)] for n, each in found.items()}
            against[level] = best
    shown.extra("ratios", over)
    shown.extra("ratios_ci", intervals)
    shown.extra("best_peer", against)
    shown.write(json_path)
    shown.show(Console(width=220), "headway and its peers", _SHOWN)
    for level, found in ratios_of.items():
        said = ", ".join(f"{n} {one.value:.3g} [{one.lo:.3g}, {one.hi:.3g}]" for n, one in found.items())
        Console(width=220).print(f"{level}: headway ÷ {against[level]}: {said}")
    if plot is not None:
        _draw(plot, shown.results)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def read_runs(path: Path) -> tuple[dict[str, dict[str, list[Run]]], list[Mapping[str, Any]]]:
    """What ``run`` wrote, by level and system, and the lines about the runs."""
    from benchmarks.peers_drive import Told
    from benchmarks.peers_figures import Run

    lines: dict[str, Mapping[str, Any]] = {}
    told: dict[str, list[Told]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        if isinstance(row["run"], dict):
            lines[row["run"]["id"]] = row["run"]
        else:
            told.setdefault(row["run"], []).append(Told(**row))
    found: dict[str, dict[str, list[Run]]] = {}
    for name, rows in told.items():
        line = lines[name]
        found.setdefault(line["level"], {}).setdefault(line["system"], []).append(Run(tuple(rows), line["hit_rate"]))
    return found, list(lines.values())


def _draw(path: Path, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    levels = list(dict.fromkeys(labels["level"] for labels, _ in rows))
    figure, axes = plt.subplots(
        len(levels), len(_DRAWN), figsize=(13, 0.6 + 2.4 * len(levels)), layout="constrained", squeeze=False
    )
    for level, row in zip(levels, axes, strict=True):
        here = [(labels["system"], metrics) for labels, metrics in rows if labels["level"] == level]
        for number, (axis, (name, title)) in enumerate(zip(row, _DRAWN, strict=True)):
            values = [metrics[name] or 0.0 for _, metrics in here]
            colours = ["tab:blue" if system.startswith("headway") else "tab:grey" for system, _ in here]
            axis.barh([system for system, _ in here], values, color=colours)
            axis.invert_yaxis()
            axis.set_title(f"{title} ({level})", fontsize=9)
            axis.tick_params(labelsize=8, labelleft=number == 0)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    app()
