"""Words that say something of how long an answer will be, by what they say. All lower case."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


def _grouped(groups: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    return MappingProxyType({name: frozenset(words.split()) for name, words in groups.items()})


GROUPS: Final[Mapping[str, frozenset[str]]] = _grouped(
    {
        "brief": "brief briefly short shortly concise concisely succinct quick only just simply single summary tldr",
        "detailed": "detailed detail details comprehensive thorough thoroughly depth elaborate extensive complete full "
        "long lengthy everything entire steps step tutorial guide course",
        "create": "write create generate make draft compose produce design build develop",
        "explain": "explain describe discuss analyze analyse compare contrast evaluate elaborate teach",
        "enumerate": "list lists give name provide suggest ideas examples options recommend bullet table top",
        "rewrite": "rewrite rephrase paraphrase improve edit proofread correct translate convert shorten simplify "
        "summarize summarise extract classify",
        "solve": "solve calculate compute find determine prove evaluate simplify derive probability equation integral",
        "fact": "who when where which whose date year name",
        "how": "how",
        "why": "why",
        "what": "what whats what's",
        "yes_no": "is are was were does do did can could should would will has have",
        "code": "code function class program script python java javascript html css sql api c++ rust bash regex "
        "algorithm implement react bug error exception debug library import def return const void struct golang "
        "typescript",
        "story": "story poem essay article blog novel screenplay lyrics song scene chapter character dialogue letter "
        "email speech report paper proposal",
        "plan": "plan itinerary schedule strategy outline roadmap syllabus curriculum recipe menu workout",
        "roleplay": "act pretend roleplay imagine persona you're assume",
        "format": "json csv xml yaml markdown latex format formatted output schema",
        "choice": "true false choose correct option following answer",
        "number": "one two three four five six seven eight nine ten many much",
        "polite": "please thanks thank hi hello hey",
        "negation": "not no don't without never avoid",
        "first_person": "i my me we our",
    }
)
"""Groups of words that are counted anywhere in the text."""

LEADING: Final = (
    "create", "explain", "enumerate", "rewrite", "solve", "fact", "how", "why", "what", "yes_no", "code", "roleplay",
)  # fmt: skip
"""Groups that say what is wanted when one of their words begins a clause."""

FILLERS: Final = frozenset(
    ("a", "after", "also", "an", "and", "as", "can", "could", "finally", "first", "for", "given", "hello", "help",
     "hey", "hi", "i", "if", "in", "just", "let's", "lets", "like", "me", "need", "next", "now", "ok", "okay",
     "on", "please", "second", "so", "the", "then", "to", "us", "want", "we", "will", "would", "you")
)  # fmt: skip
"""Words skipped in search of the one that says what a clause wants."""


def _plural(units: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType({form: tokens for unit, tokens in units.items() for form in (unit, f"{unit}s")})


EXTENTS: Final[Mapping[str, float]] = _plural(
    {"word": 1.4, "sentence": 28.0, "line": 14.0, "paragraph": 110.0, "page": 650.0, "stanza": 45.0, "verse": 45.0,
     "chapter": 700.0, "slide": 80.0, "tweet": 45.0, "bullet": 30.0}
)  # fmt: skip
"""Rough size in tokens of what a prompt may ask for a number of; ridge and trees re-scale it."""

ITEMS: Final = frozenset(
    ("arguments", "benefits", "differences", "examples", "exercises", "facts", "ideas", "items", "methods", "names",
     "options", "points", "questions", "reasons", "recommendations", "scenarios", "steps", "suggestions", "things",
     "tips", "titles", "topics", "ways")
)  # fmt: skip

QUANTITIES: Final[Mapping[str, float]] = MappingProxyType(
    {"one": 1.0, "single": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0,
     "eight": 8.0, "nine": 9.0, "ten": 10.0, "few": 3.0, "couple": 2.0, "several": 5.0, "dozen": 12.0,
     "hundred": 100.0, "thousand": 1000.0}
)  # fmt: skip
