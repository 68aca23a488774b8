"""Which channels of an image are taken: some of them, or one that is computed from red, green and blue.

A stain is unmixed as `skimage.color.rgb2hed` does it, from the optical densities of the three colours (Ruifrok and
Johnston, 2001): what is stained is bright in the result.  All is computed where it is sliced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from skimage.color import hed_from_rgb, separate_stains

from cellsegmenter.validation import full_key

from ._files import ImageFileError

__all__ = [
    "COLOURS",
    "Channel",
    "Channels",
    "Taken",
    "array_of",
    "choose_channels",
    "in_words",
    "refuse_colour",
]

Channel: TypeAlias = int | str | Sequence[int | str] | None

COLOURS = ("red", "green", "blue", "alpha")
STAINS = ("haematoxylin", "eosin", "dab")  # in the order of skimage's columns
COMPUTED = ("grey", *STAINS)
_SPELLINGS = {"gray": "grey", "hematoxylin": "haematoxylin"}
_LUMINANCE = np.array([0.2125, 0.7154, 0.0721], np.float32)  # of skimage.color.rgb2gray
_BAND = 2**20  # pixels that are computed at once
# A look at the colours: squares, side of each in px, and what is bright and what is stained.
_SQUARES, _SIDE = 3, 128
_BRIGHT = 0.5  # of the 99th percentile of the brightness, for the median
_STAINED_SHARE, _STAINED = (
    0.25,
    0.04,
)  # share of pixels, the darkest; green below red and blue, of the full range


class Channels(NamedTuple):
    """The channels of an image file."""

    file: str
    names: tuple[str, ...]  # as many as there are, or none
    n: int
    is_colour: bool  # red, green, blue and perhaps alpha, as the file says


class Taken(NamedTuple):
    """Several channels, or what is computed from them."""

    positions: tuple[int, ...]
    computed: str = ""  # one of COMPUTED; "": the channels themselves


def choose_channels(channels: Channels, channel: int | str | Sequence[int | str]) -> int | Taken:
    """One position, or what is taken from several, as a user names it.

    A name with a comma in it that the file does not know is a list.

    Raises
    ------
    ImageFileError
    """
    if isinstance(channel, str) and channel not in channels.names:
        word = _SPELLINGS.get(channel.lower(), channel.lower())
        if word in COMPUTED:
            if channels.n not in (3, 4):
                raise ImageFileError(
                    f"{channels.file} has {channels.n} channels and is no colour image, so there is no {word} of it "
                    "(--channel)"
                )
            return Taken((0, 1, 2), word)
        if "," in channel:
            parts = (part.strip() for part in channel.split(","))
            return choose_channels(channels, [int(part) if part.isdigit() else part for part in parts])
    if isinstance(channel, str) or not isinstance(channel, Sequence | np.ndarray):
        return _position(channels, channel)
    positions = tuple(_position(channels, one) for one in channel)
    if not positions or len(set(positions)) < len(positions):
        raise ImageFileError(
            f"{channels.file}: channel={channel!r} names a channel twice, or none; give each once (--channel)"
        )
    return Taken(positions)


def _position(channels: Channels, channel: Any) -> int:
    """The number of a single channel, if there is one of this number or name."""
    if isinstance(channel, str):
        if channel not in channels.names:
            known = ", ".join(channels.names) or "without names"
            raise ImageFileError(
                f"{channels.file} has no channel {channel!r}; its {channels.n} channels are {known} (--channel)"
            )
        return channels.names.index(channel)
    if not isinstance(channel, Integral) or not 0 <= int(channel) < channels.n:
        raise ImageFileError(
            f"{channels.file} has no channel {channel}; channels go from 0 to {channels.n - 1} (--channel)"
        )
    return int(channel)


def in_words(channels: Channels, taken: int | Taken) -> str:
    """What is taken, for the user to read."""
    if isinstance(taken, Taken) and taken.computed:
        return f"{taken.computed} of a colour image"
    positions = taken.positions if isinstance(taken, Taken) else (taken,)
    named = [f"{i} ({channels.names[i]})" if i < len(channels.names) else str(i) for i in positions]
    return f"channel{'s' if isinstance(taken, Taken) else ''} {', '.join(named)} of {channels.n}"


def array_of(source: Any, taken: Taken) -> Any:
    """What is taken from an array-like (C, H, W), itself an array-like: (n, H, W), or (H, W) if it is computed."""
    return _Computed(source, taken.computed) if taken.computed else _Chosen(source, taken.positions)


@dataclass(frozen=True)
class _Lazy:
    """An array-like that is computed where it is sliced."""

    source: Any  # array-like (C, H, W)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.source.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class _Chosen(_Lazy):
    """Some of the channels, in an order of their own."""

    positions: tuple[int, ...]

    ndim = 3

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.positions), *map(int, self.source.shape[1:])

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = full_key(key, self.ndim)
        read = [np.asarray(self.source[i : i + 1, rows, columns]) for i in self.positions[channels]]
        return np.concatenate(read)


@dataclass(frozen=True)
class _Computed(_Lazy):
    """The brightness of colours, in the units of the file, or the amount of a stain, at least 0; (H, W) float32."""

    word: str

    ndim = 2

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.source.shape[1:]))

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, columns = full_key(key, self.ndim)
        wanted = range(self.shape[0])[rows], range(self.shape[1])[columns]
        result = np.empty(tuple(map(len, wanted)), np.float32)
        n_rows = max(1, _BAND // max(1, len(wanted[1])))
        for first in range(0, len(result), n_rows):
            band = wanted[0][first : first + n_rows]
            colours = np.asarray(self.source[:3, band.start : band.stop : band.step, columns])
            result[first : first + len(band)] = self._of(colours)
        return result

    def _of(self, colours: np.ndarray) -> np.ndarray:
        """(h, w) of red, green and blue (3, h, w)."""
        if self.word == "grey":
            return np.tensordot(_LUMINANCE, colours.astype(np.float32), axes=1)
        stains = separate_stains(np.moveaxis(_fractions(colours), 0, -1), hed_from_rgb)
        return stains[..., STAINS.index(self.word)]


def _fractions(colours: np.ndarray) -> np.ndarray:
    """Colours as float32 from 0 to 1, which is what a number of integers stands for."""
    if colours.dtype.kind in "ui":
        return colours.astype(np.float32) / np.iinfo(colours.dtype).max
    if colours.size and not (np.nanmin(colours) >= 0 and np.nanmax(colours) <= 1):
        raise ImageFileError(
            "colours that are no whole numbers must be from 0 to 1, for a stain is a share of the light that is lost; "
            "save them as 8 bit, or divide them"
        )
    return colours.astype(np.float32)


# --- which one is likely ------------------------------------------------------------------------------------------


def refuse_colour(channels: Channels, colours: Any) -> ImageFileError:
    """The error that says which channels of a colour image (C, H, W) there are, and which is likely."""
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(channels.names[:3]))
    return ImageFileError(
        f"{channels.file} is a colour image; choose by channel {listed}, grey (the brightness), or a stain of tissue: "
        f"haematoxylin, eosin or dab (--channel). {_likely(colours)}"
    )


def _likely(colours: Any) -> str:
    """What colours (C, H, W) look like, and what to do then; a few squares of them are read."""
    squares = [pixels.reshape(3, -1) for pixels in _squares(colours)]
    pixels = np.concatenate(squares, axis=1).astype(np.float32)
    brightness = _LUMINANCE @ pixels
    most = max(float(np.nanpercentile(brightness, 99)), 1e-6)
    if np.nanmedian(brightness) < _BRIGHT * most:
        return (
            "It is dark, as fluorescence is: the colour of the nuclei is likely, often 2 blue, or else grey"
        )
    darkest = pixels[:, brightness <= np.nanquantile(brightness, _STAINED_SHARE)]
    red, green, blue = np.nanmedian(darkest, axis=1)
    if min(red, blue) - green > _STAINED * most:
        return "It is bright, with pink or purple in it, as H&E is: haematoxylin is likely"
    return "It is bright, and neither pink nor purple: grey is likely"


def _squares(colours: Any) -> list[np.ndarray]:
    """Evenly spread squares (3, h, w) of an image, or all of a small one."""
    spans = []
    for n in map(int, colours.shape[1:]):
        starts = np.linspace(0, n - _SIDE, _SQUARES).astype(int) if n > _SQUARES * _SIDE else [0]
        spans.append([slice(int(first), int(first) + (_SIDE if len(starts) > 1 else n)) for first in starts])
    return [np.asarray(colours[:3, rows, columns]) for rows in spans[0] for columns in spans[1]]
