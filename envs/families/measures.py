"""Units of measure: their names, and how many of the base unit each holds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Measure:
    """A unit. ``factor`` is in the base unit of its quantity (m, g, l, s, cent)."""

    symbol: str
    names: tuple[str, ...]
    """Full names: singular, plural, then spellings of other places."""
    quantity: str
    factor: Fraction

    @property
    def plural(self) -> str:
        """The name used in texts."""
        return self.names[1]


def _measure(symbol: str, names: str, quantity: str, factor: str) -> Measure:
    return Measure(symbol, tuple(names.split("|")), quantity, Fraction(factor))


MEASURES = {
    m.symbol: m
    for m in (
        _measure("mm", "millimetre|millimetres|millimeter|millimeters", "length", "0.001"),
        _measure("cm", "centimetre|centimetres|centimeter|centimeters", "length", "0.01"),
        _measure("m", "metre|metres|meter|meters", "length", "1"),
        _measure("km", "kilometre|kilometres|kilometer|kilometers", "length", "1000"),
        _measure("mg", "milligram|milligrams", "mass", "0.001"),
        _measure("g", "gram|grams", "mass", "1"),
        _measure("kg", "kilogram|kilograms|kilo|kilos", "mass", "1000"),
        _measure("t", "tonne|tonnes|ton|tons", "mass", "1000000"),
        _measure("ml", "millilitre|millilitres|milliliter|milliliters", "volume", "0.001"),
        _measure("cl", "centilitre|centilitres|centiliter|centiliters", "volume", "0.01"),
        _measure("l", "litre|litres|liter|liters", "volume", "1"),
        _measure("s", "second|seconds|sec|secs", "time", "1"),
        _measure("min", "minute|minutes|mins", "time", "60"),
        _measure("h", "hour|hours|hr|hrs", "time", "3600"),
        _measure("day", "day|days", "time", "86400"),
        _measure("week", "week|weeks", "time", "604800"),
        _measure("cent", "cent|cents", "money", "1"),
        _measure("dollar", "dollar|dollars", "money", "100"),
    )
}


def aliases() -> dict[str, str]:
    """Every way a unit is written, to its symbol."""
    return {name: m.symbol for m in MEASURES.values() for name in (m.symbol, *m.names)}
