"""What predicting costs: every length predictor by itself, the whole decision, and how long the event loop is held up.

    python -m benchmarks.predictor_cost [--predictor fast …] [--calls 2000] [--rate 500] [--seconds 10]
                                        [--encoder DIR [--head DIR]] [--data DIR] [--json FILE]

``predictors``: each in a fresh process of one thread, from text to score: microseconds of one prompt, and of one in a
batch of 32, by the clock and by the processor's time (``cpu``), which other programs disturb less; prompts a second
that batches make; seconds to load it, and by how much the process grows for it, libraries included. ``length_prompt``
(the prompt's characters) is the baseline, ``embedding`` what ``fast`` and ``history`` read. ``remaining`` is a look at
a running stream: 48 events of JSON, their text, the countdown. ``deep`` answers from a process of its own, and needs
``--encoder``; without ``--head`` one is fitted to a few prompts, whose cost is the same.

``decision``: the gateway's driver, scoring and control plane under load, against the budget of 150 µs (p50) and 1 ms
(p99).

``loop``: the longest time that a heartbeat of the event loop came late, while 500 prompts arrive at once, and while 256
streams run at 40 tokens/s each, with and without prediction. Medians and ranges of several rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.predictor_cost_of import PREDICTORS, Cost, Sources, measure

if TYPE_CHECKING:
    from cli.report import Report

BUDGET_US: Final = (150.0, 1000.0)
ROUNDS: Final = 7
_COLUMNS: Final = (
    "us_p50", "us_p99", "cpu_us_p50", "batch_us_p50", "batch_us_p99", "batch_cpu_us_p50", "per_s", "load_s",
    "memory_mb",
)  # fmt: skip


def predictors(report: Report, names: Sequence[str], sources: Sources, errors: Console) -> None:
    """A row each, measured in a process of its own; what cannot be measured is said."""
    missing: dict[str, str] = {}
    for name in names:
        if name == "deep" and sources.encoder is None:
            missing[name] = "no encoder was named (--encoder)"
            continue
        errors.print(name)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                cost: Cost = pool.submit(measure, name, sources).result()
            except (ValueError, OSError, RuntimeError) as error:
                missing[name] = f"{type(error).__name__}: {error}"
                continue
        report.row({"part": "predictors", "case": name}, asdict(cost))
    report.extra("missing", missing)
    for name, why in missing.items():
        errors.print(f"{name} is left out: {why}")


def decision(report: Report, texts: Sequence[str], rate: float, seconds: float) -> None:
    """Every request's decision under load, by tier stage."""
    from cli.bench.decision_prompts import distinct
    from cli.bench.decision_run import Plan, run

    warm_up = round(rate)
    offered = distinct(texts, warm_up + round(seconds * rate), 0)
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
        measured = run(Plan("best_effort", rate, warm_up, 0), offered, Path(folder))
    scoring = ("embed", "rank", "quality", "score")
    for case, spent in (
        ("scoring", measured.sum_of(scoring)),
        ("pipeline", measured.sum_of([part for part in measured.parts if part not in scoring])),
        ("total", measured.total),
        ("total, CPU", measured.cpu),
    ):
        p50, p99 = (float(1e6 * q) for q in np.quantile(spent, (0.5, 0.99)))
        kept = {"p50_kept": float(p50 <= BUDGET_US[0]), "p99_kept": float(p99 <= BUDGET_US[1])}
        report.row({"part": "decision", "case": case}, {"us_p50": p50, "us_p99": p99, **kept})
    report.extra("scored", measured.share("scored", "unknown"))


def loop(report: Report, texts: Sequence[str]) -> None:
    """How long the event loop stood still, round by round."""
    from benchmarks.predictor_cost_loop import burst, streams

    for case, rounds in (
        *((f"500 prompts at once, {how}", found) for how, found in burst(texts[:500], ROUNDS).items()),
        *((f"256 streams, {how}", found) for how, found in streams(ROUNDS).items()),
    ):
        report.row({"part": "loop", "case": case}, _over_rounds(rounds))


def _over_rounds(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The median of each figure; its least and greatest as bounds."""
    from predictors.types import Interval

    columns = {name: [one[name] for one in rounds] for name in rounds[0]}
    return {name: Interval(float(np.median(found)), min(found), max(found)) for name, found in columns.items()}


def main(
    predictor: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PREDICTORS)}; all if left out.")] = None,
    calls: Annotated[int, typer.Option(min=100, help="Prompts that each is asked of, one by one.")] = 2000,
    rate: Annotated[float, typer.Option(min=1, help="Requests/s of the whole decision.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 10.0,
    encoder: Annotated[Path | None, typer.Option(metavar="DIR", help="Encoder of deep.")] = None,
    head: Annotated[Path | None, typer.Option(metavar="DIR", help="Its head; one is made if left out.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of public data; or HEADWAY_DATA.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here.")] = None,
) -> None:
    """Measure all three."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from cli.bench.decision_prompts import distinct, read
    from cli.report import Report

    if unknown := sorted(set(predictor or ()) - set(PREDICTORS)):
        raise typer.BadParameter(f"no predictor is called {unknown[0]!r}; there are {', '.join(PREDICTORS)}")
    console, errors = Console(width=160), Console(stderr=True)
    source, texts = read(None, data, 0, calls)
    texts = distinct(texts, max(calls, 500), 0)
    folder = data or (Path(os.environ["HEADWAY_DATA"]) if os.environ.get("HEADWAY_DATA") else None)
    settings = {
        "calls": calls, "rate": rate, "seconds": seconds, "prompts": source, "rounds": ROUNDS,
        "median_chars": int(np.median([len(text) for text in texts])), "load": os.getloadavg()[0],
    }  # fmt: skip
    report = Report("benchmarks predictor_cost", 0, settings)
    sources = Sources(tuple(texts[:calls]), folder, encoder, head)
    predictors(report, predictor or PREDICTORS, sources, errors)
    errors.print("the whole decision")
    decision(report, texts, rate, seconds)
    errors.print("the event loop")
    loop(report, texts)
    _show(report, console)
    report.write(json_path)


def _show(report: Report, console: Console) -> None:
    """One table a part."""
    from cli.report import Report

    for part, title, columns in (
        ("predictors", "One prompt (remaining: one look)", _COLUMNS),
        ("decision", "The whole decision, µs", None),
        ("loop", "The event loop, median of rounds, least and greatest", None),
    ):
        shown = Report(report.command, report.seed, report.settings)
        for labels, metrics in report.results:
            if labels["part"] == part:
                shown.row({"case": labels["case"]}, metrics)
        shown.show(console, title, columns)


if __name__ == "__main__":
    typer.run(main)
