"""A burst on a real server through the gateway: what do length ranks gain over first come, first served?

    python -m benchmarks.live_burst run --worker URL --model NAME --load FILE --out FILE [--policy fcfs --policy deep …]
    python -m benchmarks.live_burst load --data DIR --scores FILE --out FILE
    python -m benchmarks.live_burst own-load --rows FILE --out FILE
    python -m benchmarks.live_burst report FILE --load FILE [--json FILE] [--plot FILE]

``load`` pairs real prompts with the recorded length of one model's answer each, and with every predictor's score of
the prompt; the scores are cross-fitted, so that no prompt is scored by a model that has seen it. ``run`` asks them of a
vLLM server (``--scheduling-policy priority``) through a gateway of its own, policy by policy: a burst, and a steady
stream behind it. ``report`` compares them with first come, first served.

The server may run random weights (``--load-format dummy``): an answer ends after its recorded length, because
``min_tokens`` keeps one token out until then and ``logit_bias`` forces it afterwards. The gateway knows neither, and is
told the same ``max_tokens`` for every request.

With ``run --own-answers`` nothing but the model says where an answer ends. ``own-load`` draws prompts that ``headway
collect`` asked that model several times; ``oracle`` is then the mean length of those samples, and the requests have
other seeds. ``--serve NAME=length/ARTIFACT`` lets the gateway score prompts itself with an artifact of its store.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.live_burst_drive import FCFS, ORACLE, Asked, Told, Way, measure

_LONGEST_ANSWER: Final = 2000
_LONGEST_PROMPT: Final = 6000
_STATISTICS: Final = (
    "normalised_mean",
    "normalised_p90",
    "ttft_mean",
    "ttft_p99",
    "e2e_mean",
    "e2e_p99",
    "longest_wait",
)

Floats = NDArray[np.float64]
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def load(
    data: Annotated[Path, typer.Option(help="Folder of public data.")],
    scores: Annotated[Path, typer.Option(help="npz: `group` (prompts' content hashes) and cross-fitted scores.")],
    out: Annotated[Path, typer.Option(help="Where the requests go, as gzipped JSON.")],
    burst: Annotated[int, typer.Option(help="Requests at once.")] = 500,
    steady: Annotated[int, typer.Option(help="Requests after them.")] = 120,
    rate: Annotated[float, typer.Option(help="Of those, requests/s.")] = 3.0,
    repetitions: Annotated[int, typer.Option(help="Loads to make.")] = 2,
    answers_of: Annotated[
        str | None, typer.Option(help="Whose lengths; by default the model's with most prompts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Draw the requests: different prompts, with the lengths of one model's answers, as one pool has them."""
    from scipy.stats import kendalltau

    from predictors.length.data import read_arena

    table = read_arena(data)
    with np.load(scores, allow_pickle=False) as found:
        names = [name for name in found.files if name != "group"]
        rows = {str(group): i for i, group in enumerate(found["group"])}
        columns = {name: np.asarray(found[name], float) for name in names}
    answered = ~np.isnan(table.tokens)
    if answers_of is not None and answers_of not in table.models:
        raise typer.BadParameter(f"there are no answers of {answers_of!r}; there are of {', '.join(table.models)}")
    model = int(answered.sum(axis=0).argmax()) if answers_of is None else table.models.index(answers_of)
    usable = [int(i) for i in np.flatnonzero(answered[:, model]) if table.groups[i] in rows]
    if burst + steady > len(usable):
        raise typer.BadParameter(f"{table.models[model]} answered {len(usable)} prompts, too few for a load")
    rng = np.random.default_rng(seed)
    loads = []
    for repetition in range(repetitions):
        drawn = rng.choice(usable, burst + steady, replace=False)
        at = np.concatenate([np.zeros(burst), np.cumsum(rng.exponential(1.0 / rate, steady))])
        loads.append(
            [
                Asked(
                    float(when),
                    f"{table.prompts[i].text[:_LONGEST_PROMPT]}\n\n[{repetition}.{number}]",
                    int(np.clip(table.tokens[i, model], 1, _LONGEST_ANSWER)),
                    {name: float(column[rows[table.groups[i]]]) for name, column in columns.items()},
                )
                for number, (when, i) in enumerate(zip(at, drawn, strict=True))
            ]
        )
        lengths = [one.output_tokens for one in loads[-1]]
        taus = {n: round(kendalltau(lengths, [one.scores[n] for one in loads[-1]]).statistic, 3) for n in names}
        typer.echo(
            f"{len(lengths)} requests of {table.models[model]}, mean length {np.mean(lengths):.0f}; tau-b {taus}"
        )
    write_load(out, loads)


@app.command()
def own_load(
    rows: Annotated[Path, typer.Option(help="What `headway collect --samples k` wrote, of the model to be asked.")],
    out: Annotated[Path, typer.Option(help="Where the requests go, as gzipped JSON.")],
    burst: Annotated[int, typer.Option(help="Requests at once.")] = 400,
    repetitions: Annotated[int, typer.Option(help="Loads to make.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Draw bursts of prompts whose answers' lengths were collected, for ``run --own-answers``."""
    from predictors.length.data import read_collected

    data = read_collected(rows)
    usable = np.flatnonzero((~np.isnan(data.tokens)).all(axis=1))
    if len(data.models) != 1 or burst > len(usable):
        raise typer.BadParameter(
            f"{rows} has {len(usable)} prompts of {', '.join(data.models)}; a burst needs {burst} of one model"
        )
    rng = np.random.default_rng(seed)
    loads = [
        [Asked(0.0, data.prompts[i].text, float(data.tokens[i, 0]), {}) for i in rng.choice(usable, burst, False)]
        for _ in range(repetitions)
    ]
    write_load(out, loads)
    typer.echo(f"{repetitions} x {burst} requests of {data.models[0]}, mean length {data.tokens[usable].mean():.0f}")


def write_load(path: Path, loads: Sequence[Sequence[Asked]]) -> None:
    """As gzipped JSON."""
    path.write_bytes(gzip.compress(json.dumps([[asdict(one) for one in each] for each in loads]).encode()))


def read_load(path: Path) -> list[list[Asked]]:
    """What ``load`` or ``own-load`` wrote."""
    return [[Asked(**one) for one in each] for each in json.loads(gzip.decompress(path.read_bytes()))]


@app.command()
def run(
    worker: Annotated[str, typer.Option(help="The server's root URL.")],
    model: Annotated[str, typer.Option(help="The model it serves.")],
    load_path: Annotated[Path, typer.Option("--load", help="What `load` wrote.")],
    out: Annotated[Path, typer.Option(help="Where results go, a JSON line a request; what is there is kept.")],
    policy: Annotated[list[str], typer.Option(help="fcfs, oracle, or a predictor's name.")],
    max_inflight: Annotated[int, typer.Option(help="Requests that the gateway keeps on the server.")] = 256,
    clients: Annotated[int, typer.Option(min=1, help="Processes that ask.")] = 2,
    minutes: Annotated[float, typer.Option(help="No run is begun after so long.")] = 10.0,
    share: Annotated[float, typer.Option(help="Share of each load to ask, for rehearsals.")] = 1.0,
    own_answers: Annotated[bool, typer.Option("--own-answers", help="The model ends its answers itself.")] = False,
    temperature: Annotated[float, typer.Option(help="Of the model's own answers.")] = 0.7,
    serve: Annotated[
        list[str] | None, typer.Option(metavar="NAME=REF", help="A policy by an artifact that the gateway loads.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="HEADWAY_HOME with such artifacts; else what ships.")] = None,
) -> None:
    """Measure the policies on a real server. Which comes first changes from one load to the next."""
    refs = dict(pair.split("=", 1) for pair in serve or [] if "=" in pair)
    if unknown := [pair for pair in serve or [] if pair.split("=", 1)[0] not in refs] + [
        name for name in refs if name not in policy
    ]:
        raise typer.BadParameter(f"--serve is NAME=REF with NAME one of the policies, not {', '.join(unknown)}")
    how = Way(worker, model, max_inflight, clients, temperature if own_answers else None, refs, home)
    began = time.monotonic()
    with out.open("a") as file:
        for repetition, asked in enumerate(read_load(load_path)):
            taken = asked[:: max(1, round(1 / share))]
            first = repetition % len(policy)
            for name in [*policy[first:], *policy[:first]]:
                if time.monotonic() - began > 60.0 * minutes:
                    typer.echo(
                        "out of time; repetitions that not every policy has are left out of the report", err=True
                    )
                    return
                told = measure(name, repetition, taken, how)
                file.writelines(json.dumps(asdict(one)) + "\n" for one in told)
                file.flush()
                seconds = max(one.at + one.e2e for one in told)
                typer.echo(f"{name} #{repetition}: {len(told)} ended in {seconds:.1f} s", err=True)


def read_told(path: Path) -> list[Told]:
    """What ``run`` wrote."""
    return [Told(**json.loads(line)) for line in path.read_text().splitlines()]


def figures(told: Sequence[Told]) -> dict[str, float]:
    """Statistics of one run, in seconds (normalised: a token); a request that failed took for ever."""
    failed = np.array([one.error is not None for one in told])
    e2e = np.where(failed, np.inf, [one.e2e for one in told])
    ttft = np.where(failed, np.inf, [one.ttft for one in told])
    tokens = np.array([max(one.output_tokens, 1) for one in told])
    normalised = e2e / tokens
    return {
        "normalised_mean": float(normalised.mean()),
        "normalised_p90": float(np.quantile(normalised, 0.9)),
        "ttft_mean": float(ttft.mean()),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "e2e_mean": float(e2e.mean()),
        "e2e_p99": float(np.quantile(e2e, 0.99)),
        "longest_wait": float(ttft.max()),
    }


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="What `run` wrote.")],
    load_path: Annotated[Path, typer.Option("--load", help="What it was asked.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios here.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples behind each interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Each policy's figures as a ratio to first come, first served, and its share of the oracle's gain."""
    from rich.console import Console

    from cli.report import Report
    from predictors.types import Interval

    runs = _runs(read_told(path), read_load(load_path))
    names = list(dict.fromkeys(name for name, _ in runs))
    rng = np.random.default_rng(seed)
    samples = list(_resampled(runs, resamples, rng))
    whole = _ratios(runs)
    settings = {"requests": len(next(iter(runs.values()))), "runs": len(runs), "resamples": resamples}
    shown = Report("benchmarks live_burst", seed, settings)
    for name in names:
        metrics: dict[str, Any] = {}
        for statistic in whole[name]:
            values = [sample[name][statistic] for sample in samples]
            metrics[statistic] = Interval(whole[name][statistic], *map(float, np.quantile(values, (0.025, 0.975))))
        shown.row({"policy": name}, metrics)
    shown.write(json_path)
    shown.show(Console(), "Ratios to first come, first served", list(whole[names[0]]))
    if plot is not None:
        _draw(plot, whole, names)


Runs = Mapping[tuple[str, int], list[Told]]


def _runs(told: Sequence[Told], asked: Sequence[Sequence[Asked]]) -> dict[tuple[str, int], list[Told]]:
    """By policy and repetition, those repetitions that every policy has."""
    found: dict[tuple[str, int], list[Told]] = {}
    for one in told:
        found.setdefault((one.policy, one.repetition), []).append(one)
    policies = {name for name, _ in found}
    whole = {r for _, r in found if all((name, r) in found for name in policies)}
    return {
        key: sorted(each, key=lambda one: one.index)
        for key, each in found.items()
        if key[1] in whole and len(asked) > key[1]
    }


def _ratios(runs: Runs) -> dict[str, dict[str, float]]:
    """Of each policy: its mean ratio to first come, first served over the repetitions, and its share of the gain."""
    figured = {key: figures(each) for key, each in runs.items()}
    repetitions = sorted({r for _, r in runs})
    names = dict.fromkeys(name for name, _ in runs)
    spans = {key: _tokens_per_s(each) for key, each in runs.items()}
    found: dict[str, dict[str, float]] = {}
    for name in names:
        ratios = {
            statistic: float(np.mean([figured[name, r][statistic] / figured[FCFS, r][statistic] for r in repetitions]))
            for statistic in _STATISTICS
        }
        ratios["throughput"] = float(np.mean([spans[name, r] / spans[FCFS, r] for r in repetitions]))
        found[name] = ratios
    if ORACLE in found:
        for name in names:
            for statistic in ("normalised_mean", "normalised_p90"):
                gain = 1.0 - found[ORACLE][statistic]
                found[name][f"share_of_gain_{statistic}"] = (1.0 - found[name][statistic]) / gain if gain else 0.0
    return found


def _tokens_per_s(told: Sequence[Told]) -> float:
    return sum(one.output_tokens for one in told) / max(one.at + one.e2e for one in told)


def _resampled(runs: Runs, resamples: int, rng: np.random.Generator) -> Iterator[dict[str, dict[str, float]]]:
    """The ratios with the requests of every repetition drawn anew, the same ones for every policy."""
    counts = {r: len(each) for (_, r), each in runs.items()}
    for _ in range(resamples):
        drawn = {r: rng.integers(0, count, count) for r, count in counts.items()}
        yield _ratios({(name, r): [each[i] for i in drawn[r]] for (name, r), each in runs.items()})


def _draw(path: Path, ratios: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = ("normalised_mean", "normalised_p90", "ttft_mean", "e2e_mean", "e2e_p99", "longest_wait", "throughput")
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [ratios[name][statistic] for statistic in shown]
        axes.bar(np.arange(len(shown)) + number * width, values, width, label=name)
    axes.set_xticks(np.arange(len(shown)) + 0.4 - width / 2, [name.replace("_", "\n") for name in shown], fontsize=8)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylabel("ratio to first come, first served")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    app()
