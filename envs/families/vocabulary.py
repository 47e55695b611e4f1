"""Names and words that the families build their texts from."""

from __future__ import annotations

from random import Random

NAMES = (
    "Ada", "Ben", "Chloe", "Dev", "Elif", "Finn", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mina", "Noor",
    "Otto", "Priya", "Quinn", "Rosa", "Sven", "Tara", "Uma", "Viktor", "Wanda", "Xavier", "Yara", "Zoe",
)  # fmt: skip
CITIES = (
    "Athens", "Bergen", "Cairo", "Delhi", "Essen", "Florence", "Geneva", "Hanoi", "Izmir", "Jakarta", "Kyoto", "Lima",
    "Madrid", "Nairobi", "Oslo", "Porto", "Quito", "Riga", "Seoul", "Tunis", "Utrecht", "Vienna", "Warsaw", "Zagreb",
)  # fmt: skip
JOBS = (
    "baker", "carpenter", "dentist", "driver", "editor", "farmer", "gardener", "nurse", "painter", "pilot", "plumber",
    "singer", "tailor", "teacher", "waiter", "writer",
)  # fmt: skip
COLOURS = ("amber", "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
ITEMS = (
    "apples", "badges", "beads", "books", "buttons", "candles", "cards", "coins", "cookies", "eggs", "lemons",
    "marbles", "pears", "pencils", "postcards", "shells", "stamps", "stickers", "tickets", "tulips",
)  # fmt: skip
WORDS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "market", "needle", "orange", "pepper", "quarry", "ribbon", "saddle", "temple", "umbrella", "valley",
    "window", "yellow", "bridge", "castle", "dragon", "feather", "glacier", "harbour", "lantern", "meadow", "notebook",
    "ocean", "parrot", "river", "shadow", "ticket", "velvet", "whistle",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "l", "n", "r", "s", "t")


def pseudo_word(rng: Random, syllables: int) -> str:
    """A pronounceable word that is in no dictionary, so that there are unlimited ones."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def listed(words: list[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
