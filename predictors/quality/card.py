"""The model card of a quality artifact, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictors.artifact import DataSource
from predictors.quality.model import Bank
from predictors.types import Interval


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card says beside the bank; all but data and metrics are sentences."""

    name: str
    version: int
    purpose: str
    data: Sequence[DataSource]
    metrics: Mapping[str, Interval | None]
    held_out: str
    costs: str
    limits: Sequence[str]


def card(bank: Bank, facts: Facts) -> str:
    """The card of one artifact."""
    chosen = bank.settings
    return _CARD.format(
        title=f"quality/{facts.name}/{facts.version}",
        purpose=facts.purpose,
        settings=f"k = {chosen.k}, kappa = {chosen.kappa:g}, power = {chosen.power:g}, whitening = {chosen.whiten:g}",
        guard=f"the {chosen.guard:.0%} quantile" if chosen.guard else "none",
        size=len(bank.points),
        models="\n".join(
            f"| {name} | {mean:.3f} | {price.input_usd_per_mtok:.4g} | {price.output_usd_per_mtok:.4g} "
            f"| {price.output_tokens:.0f} |"
            for name, mean, price in zip(bank.models, bank.prior.tolist(), bank.prices, strict=True)
        ),
        data="\n".join(f"| {d.name} | {d.rows} | {d.licence} | `{d.sha256[:16]}…` |" for d in facts.data),
        metrics="\n".join(f"| `{name}` | {_shown(metric)} |" for name, metric in facts.metrics.items()),
        held_out=facts.held_out,
        costs=facts.costs,
        limits="\n".join(f"- {limit}" for limit in facts.limits),
    )


def _shown(metric: Interval | None) -> str:
    return "undefined" if metric is None else f"{metric.value:.4g} [{metric.lo:.4g}, {metric.hi:.4g}]"


_CARD = """# {title}

{purpose}

**Method.** The prompt's WordLlama embedding (256 dimensions, of its first and last 500 characters) is compared with
{size} known prompts. The expected quality of a model is the mean of its known qualities over the nearest prompts,
weighted by similarity and shrunken to the model's overall mean.

- Settings, chosen by cross-validation inside the training prompts: {settings}.
- Guard (prompts less familiar than this quantile of the known ones get the overall means): {guard}.
- Prompts less familiar than the 1 % quantile are reported as out of distribution.

**Files.** `model.json` (models, prices, settings), `bank.npz` (arrays). No pickle.

## Models

| model | mean quality | USD per million input tokens | output tokens | expected output tokens |
|---|---|---|---|---|
{models}

{costs}

## Data

| source | prompts used | licence | SHA-256 |
|---|---|---|---|
{data}

## Metrics

This very artifact on prompts that it has never seen, 95 % interval by bootstrap over prompts.
{held_out}

`aiq` is RouterBench's average over all budgets between the cheapest and the dearest single model, `accuracy` and `cost`
(USD a prompt) are where money does not count, `gap_closed` is the share of the way from the single models' hull to the
oracle; `brier` and `ece` judge the expected qualities as probabilities. `zero_policy_…` is each model's mean quality,
whatever the prompt; `best_single_…` the model that is best on the training prompts.

| metric | value |
|---|---|
{metrics}

## Limits

{limits}
"""
