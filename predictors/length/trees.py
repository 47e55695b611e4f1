"""LightGBM's trees for one row at a time: its own ``predict`` spends most of its time on everything but the trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.compiled import compiled, lined

__all__ = ["Trees", "parse", "walk"]

_NUMERICAL = 2
"""A node's ``decision_type``: no category, no special missing value; left if the feature is at most the threshold."""
_SINGLE = ("num_class=1", "num_tree_per_iteration=1")
_RAW = ("objective=lambdarank", "objective=regression")
"""Objectives whose prediction is the sum itself."""

Integers = NDArray[np.int32]
Shorts = NDArray[np.int16]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trees:
    """All trees' nodes in one row. A child ``c`` >= 0 is a node of the same tree, else leaf ``~c`` of it."""

    nodes: Integers
    """Of each tree, where its nodes begin (T,); a tree of one leaf begins at -1."""
    leaves: Integers
    """Of each tree, where its leaves begin (T,)."""
    branches: Shorts
    """Of each node its feature, its left child and its right one (N, 3), and nothing (N,)."""
    threshold: Floats
    value: Floats


def parse(text: str) -> Trees | None:
    """Read LightGBM's text format; ``None`` if a model has more than plain numerical trees whose values are added."""
    head, *blocks = text.split("\nTree=")
    lines = head.split("\n")
    plain = all(line in lines for line in _SINGLE) and any(line in lines for line in _RAW)
    plain = plain and "average_output" not in lines
    trees = [dict(_fields(block)) for block in blocks]
    if not plain or not trees or not all(_numerical(tree) for tree in trees):
        return None
    nodes = [len(tree.get("threshold", "").split()) for tree in trees]
    leaves = [len(tree["leaf_value"].split()) for tree in trees]
    starts = np.where(nodes, np.cumsum([0, *nodes[:-1]]), -1)
    fields = [_integers(trees, name) for name in ("split_feature", "left_child", "right_child")]
    if any(field.size and np.abs(field).max() > np.iinfo(np.int16).max for field in fields):
        return None
    if not _sound(trees, nodes, leaves, fields, _features(lines)):
        return None
    return Trees(
        starts.astype(np.int32),
        np.cumsum([0, *leaves[:-1]]).astype(np.int32),
        lined(np.stack([*fields, np.zeros_like(fields[0])], axis=1).astype(np.int16)),
        lined(_floats(trees, "threshold")),
        lined(_floats(trees, "leaf_value")),
    )


@compiled
def walk(row: Floats, nodes: Integers, leaves: Integers, branches: Shorts, threshold: Floats, value: Floats) -> float:
    """The sum of the trees' values for ``row`` (F,), finite, in LightGBM's order: the same bits."""
    total = 0.0
    for tree in range(nodes.shape[0]):
        node = 0 if nodes[tree] >= 0 else -1
        while node >= 0:
            at = nodes[tree] + node
            node = branches[at, 1] if row[branches[at, 0]] <= threshold[at] else branches[at, 2]
        total += value[leaves[tree] + ~node]
    return total


def _sound(
    trees: list[dict[str, str]], nodes: list[int], leaves: list[int], fields: list[Integers], features: int
) -> bool:
    """Whether every walk stays inside its tree, and ends: a node's children come after it."""
    names = ("split_feature", "left_child", "right_child")
    if any(
        len(tree.get(name, "").split()) != count for tree, count in zip(trees, nodes, strict=True) for name in names
    ):
        return False
    feature, *children = fields
    place = np.concatenate([np.arange(count) for count in nodes])
    inner, outer = np.repeat(nodes, nodes), np.repeat(leaves, nodes)
    inside = [np.where(child >= 0, (child > place) & (child < inner), ~child < outer) for child in children]
    return bool(all(one.all() for one in inside) and (feature >= 0).all() and (feature < features).all())


def _features(lines: list[str]) -> int:
    last = next((line.partition("=")[2] for line in lines if line.startswith("max_feature_idx=")), "-1")
    return int(last) + 1 if last.isdecimal() else 0


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.split("\n"):
        if not line:
            return
        name, found, value = line.partition("=")
        if found:
            yield name, value


def _numerical(tree: dict[str, str]) -> bool:
    kinds = set(tree.get("decision_type", "").split())
    return tree["num_cat"] == "0" and tree.get("is_linear", "0") == "0" and kinds <= {str(_NUMERICAL)}


def _integers(trees: list[dict[str, str]], name: str) -> Integers:
    return np.array([int(value) for tree in trees for value in tree.get(name, "").split()], dtype=np.int32)


def _floats(trees: list[dict[str, str]], name: str) -> Floats:
    return np.array([float(value) for tree in trees for value in tree.get(name, "").split()], dtype=np.float64)
