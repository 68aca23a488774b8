"""Lengths in µm, and the size of a pixel: which units are understood, and which values are taken for a size."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

__all__ = ["Length", "PixelSize", "micrometres", "pixel_size", "printed_pixel_size"]

# The powers of ten by which a prefix multiplies a metre.
PREFIXES = {
    "yotta": ("Y", 24), "zetta": ("Z", 21), "exa": ("E", 18), "peta": ("P", 15), "tera": ("T", 12),
    "giga": ("G", 9), "mega": ("M", 6), "kilo": ("k", 3), "hecto": ("h", 2), "deca": ("da", 1), "": ("", 0),
    "deci": ("d", -1), "centi": ("c", -2), "milli": ("m", -3), "micro": ("\N{GREEK SMALL LETTER MU}", -6),
    "nano": ("n", -9), "pico": ("p", -12), "femto": ("f", -15), "atto": ("a", -18), "zepto": ("z", -21),
    "yocto": ("y", -24),
}  # fmt: skip
# Symbols differ by case: Mm is a million metres, mm a thousandth of one.
SYMBOLS = {f"{symbol}m": 10.0 ** (power + 6) for symbol, power in PREFIXES.values()}
SYMBOLS |= {"um": 1.0, "Å": 1e-4, "in": 25400.0, '"': 25400.0, "ft": 304800.0}
SYMBOLS |= {"thou": 25.4, "mil": 25.4, "li": 25400.0 / 12, "pt": 25400.0 / 72, "yd": 914400.0}
WORDS = {
    f"{prefix}{metre}": 10.0 ** (power + 6)
    for prefix, (_, power) in PREFIXES.items()
    for metre in ("meter", "metre")
}
WORDS |= {
    "micron": 1.0,
    "angstrom": 1e-4,
    "ångström": 1e-4,
    "inch": 25400.0,
    "foot": 304800.0,
    "yard": 914400.0,
}
PLURALS = {"inches": "inch", "feet": "foot"}
UNCALIBRATED = ("", "pixel", "pixels", "px", "none", "null", "reference frame")

SCREENS = (72, 96)  # dots per inch that programs write where they know nothing
COARSEST = 10.0  # µm: a resolution in dots per inch or cm beyond this is meant for a printer


class Length(NamedTuple):
    """A number and its unit, as a file gives them."""

    value: float
    unit: str


class PixelSize(NamedTuple):
    """The side of a pixel, if the file says it in a way that can be used."""

    um: float | None = None
    doubt: str = ""  # why what the file says is not used

    def times(self, factor: float) -> PixelSize:
        """Of a coarser level of the same image."""
        return self if self.um is None else self._replace(um=self.um * factor)


def micrometres(length: Length) -> float | None:
    """The length in µm; None if the unit is no length."""
    # ImageJ writes the micro sign as an escape; Unicode has two letters for it and for Å, of which this leaves one.
    unit = unicodedata.normalize("NFKC", length.unit.strip().replace("\\u00b5", "µ").replace("\\u00B5", "µ"))
    word = PLURALS.get(unit.lower(), unit.lower())
    factor = SYMBOLS.get(unit) or WORDS.get(word) or WORDS.get(word.removesuffix("s"))
    if factor is None and word not in ("mm", "pm"):  # of which case is all that tells two units apart
        factor = SYMBOLS.get(word)
    return None if factor is None else length.value * factor


def pixel_size(y: Length | None, x: Length | None) -> PixelSize:
    """µm per pixel, if both sides are lengths and agree to one percent.

    Areas and lengths mean nothing on other grids.
    """
    if x is None or y is None:
        return PixelSize()
    if all(side.unit.lower() in UNCALIBRATED and side.value == 1 for side in (y, x)):
        return PixelSize()
    said = f"says that a pixel is {y.value:g} {y.unit} high and {x.value:g} {x.unit} wide"
    height, width = micrometres(y), micrometres(x)
    if height is None or width is None:
        unit = (y if height is None else x).unit
        return PixelSize(
            doubt=f"{said}, and {unit!r} is no known unit of length" if unit else f"{said}, without a unit"
        )
    if not (0 < height < float("inf") and 0 < width < float("inf")):
        return PixelSize(doubt=f"{said}, which is no size")
    if abs(height - width) > 0.01 * width:
        return PixelSize(doubt=f"{said}; areas need square pixels")
    if any(abs(width * dpi / 25400 - 1) < 1e-3 for dpi in SCREENS):
        return PixelSize(doubt=f"{said}, which is a screen's resolution")
    return PixelSize(width)


def printed_pixel_size(y: float, x: float, unit: str) -> PixelSize:
    """µm per pixel from a resolution tag: pixels per inch or cm, which most programs fill with a printer's or screen's.

    Whole numbers of dots that make pixels larger than 10 µm are taken for such, and say nothing.
    """
    if not (0 < y < float("inf") and 0 < x < float("inf")):
        return PixelSize()
    size = pixel_size(Length(1 / y, unit), Length(1 / x, unit))
    width = micrometres(Length(1 / x, unit))
    if width is None or width <= COARSEST:
        return size
    if any(abs(dots - round(dots)) < 0.02 for dots in (x, 25400 / width)):
        return PixelSize()
    return PixelSize(doubt=f"says that {x:g} pixels make one {unit}, which is a printer's resolution")
