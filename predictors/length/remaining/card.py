"""Writing what learned to say what remains down as an artifact, with its model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from predictors.artifact import Manifest
from predictors.length.card import Facts, filled, written
from predictors.length.remaining.model import SCHEMA
from predictors.length.remaining.train import RemainingLearner, RemainingSettings

__all__ = ["remaining_card", "write_remaining"]


def write_remaining(models: Path, learner: RemainingLearner, facts: Facts) -> Manifest:
    """Write ``models/length/NAME/VERSION``.

    Raises:
        ArtifactExists: that version is already written.
    """
    settings = {"estimator": asdict(learner.settings or RemainingSettings())}
    return written(models, facts, SCHEMA, learner.export(), remaining_card(facts), settings)


def remaining_card(facts: Facts) -> str:
    """The model card, in Markdown."""
    return filled(_CARD, facts, _described)


def _described(rows: Mapping[str, Any]) -> str:
    return f"the answers to {len(rows['groups'])} prompts, listed in the manifest"


_CARD = """# {title}

Says of a running answer how many tokens are left, from the text that is already visible and from what a length ranker
expected of its prompt: for load estimates, placement, migration and scaling. It does not order a queue.

**Method.** Counts of the visible text (lines by their kind, items announced and done, code open or closed, sentences,
new words, closing phrases …) and the prompt's rank and expected tokens go into LightGBM trees, which predict the
logarithm of what is left. A table of held-out scores turns the trees' score into a distribution over 28 bins of
up to 8,192 tokens; between looks that belief counts down, and at a look it is pooled with the table's. Expected
tokens and the 0.1 and 0.9 quantiles are read off it.

**Files.** `trees.txt` (LightGBM text), `tables.npz`. No pickle.

## Data

| source | answers used | licence | SHA-256 |
|---|---|---|---|
{data}

Eight models' answers to public arena prompts. Not trained on (only these may judge this artifact as shipped):

{held_out}

## Metrics

At so many visible tokens, on answers that still ran: Kendall's tau-b with the tokens left, all models pooled; mean
absolute error in tokens; share of answers that ended by the 0.9 quantile; 95 % interval by bootstrap over prompts.
`tau_b_128 …` is 5-fold cross-validation by prompt on the rows used, `held_out_…` this very artifact on the rows held
out. Prompt ranks are those of `fast`, cross-fitted; the expected tokens are scaled to each model's usual length.

| metric | value |
|---|---|
{metrics}

## Limits

- Several of the models were cut at 1,024 tokens of their own; such an answer counts as ended there. Of answers beyond
  about 1,000 tokens it knows nothing, and says what a plain rule says: a third of what there is already, or what the
  ranker still expects if that is more.
- A prompt's rank is most of what is known early on; with a better ranker than `fast` it is better.
- Token counts are those of one tokenizer, spread over the text by a rule; another model's tokens may be longer or
  shorter, which `expected_tokens` and the counts told to it make good only in part.
- Public arena prompts are mostly English; closing phrases are known in English and a few in Chinese. Hidden reasoning
  is not in the data.
"""
