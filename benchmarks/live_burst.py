"""A burst on a real server through the gateway: what do length ranks gain over first come, first served?

    python -m benchmarks.live_burst run --worker URL --model NAME --load FILE --out FILE [--policy fcfs --policy deep …]
    python -m benchmarks.live_burst load --data DIR --scores FILE --out FILE
    python -m benchmarks.live_burst report FILE [--json FILE] [--plot FILE]

``load`` pairs real prompts with the recorded length of one model's answer each, and with every predictor's score of
the prompt; the scores are cross-fitted, so that no prompt is scored by a model that has seen it. ``run`` asks them of a
vLLM server (``--scheduling-policy priority``) through a gateway of its own, policy by policy: a burst, and a steady
stream behind it. ``report`` compares them with first come, first served.

The server may run random weights (``--load-format dummy``): an answer ends after its recorded length, because
``min_tokens`` keeps one token out until then and ``logit_bias`` forces it afterwards. The gateway knows neither, and is
told the same ``max_tokens`` for every request.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controller.types import Scores
from predictors.types import Prompt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upstream.client import Client

FCFS: Final = "fcfs"
ORACLE: Final = "oracle"
_MOST_TOKENS: Final = 4096
_LONGEST_ANSWER: Final = 2000
_LONGEST_PROMPT: Final = 6000
_LAST_TOKEN: Final = 5
"""The token that ends an answer."""
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


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it comes (s), its text, how many tokens its answer has, and what each predictor makes of it."""

    at: float
    text: str
    output_tokens: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """What became of it, in seconds from its arrival ``at``; ``output_tokens`` as the server counted them."""

    policy: str
    repetition: int
    index: int
    at: float
    output_tokens: int
    ttft: float
    e2e: float
    error: str | None = None


class Table:
    """Stands where predictors stand: looks up what one of them says of a text."""

    def __init__(self, asked: Sequence[Asked], predictor: str) -> None:
        scores = np.array([_score(one, predictor) for one in asked])
        places = (np.argsort(np.argsort(scores, kind="stable")) + 0.5) / len(scores)
        lengths = np.sort([one.output_tokens for one in asked])
        tokens = np.quantile(lengths, places)
        self._known = {
            one.text: Scores(float(place), float(expected))
            for one, place, expected in zip(asked, places, tokens, strict=True)
        }

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        """One row a prompt."""
        return [self._known.get(prompt.text, Scores()) for prompt in prompts]


def _score(one: Asked, predictor: str) -> float:
    return float(one.output_tokens) if predictor == ORACLE else one.scores.get(predictor, 0.0)


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
    out.write_bytes(gzip.compress(json.dumps([[asdict(one) for one in each] for each in loads]).encode()))


def read_load(path: Path) -> list[list[Asked]]:
    """What ``load`` wrote."""
    return [[Asked(**one) for one in each] for each in json.loads(gzip.decompress(path.read_bytes()))]


@app.command()
def run(
    worker: Annotated[str, typer.Option(help="The server's root URL.")],
    model: Annotated[str, typer.Option(help="The model it serves.")],
    load_path: Annotated[Path, typer.Option("--load", help="What `load` wrote.")],
    out: Annotated[Path, typer.Option(help="Where results go, a JSON line a request; what is there is kept.")],
    policy: Annotated[list[str], typer.Option(help="fcfs, oracle, or a predictor's name.")],
    max_inflight: Annotated[int, typer.Option(help="Requests that the gateway keeps on the server.")] = 256,
    minutes: Annotated[float, typer.Option(help="No run is begun after so long.")] = 10.0,
    share: Annotated[float, typer.Option(help="Share of each load to ask, for rehearsals.")] = 1.0,
) -> None:
    """Measure the policies on a real server."""
    began = time.monotonic()
    with out.open("a") as file:
        for repetition, asked in enumerate(read_load(load_path)):
            taken = asked[:: max(1, round(1 / share))]
            for name in policy:
                if time.monotonic() - began > 60.0 * minutes:
                    return
                told = asyncio.run(_measure(name, repetition, taken, worker, model, max_inflight))
                file.writelines(json.dumps(asdict(one)) + "\n" for one in told)
                file.flush()
                seconds = max(one.at + one.e2e for one in told)
                typer.echo(f"{name} #{repetition}: {len(told)} ended in {seconds:.1f} s", err=True)


async def _measure(
    policy: str, repetition: int, asked: Sequence[Asked], worker: str, model: str, max_inflight: int
) -> list[Told]:
    from upstream.client import Client

    scorer = None if policy == FCFS else Table(asked, policy)
    async with _gateway(policy, scorer, worker, model, max_inflight) as url, Client() as client:
        start = asyncio.get_running_loop().time() + 0.5

        async def one(index: int, request: Asked) -> Told:
            due = start + request.at
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            first, ended, tokens, error = await _ask(client, url, model, request)
            return Told(policy, repetition, index, request.at, tokens, first - due, ended - due, error)

        return list(await asyncio.gather(*(one(i, request) for i, request in enumerate(asked))))


async def _ask(client: Client, url: str, model: str, request: Asked) -> tuple[float, float, int, str | None]:
    """When the first token came and the last, how many there were, and what went wrong."""
    from upstream import sse
    from upstream.types import Timeouts

    clock = asyncio.get_running_loop().time
    body = {
        "model": model,
        "prompt": request.text,
        "max_tokens": _MOST_TOKENS,
        "min_tokens": request.output_tokens,
        "stop_token_ids": [_LAST_TOKEN],
        "logit_bias": {str(_LAST_TOKEN): 100},
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = [(b"content-type", b"application/json")]
    patience = Timeouts(first_byte=900.0, idle=900.0)
    buffer, first, tokens = sse.EventBuffer(), 0.0, 0
    raw = json.dumps(body).encode()
    async with client.stream(b"POST", f"{url}/v1/completions", headers=headers, body=raw, timeouts=patience) as answer:
        if answer.status != 200:
            return clock(), clock(), 0, f"status {answer.status}: {(await answer.body())[:200]!r}"
        async for chunk in answer.chunks():
            first = first or clock()
            for event in sse.split(buffer.feed(chunk)):
                found = sse.data(event)
                if found is not None and b'"completion_tokens"' in found:
                    usage = json.loads(found).get("usage") or {}
                    tokens = int(usage.get("completion_tokens", tokens))
    return first, clock(), tokens, None if tokens else "the answer has no usage"


@asynccontextmanager
async def _gateway(policy: str, scorer: Table | None, worker: str, model: str, max_inflight: int) -> AsyncIterator[str]:
    """A gateway in a thread of this process, until the end of the block."""
    import threading

    import uvicorn

    from controller.configuration import Configuration
    from controller.store import ArtifactStore, shipped_models
    from envs.engines.vllm_process import free_port
    from gateway.application import create_app
    from gateway.server import Waits, protocol

    configuration = Configuration.model_validate({
        "pools": [{
            "name": "pool", "model": model, "tier": 0, "context_length": 8192,
            "workers": [
                {"name": "w", "url": worker, "max_inflight": max_inflight, "priority_scheduling": True},
            ],
        }],
        "limits": {"max_queue": 100_000, "max_queue_seconds": 3600},
        "stages": {"order": FCFS if policy == FCFS else "length_rank"},
        "scoring": {"length": None, "quality": None, "when": "always"},
    })  # fmt: skip
    application = create_app(configuration, store=ArtifactStore(shipped_models(), None), scorer=scorer)
    port = free_port()
    waits = Waits(60.0, 60.0, 900.0, 900.0)
    settings = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        http=protocol(application, waits, application.runtime.clients),
        lifespan="on",
        ws="none",
        log_level="warning",
        backlog=4096,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started or not sum(application.runtime.ready_workers().values()):
            if not thread.is_alive():
                raise RuntimeError("the gateway did not start")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 30.0)


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
    shown = Report("live burst", seed, {"requests": len(next(iter(runs.values()))), "runs": len(runs)})
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
