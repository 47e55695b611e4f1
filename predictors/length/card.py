"""Writing a trained length ranker down as an artifact, with its model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from predictors import artifact
from predictors.artifact import DataSource, Manifest
from predictors.length.model import KIND, SCHEMA
from predictors.length.train import FastRanker, FastSettings
from predictors.types import Interval


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest says beside the files. ``held_out`` as in :class:`predictors.artifact.Manifest`."""

    name: str
    version: int
    created: str
    data: Sequence[DataSource]
    metrics: Mapping[str, Interval | None]
    held_out: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_ranker(models: Path, ranker: FastRanker, facts: Facts) -> Manifest:
    """Write ``models/length/NAME/VERSION``.

    Raises:
        ArtifactExists: that version is already written.
    """
    settings = {"estimator": asdict(ranker.settings or FastSettings()), "chosen": ranker.chosen_}
    return written(models, facts, SCHEMA, ranker.export(), card(facts), settings)


def written(
    models: Path,
    facts: Facts,
    features: Sequence[str],
    files: Mapping[str, bytes],
    text: str,
    settings: Mapping[str, Any],
) -> Manifest:
    """Write a length artifact with its card; ``settings`` go beside those of ``facts``. Raises ArtifactExists."""
    return artifact.write(
        models / KIND / facts.name / str(facts.version),
        kind=KIND,
        name=facts.name,
        version=facts.version,
        features=features,
        data=facts.data,
        metrics=facts.metrics,
        files={**files, "card.md": text.encode()},
        created=facts.created,
        held_out=facts.held_out,
        settings={**facts.settings, **settings},
    )


def card(facts: Facts) -> str:
    """The model card, in Markdown."""
    return filled(_CARD, facts, _described)


def filled(form: str, facts: Facts, described: Callable[[Mapping[str, Any]], str]) -> str:
    """A card's form with the facts in it; ``described`` says what was held out of one source."""
    return form.format(
        title=f"length/{facts.name}/{facts.version}",
        data="\n".join(f"| {d.name} | {d.rows} | {d.licence} | `{d.sha256[:16]}…` |" for d in facts.data),
        metrics="\n".join(f"| `{name}` | {_shown(metric)} |" for name, metric in facts.metrics.items()),
        held_out="\n".join(f"- {source}: {described(rows)}" for source, rows in facts.held_out.items()) or "- nothing",
    )


def _shown(metric: Interval | None) -> str:
    return "undefined" if metric is None else f"{metric.value:.3f} [{metric.lo:.3f}, {metric.hi:.3f}]"


def _described(rows: Mapping[str, Any]) -> str:
    return f"{len(rows['groups'])} prompts, listed in the manifest" if "groups" in rows else str(dict(rows))


_CARD = """# {title}

Ranks prompts by how long a model's answer will be, before any of it is written, so that a queue can serve short answers
first. It also gives the length it expects, its 0.9 quantile and the mean beyond that, in tokens, for a typical model.

**Method.** A ridge regression over words (tf-idf), lexical features and likeness to typical prompts (WordLlama
embeddings, 256 dimensions) gives an out-of-fold score; that score and the lexical features go into LightGBM trees
(lambdarank's, or larger regression trees where those order the inner folds better), and the trees' score is blended
with the ridge's. The label is a prompt's mean rank over all models that answered it. The ridge's kernel, the trees and
the share of the blend were chosen on inner folds of the prompts used.
Monotone tables map the score to a rank and to tokens: the mean, the 0.9 quantile of the answers, shifted by a
split-conformal correction from out-of-fold scores, and the mean of the answers beyond it. A prompt's own `max_tokens`
caps all of them.

**Files.** `ranker.txt` (LightGBM text), `tables.json` (word weights, calibration, limits), `arrays.npz`. No pickle.

## Data

| source | prompts used | licence | SHA-256 |
|---|---|---|---|
{data}

Not trained on (only these may judge this artifact as shipped):

{held_out}

## Metrics

Kendall's tau-b with each model's own output lengths, median over models, 95 % interval by bootstrap over prompts.
Names without `held_out` are cross-validation by prompt of the same settings on the rows used; those with it are of this
very artifact on the rows held out. `tau_b_short` is tau-b among each model's shortest 30 % of answers. `mae` (tokens)
and `coverage_90`, the share of answers no longer than the predicted 0.9 quantile, are after a map from rank to tokens
for each model, fitted to its answers to other prompts.

| metric | value |
|---|---|
{metrics}

## Limits

- Order, not size: the tokens are those of a typical model of the training data, the quantile of its answers to prompts
  of that rank; a verbose or a terse model needs its own map.
- Public arena prompts are mostly English, technical and written by enthusiasts; the task suite is generated. Prompts
  unlike the data are reported as out of distribution, and the gateway then uses its fallback.
- Two answers of one model to one prompt differ, so tau-b has a ceiling well below 1; the mean rank of all other models
  on the same prompt, which no gateway can know, reaches 0.59 on the arena prompts.
- The kernels and blends to choose from were narrowed down by cross-validation on the arena prompts, including those
  held out, so the figures are slightly hopeful.
- It reads the first and the last 500 characters of a prompt.
"""
