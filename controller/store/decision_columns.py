"""Decision records as columns: the Parquet schema, and rows of Python objects turned into a batch of it.

This runs beside the event loop and mostly under the interpreter's lock, so it is written out column by column: a
comprehension over a slot is the fastest way there is to read an attribute of many objects, twice as fast as
``getattr``, ``operator.attrgetter`` or ``zip``, and gives the lock back between any two rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from functools import partial
from itertools import accumulate
from typing import Final

import pyarrow as pa

from controller.types import Alternative, Choice, DecisionRecord, Scores, Usage

__all__ = ["ENCODED", "MEMORY", "SCHEMA", "SEARCHED", "Row", "batch"]

_ALTERNATIVE = pa.struct(
    [("name", pa.string()), ("score", pa.float64()), ("eligible", pa.bool_()), ("why", pa.string())]
)
_CHOICE = pa.struct(
    [
        ("stage", pa.string()),
        ("by", pa.string()),
        ("chosen", pa.string()),
        ("alternatives", pa.list_(_ALTERNATIVE)),
        ("propensity", pa.float64()),
        ("fallback", pa.string()),
        ("features", pa.list_(pa.float64())),
        ("artifact", pa.string()),
    ]
)
_SCORES = pa.struct(
    [
        ("length_rank", pa.float64()),
        ("output_tokens", pa.float64()),
        ("quality", pa.map_(pa.string(), pa.float64())),
        ("output_high", pa.float64()),
        ("output_tail", pa.float64()),
    ]
)
_USAGE = pa.struct([("prompt_tokens", pa.int64()), ("output_tokens", pa.int64()), ("cached_tokens", pa.int64())])
SCHEMA: Final = pa.schema(
    [
        ("ticket", pa.string()),
        ("tenant", pa.string()),
        ("model", pa.string()),
        ("submitted_at", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("max_tokens", pa.int64()),
        ("scores", _SCORES),
        ("choices", pa.list_(_CHOICE)),
        ("pool", pa.string()),
        ("worker", pa.string()),
        ("attempts", pa.int64()),
        ("dispatched_at", pa.float64()),
        ("first_token_at", pa.float64()),
        ("finished_at", pa.float64()),
        ("result", pa.string()),
        ("code", pa.string()),
        ("usage", _USAGE),
        ("continued", pa.int64()),
        ("prompt", pa.string()),
    ]
)
"""One row a request, the fields of :class:`controller.types.DecisionRecord`; ``prompt`` is null unless asked for."""

ENCODED: Final = (
    "tenant",
    "model",
    "pool",
    "worker",
    "result",
    "code",
    "scores.quality.key_value.key",
    *(f"choices.list.element.{name}" for name in ("stage", "by", "chosen", "propensity", "fallback", "artifact")),
    *(f"choices.list.element.alternatives.list.element.{name}" for name in ("name", "why")),
)
"""Columns of few different values: a dictionary pays for them, and costs time where nearly every value is new."""

SEARCHED: Final = ("tenant", "model", "submitted_at", "pool", "worker", "finished_at", "result", "code")
"""Columns by whose least and greatest value a reader skips row groups."""

Row = tuple[DecisionRecord, str | None]
"""A record and its prompt, where that is kept."""

MEMORY: Final = pa.system_memory_pool()
"""Arrow's own pool gives memory back after milliseconds, and has the kernel clear it for the next use."""
_INTS, _OFFSETS, _FLOATS, _STRINGS, _BOOLS = pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.bool_()
_array = partial(pa.array, memory_pool=MEMORY)


def batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """The rows as columns of :data:`SCHEMA`.

    Raises:
        ValueError, OverflowError, pa.ArrowException: a value that its column cannot hold.
    """
    records = [record for record, _ in rows]
    columns = [
        _array([record.ticket for record in records], _STRINGS),
        _array([record.tenant for record in records], _STRINGS),
        _array([record.model for record in records], _STRINGS),
        _array([record.submitted_at for record in records], _FLOATS),
        _array([record.prompt_tokens for record in records], _INTS),
        _array([record.max_tokens for record in records], _INTS),
        _scores([record.scores for record in records]),
        _choices([record.choices for record in records]),
        _array([record.pool for record in records], _STRINGS),
        _array([record.worker for record in records], _STRINGS),
        _array([record.attempts for record in records], _INTS),
        _array([record.dispatched_at for record in records], _FLOATS),
        _array([record.first_token_at for record in records], _FLOATS),
        _array([record.finished_at for record in records], _FLOATS),
        _array([record.result for record in records], _STRINGS),
        _array([record.code for record in records], _STRINGS),
        _usages([record.usage for record in records]),
        _array([record.continued for record in records], _INTS),
        _array([None if text is None else _storable(text) for _, text in rows], _STRINGS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _scores(scores: Sequence[Scores | None]) -> pa.Array:
    qualities = [None if one is None else one.quality for one in scores]
    there = [quality for quality in qualities if quality is not None]
    starts: list[int | None] = list(_offsets(() if quality is None else quality for quality in qualities))
    if len(there) < len(qualities):  # a null in place of an offset makes that map null
        starts[:-1] = [None if quality is None else at for quality, at in zip(qualities, starts, strict=False)]
    quality = pa.MapArray.from_arrays(
        _array(starts, _OFFSETS),
        _array([name for each in there for name in each], _STRINGS),
        _array([value for each in there for value in each.values()], _FLOATS),
    )
    columns = [
        _array([None if one is None else one.length_rank for one in scores], _FLOATS),
        _array([None if one is None else one.output_tokens for one in scores], _FLOATS),
        quality,
        _array([None if one is None else one.output_high for one in scores], _FLOATS),
        _array([None if one is None else one.output_tail for one in scores], _FLOATS),
    ]
    return _structs(_SCORES, columns, scores)


def _choices(lists: Sequence[Sequence[Choice]]) -> pa.Array:
    choices = [choice for each in lists for choice in each]
    weighed = [choice.alternatives for choice in choices]
    seen = [choice.features for choice in choices]
    columns = [
        _array([choice.stage for choice in choices], _STRINGS),
        _array([choice.by for choice in choices], _STRINGS),
        _array([choice.chosen for choice in choices], _STRINGS),
        _listed(weighed, _alternatives([alternative for each in weighed for alternative in each])),
        _array([choice.propensity for choice in choices], _FLOATS),
        _array([choice.fallback for choice in choices], _STRINGS),
        _listed(seen, _array([number for each in seen for number in each], _FLOATS)),
        _array([choice.artifact for choice in choices], _STRINGS),
    ]
    return _listed(lists, pa.StructArray.from_arrays(columns, fields=list(_CHOICE)))


def _alternatives(alternatives: Sequence[Alternative]) -> pa.Array:
    columns = [
        _array([alternative.name for alternative in alternatives], _STRINGS),
        _array([alternative.score for alternative in alternatives], _FLOATS),
        _array([alternative.eligible for alternative in alternatives], _BOOLS),
        _array([alternative.why for alternative in alternatives], _STRINGS),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(_ALTERNATIVE))


def _usages(usages: Sequence[Usage | None]) -> pa.Array:
    columns = [
        _array([None if usage is None else usage.prompt_tokens for usage in usages], _INTS),
        _array([None if usage is None else usage.output_tokens for usage in usages], _INTS),
        _array([None if usage is None else usage.cached_tokens for usage in usages], _INTS),
    ]
    return _structs(_USAGE, columns, usages)


def _structs(type_: pa.StructType, columns: Sequence[pa.Array], things: Sequence[object]) -> pa.Array:
    """Null where a thing is ``None``. ``StructArray.from_arrays`` would import pyarrow.compute to invert a mask, which
    takes a tenth of a second in the midst of the first requests."""
    there = _array([thing is not None for thing in things], _BOOLS)
    return pa.Array.from_buffers(type_, len(things), there.buffers()[1:], children=columns)


def _listed(lists: Iterable[Sized], values: pa.Array) -> pa.Array:
    """Lists of these lengths, from one column of all that is in them."""
    return pa.ListArray.from_arrays(_array(_offsets(lists), _OFFSETS), values)


def _offsets(lists: Iterable[Sized]) -> list[int]:
    return list(accumulate(map(len, lists), initial=0))


def _storable(text: str) -> str:
    """Without the lone surrogates that JSON can carry and UTF-8 cannot; the worker refuses such a prompt as well."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
