"""How far a small language model's own reading of a prompt orders answers by length: frozen, and fine-tuned on a GPU.

    python benchmarks/length_deep.py prepare --data DIR --gguf FILE --out FOLDER     here: token ids, folds, weights
    python benchmarks/length_deep.py tune --folder FOLDER --out FOLDER --seconds 500    where there is a GPU; torch only
    python benchmarks/length_deep.py report --folder FOLDER --tuned FOLDER --out FILE

Settings are chosen on inner folds of the first outer fold's training part; what is reported is the outer 5 folds.
"""

from __future__ import annotations

import argparse
import io
import json
import queue
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LAYERS = 22
TEMPLATES = {
    "chat": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "system": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "question": (
        "<|im_start|>user\n",
        "\n\nHow long should the answer be?<|im_end|>\n<|im_start|>assistant\nThe answer should be",
    ),
    "raw": ("", "\n"),
    "thorough": (
        "<|im_start|>system\nYou are ChatGPT, a large language model. You answer thoroughly.<|im_end|>\n"
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "estimate": (
        "<|im_start|>system\nYou are a helpful AI assistant. Estimate how many words a good answer to the user's "
        "request needs.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "kinds": (
        "<|im_start|>system\nYou are a helpful AI assistant. Simple questions get short answers; essays, stories, "
        "lists and code are long.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
}
WATCHED = (12, 16, 18, 20, 22)
"""Layers whose last-token states are kept, frozen; of the last one the mean over tokens too."""
BASE: dict[str, Any] = {"epochs": 4}
PAIRED = {"mse": 1.0, "models": 1.0, "pairs": 1.0}
TRIED: dict[str, dict[str, Any]] = {
    "models": {},
    "all_losses": {"losses": PAIRED},
    "pairs": {"losses": {"pairs": 1.0}},
    "listmle": {"losses": {"listmle": 1.0}},
    "margin": {"losses": {"margin": 1.0}},
    "mse": {"losses": {"mse": 1.0}},
    "full": {"rank": 0, "frozen": 0, "learning_rate": 2e-5, "layer_decay": 0.9},
    "full_paired": {"rank": 0, "frozen": 0, "learning_rate": 2e-5, "layer_decay": 0.9, "losses": PAIRED},
    "top_6": {"rank": 0, "frozen": 16, "learning_rate": 3e-5},
    "last_mean": {"pooling": "last_mean"},
    "slow": {"learning_rate": 1e-4},
    "quick": {"learning_rate": 1e-3},
    "from_0": {"frozen": 0},
    "from_14": {"frozen": 14},
    "rank_4": {"rank": 4},
    "dropout": {"dropout": 0.4},
    "small_batch": {"batch": 16},
    "question": {"template": "question"},
    "raw": {"template": "raw"},
    "system": {"template": "system"},
    "full_quick": {"rank": 0, "frozen": 0, "learning_rate": 6e-5, "layer_decay": 0.9},
    "full_pull": {"rank": 0, "frozen": 0, "learning_rate": 5e-5, "layer_decay": 0.9, "pull": 200.0},
    "question_paired": {"template": "question", "losses": PAIRED},
    "system_mean": {"template": "system", "pooling": "last_mean", "epochs": 3},
    "system_mean_16": {"template": "system", "pooling": "last_mean", "epochs": 3, "exit": 16, "frozen": 4},
    "system_mean_margin": {
        "template": "system",
        "pooling": "last_mean",
        "epochs": 3,
        "losses": {"models": 1.0, "margin": 1.0},
    },
    "question_full": {"template": "question", "rank": 0, "frozen": 0, "learning_rate": 3e-5, "layer_decay": 0.9},
}


def prepare(data_dir: Path, gguf: Path, out: Path) -> None:
    """Write ``prompts.npz`` and ``weights.npz``: only the embeddings of tokens that occur, everything as stored."""
    from predictors.length.data import read_arena
    from predictors.length.deep.gguf import read_gguf
    from predictors.length.deep.text import Reader, tokenizer_of
    from predictors.length.evaluation import held_out_mask
    from predictors.length.train import grouped_folds

    data, file = read_arena(data_dir), read_gguf(gguf)
    tokenizer = tokenizer_of(file.metadata)
    read = {
        name: Reader(tokenizer, *around).read([prompt.text for prompt in data.prompts])
        for name, around in TEMPLATES.items()
    }
    used = np.unique(np.concatenate([row for rows in read.values() for row in rows]))
    folds = grouped_folds(data.groups, 5, 0)
    inner = np.full(len(data), -1)
    outside = np.flatnonzero(folds != 0)
    inner[outside] = grouped_folds([data.groups[i] for i in outside], 4, 1)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "prompts.npz",
        allow_pickle=False,
        tokens=data.tokens,
        groups=np.array(data.groups),
        models=np.array(data.models),
        folds=folds,
        inner=inner,
        held_out=held_out_mask(data, 0.15, ["arena"]),
        **{f"{name}_ids": np.searchsorted(used, np.concatenate(rows)).astype(np.uint16) for name, rows in read.items()},
        **{f"{name}_lengths": np.array([len(row) for row in rows]) for name, rows in read.items()},
    )
    embedding = file.tensors["token_embd.weight"]
    width = embedding.raw.size // embedding.shape[0]
    wanted = {name: stored for name, stored in file.tensors.items() if _layer_of(name) < LAYERS}
    arrays = {name: stored.raw for name, stored in wanted.items()}
    arrays["token_embd.weight"] = embedding.raw.reshape(-1, width)[used].reshape(-1)
    described = {name: [stored.shape, stored.encoding] for name, stored in wanted.items()}
    described["token_embd.weight"] = [(len(used), embedding.shape[1]), embedding.encoding]
    metadata = {key: value for key, value in file.metadata.items() if not isinstance(value, list)}
    np.savez(
        out / "weights.npz",
        allow_pickle=False,
        about=np.array(json.dumps({"tensors": described, "metadata": metadata})),
        **arrays,
    )


def _layer_of(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else LAYERS


class Bench:
    """All that a worker holds on its device; states below the tuned layers are kept between jobs."""

    def __init__(self, folder: Path, device: str, quick: int) -> None:
        import torch

        from predictors.length.deep.gguf import Gguf, Stored
        from predictors.length.deep.weights import layers_of

        self.device = torch.device(device)
        with np.load(folder / "prompts.npz") as stored:
            self.prompts = dict(stored)
        self.count = quick or len(self.prompts["folds"])
        for name in ("tokens", "groups", "folds", "inner", "held_out"):
            self.prompts[name] = self.prompts[name][: self.count]
        with np.load(folder / "weights.npz") as stored:
            about = json.loads(str(stored["about"]))
            tensors = {
                name: Stored(tuple(shape), encoding, stored[name])
                for name, (shape, encoding) in about["tensors"].items()
            }
        file = Gguf(about["metadata"], tensors)
        self.weights = [
            {name: torch.as_tensor(value, device=self.device) for name, value in layer.items()}
            for layer in layers_of(file, LAYERS)
        ]
        self.embedding = torch.as_tensor(file.tensor("token_embd.weight"), device=self.device)
        self.below: dict[tuple[str, int], Any] = {}
        self.frozen: dict[tuple[str, int], Any] = {}

    def ids(self, template: str) -> list[Any]:
        """Token ids of every prompt."""
        ends = np.cumsum(self.prompts[f"{template}_lengths"])[:-1]
        return np.split(self.prompts[f"{template}_ids"], ends)[: self.count]

    def states(self, template: str, layers: int) -> Any:
        """States after the first layers, in half precision."""
        from predictors.length.deep.tuning import states_below

        key = (template, layers)
        if key not in self.below:
            found = states_below(self.weights, self.embedding, self.ids(template), layers)
            self.below[key] = [rows.half() for rows in found]
        return self.below[key]

    def features(self, template: str, pooling: str, depth: int) -> Any:
        """Features of the untuned encoder."""
        if (template, depth) not in self.frozen:
            last = np.stack([rows[-1].float().cpu().numpy() for rows in self.states(template, depth)])
            mean = np.stack([rows.float().mean(0).cpu().numpy() for rows in self.states(template, depth)])
            del self.below[template, depth]
            self.frozen[template, depth] = np.concatenate([last, mean], 1)
        return self.frozen[template, depth][:, : 576 if pooling == "last" else None]

    def targets(self, rows: Any) -> Any:
        """What the given rows alone say of the models' ranks and of the consensus; NaN and 0 elsewhere."""
        import torch

        from predictors.length.deep.tuning import Targets

        tokens = self.prompts["tokens"]
        ranks = np.full(tokens.shape, np.nan)
        ranks[rows] = _ranks(tokens[rows])
        place, weight = np.zeros(len(tokens)), np.zeros(len(tokens))
        place[rows] = _ranks(np.nanmean(ranks[rows], axis=1)[:, None])[:, 0]
        count = (~np.isnan(tokens[rows])).sum(1)
        weight[rows] = count / (count + 3.0)
        weight /= weight[rows].mean()
        standard = (np.stack([place]) - 0.5) * np.sqrt(12.0)
        made = [torch.as_tensor(a, dtype=torch.float32, device=self.device) for a in (standard[0], weight)]
        own = torch.as_tensor((ranks - 0.5) * np.sqrt(12.0), dtype=torch.float32, device=self.device)
        return Targets(made[0], made[1], own)

    def run(self, settings: Any, train: Any, test: Any, seed: int, keep: bool = False) -> dict[str, Any]:
        """Scores (epochs, len(test)) of the consensus output, and of the mean of all outputs that have data."""
        from predictors.length.deep.head import fit_head
        from predictors.length.deep.tuning import score, tune

        began = time.monotonic()
        targets = self.targets(train)
        features = self.features(settings.template, settings.pooling, settings.exit)
        place, weight = targets.place.cpu().numpy().astype(float), targets.weight.cpu().numpy().astype(float)
        head = fit_head(features[train], place[train], weight[train])
        below = self.states(settings.template, settings.frozen)
        found = [np.repeat(head.score(features[test])[:, None], 2, axis=1)]

        def after(epoch: int, model: Any) -> None:
            scores = score(model, below, test)
            found.append(np.stack([scores[:, 0], scores[:, 1:].mean(axis=1)], axis=1))

        start = (head.mean, head.scale, head.weights, head.bias)
        model = tune(self.weights, below, targets, train, start, settings, seed, after)
        result: dict[str, Any] = {"scores": np.stack(found), "seconds": time.monotonic() - began}
        if keep:
            result["state"] = {
                name: value.detach().cpu().numpy().astype(np.float16)
                for name, value in (*model.named_parameters(), ("mean", model.mean), ("scale", model.scale))
            }
        return result


def _ranks(values: Any) -> Any:
    """Mean ranks of ties, 0 to 1, by column; NaN where there is none."""
    out = np.full(values.shape, np.nan)
    for column, own in zip(out.T, values.T, strict=True):
        known = np.flatnonzero(~np.isnan(own))
        _, index, count = np.unique(own[known], return_inverse=True, return_counts=True)
        column[known] = (np.cumsum(count) - count / 2)[index] / max(len(known), 1)
    return out


def tau(scores: Any, tokens: Any) -> float:
    """Median over models of tau-b."""
    found = []
    for own in tokens.T:
        rows = ~np.isnan(own)
        x, y = (np.sign(v[rows][:, None] - v[rows][None, :]) for v in (scores, own))
        found.append((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    return float(np.nanmedian(found))


def _say(*words: object) -> None:
    sys.stderr.write(" ".join(map(str, words)) + "\n")


def work(folder: Path, device: str, quick: int, jobs: Any, results: Any) -> None:
    """Take jobs until there is none."""
    import torch

    torch.set_num_threads(1)
    bench = Bench(folder, device, quick)
    while True:
        job = jobs.get()
        if job is None:
            return
        key, settings, train, test, seed, keep = job
        try:
            results.put((key, bench.run(settings, train, test, seed, keep)))
        except Exception:
            results.put((key, {"error": traceback.format_exc()}))


class Pool:
    """Worker processes on one device, and what they have found so far."""

    def __init__(self, folder: Path, device: str, workers: int, quick: int) -> None:
        import torch.multiprocessing as processes

        context = processes.get_context("spawn")
        self.jobs, self.results = context.Queue(), context.Queue()
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.workers = [
            context.Process(target=work, args=(folder, device, quick, self.jobs, self.results), daemon=True)
            for _ in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def run(self, jobs: list[Any], until: float) -> None:
        """All of the jobs, or as many as end before ``until``; the rest are dropped."""
        for job in jobs:
            self.jobs.put(job)
        waiting = {job[0] for job in jobs}
        while waiting:
            try:
                key, result = self.results.get(timeout=max(0.1, until - time.monotonic()))
            except queue.Empty:
                while not self.jobs.empty():
                    self.jobs.get_nowait()
                return
            waiting.discard(key)
            if "error" in result:
                _say(key, result["error"])
            else:
                self.found[key] = result
                _say(key, round(result["seconds"], 1))


def frozen_features(bench: Bench, out: Path, only: list[str]) -> None:
    """Write last-token states of some layers for each template, in half precision."""
    from predictors.length.deep.tuning import states_below

    for template in ("system", "thorough", "estimate", "kinds") if only else TEMPLATES:
        ids = bench.ids(template)
        kept = {f"last_{depth}": np.empty((len(ids), 576), np.float16) for depth in WATCHED}
        kept["mean_22"] = np.empty((len(ids), 576), np.float16)

        def watch(depth: int, rows: Any, x: Any, packed: Any, kept: dict[str, Any] = kept) -> None:
            if depth in WATCHED:
                kept[f"last_{depth}"][rows] = x[packed.last].cpu().numpy()
            if depth == LAYERS:
                parts = x.split(list(np.bincount(packed.prompt.cpu().numpy())))
                kept["mean_22"][rows] = np.stack([part.mean(0).cpu().numpy() for part in parts])

        states_below(bench.weights, bench.embedding, ids, LAYERS, watch=watch)
        np.savez_compressed(out / f"frozen_{template}.npz", allow_pickle=False, **kept)


def tune_all(
    folder: Path, out: Path, seconds: float, workers: int, device: str, quick: int, only: list[str], fixed: bool
) -> None:
    """Score the outer folds and train what ships, with settings chosen on the inner ones, or with those named if they
    are ``fixed``; writes as it goes."""
    from predictors.length.deep.tuning import TuneSettings

    began = time.monotonic()
    pool = Pool(folder, device, workers, quick)
    bench = Bench(folder, device, quick)
    if not fixed:
        frozen_features(bench, out, only)
        _say("frozen features", round(time.monotonic() - began, 1))
    settings = {
        name: TuneSettings(**{**BASE, **changes}) for name, changes in TRIED.items() if not only or name in only
    }
    if quick:
        settings = {name: replace(own, batch=8, epochs=1) for name, own in settings.items()}
    judged: dict[str, Any] = {}
    if not fixed:
        judged = choose(pool, bench, settings, began + 0.5 * seconds)
        _write(out, pool, settings, judged, [])
    ranked = sorted(judged, key=lambda name: -max(own[0] for own in judged[name][1:])) if judged else list(settings)
    chosen = ranked[:4]
    away, folds = bench.prompts["held_out"], bench.prompts["folds"]
    kept, left = np.flatnonzero(~away), np.flatnonzero(away)
    final = [(("final", name, 0), settings[name], kept, left, 0, True) for name in chosen if settings[name].rank]
    for seed in range(4):
        jobs: list[Any] = [
            (("outer", name, fold, seed), settings[name], *_split(folds, fold), seed, False)
            for name in chosen
            for fold in range(5)
        ]
        pool.run(jobs + (final if seed == 0 else []), began + seconds)
        _write(out, pool, settings, judged, chosen)
        if time.monotonic() - began > 0.9 * seconds:
            break
    for worker in pool.workers:
        worker.terminate()


def choose(pool: Pool, bench: Bench, settings: Any, until: float) -> dict[str, Any]:
    """For each of the settings that were done in time, tau-b on the inner folds: (1 + epochs, 2), before tuning and
    after each epoch, of the consensus output and of the models' mean."""
    inner, tokens = bench.prompts["inner"], bench.prompts["tokens"]
    jobs = [
        (("inner", name, fold), own, *_split(inner, fold), 0, False)
        for name, own in settings.items()
        for fold in range(4)
    ]
    pool.run(jobs, until)
    judged = {}
    for name in settings:
        parts = [pool.found.get(("inner", name, fold)) for fold in range(4)]
        done = [part["scores"] for part in parts if part is not None]
        if len(done) < len(parts):
            continue
        scores = np.full((settings[name].epochs + 1, len(tokens), 2), np.nan)
        for fold, own in enumerate(done):
            scores[:, inner == fold] = own
        rows = inner >= 0
        judged[name] = [[tau(by_epoch[rows, k], tokens[rows]) for k in (0, 1)] for by_epoch in scores]
    return judged


def _split(folds: Any, fold: int) -> tuple[Any, Any]:
    return np.flatnonzero((folds >= 0) & (folds != fold)), np.flatnonzero(folds == fold)


def report(folder: Path, tuned: Path, out: Path) -> None:
    """tau-b of every cross-fitted ranker whose five folds are there, as JSON: by epoch, of both outputs."""
    with np.load(folder / "prompts.npz") as stored:
        folds, tokens = stored["folds"], stored["tokens"]
    with np.load(tuned / "scores.npz") as stored:
        found = {tuple(name.split("-")): stored[name] for name in stored if name.startswith("outer-")}
    rows = []
    for name, seed in sorted({(key[1], key[3]) for key in found}):
        parts = [found.get(("outer", name, str(fold), seed)) for fold in range(5)]
        whole = [part for part in parts if part is not None]
        if len(whole) < 5:
            continue
        scores = np.empty((len(whole[0]), len(tokens), 2))
        for fold, own in enumerate(whole):
            scores[:, folds == fold] = own
        taus = [[tau(by_epoch[:, k], tokens) for k in (0, 1)] for by_epoch in scores]
        rows.append({"settings": name, "seed": int(seed), "tau_b": taus})
    out.write_text(json.dumps(rows, indent=1))


def _write(out: Path, pool: Pool, settings: Any, judged: Any, chosen: list[str]) -> None:
    arrays = {"-".join(map(str, key)): result["scores"] for key, result in pool.found.items()}
    np.savez_compressed(out / "scores.npz", allow_pickle=False, **arrays)
    for key, result in pool.found.items():
        if "state" in result:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{name.replace(".", "-"): value for name, value in result["state"].items()})
            if buffer.tell() < 16 * 2**20:
                (out / f"final_{key[1]}_{key[2]}.npz").write_bytes(buffer.getvalue())
    about = {"settings": {name: asdict(own) for name, own in settings.items()}, "inner": judged, "chosen": chosen}
    (out / "results.json").write_text(json.dumps(about))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "tune", "report"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", type=int, default=0, help="a rehearsal on so many prompts")
    parser.add_argument("--only", nargs="*", default=[], choices=list(TRIED), help="settings to try; all by default")
    parser.add_argument("--fixed", action="store_true", help="do not choose: score the outer folds with --only")
    asked = parser.parse_args()
    if asked.command == "prepare":
        prepare(asked.data, asked.gguf, asked.out)
    elif asked.command == "tune":
        asked.out.mkdir(parents=True, exist_ok=True)
        tune_all(
            asked.folder, asked.out, asked.seconds, asked.workers, asked.device, asked.quick, asked.only, asked.fixed
        )
    else:
        report(asked.folder, asked.tuned, asked.out)


if __name__ == "__main__":
    main()
