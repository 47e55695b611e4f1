"""The families of the task suite, one module each."""

from __future__ import annotations

from envs.families import arithmetic, counting, dates, logic, lookup, sorting, string_edits, units, word_problems
from envs.families.problem import LEVELS, AnswerKind, Family, Problem

FAMILIES: tuple[Family, ...] = (
    arithmetic.FAMILY,
    word_problems.FAMILY,
    sorting.FAMILY,
    string_edits.FAMILY,
    counting.FAMILY,
    dates.FAMILY,
    units.FAMILY,
    logic.FAMILY,
    lookup.FAMILY,
)

__all__ = ["FAMILIES", "LEVELS", "AnswerKind", "Family", "Problem"]
