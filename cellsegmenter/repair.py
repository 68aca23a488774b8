"""What disturbs an image before anything is measured in it: places without data, ramps, hot pixels.

Places without data become NaN, which normalisation, scale and sampling leave out.  They are pixels that are NaN or
masked, and fills (`cellsegmenter.fills`).  A ramp is a plane that the dark levels of the image follow.  A hot pixel or
column stands out from both of its sides more than any object can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellsegmenter.fills import Fill, find_fills
from cellsegmenter.normalize import background_and_noise, object_signal
from cellsegmenter.region import Region
from cellsegmenter.validation import full_key

__all__ = ["KnownPixels", "RepairedImage", "repair_image"]

_OVERVIEW = 2**20  # pixels of an image that are looked at: every k-th row and column
_MARGIN = 4  # px around a slice that decide what becomes of its pixels

# Ramps.
_RAMP_BLOCKS, _RAMP_PERCENTILE = 8, 10
_RAMP_KNOWN, _LEAST_BLOCKS = 0.25, 12  # share of a block, and number of blocks, that say something
_RAMP_EXPLAINS, _RAMP_SPAN = (
    0.75,
    4.0,
)  # share of the variance of dark levels; rise in standard deviations of the noise
_RAMP_ROUNDS, _OUTLIER = 3, 2.5
_DUST = 1e-6  # what is left of exact values, relative to them

# Hot pixels: brighter than what is one px, or two, to both sides, by so many times an object's signal.
_HOT = ((1, 1.0), (2, 3.0))
_FLANK = 0.7  # of its height above the background that a hot pixel stands out by


@dataclass(frozen=True)
class RepairedImage:
    """An image (C, H, W) without what disturbs it; slices are float32, and NaN where there are no data."""

    source: Any  # array-like (C, H, W) of float32, NaN where there are no data
    fills: tuple[Fill, ...]
    slope: np.ndarray  # (C, 2) rise per px down and across; a plane of it is taken off
    background: np.ndarray  # (C,)
    signal: np.ndarray  # (C,) of an object above the background; inf where nothing is taken for hot
    notes: tuple[str, ...]  # what was found, in words

    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.source.shape)  # type: ignore[return-value]

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = full_key(key, self.ndim)
        spans = [side.indices(n)[:2] for side, n in zip((rows, columns), self.shape[1:], strict=True)]
        pixels = self._with_margin(spans)
        lost = self._lost(pixels, spans)
        self._take_off_ramp(pixels, spans)
        pixels = self._without_hot(pixels)
        inner = np.s_[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        pixels = pixels[(channels, *inner)].copy()
        pixels[:, lost[inner]] = np.nan
        return pixels

    def _with_margin(self, spans: list[tuple[int, int]]) -> np.ndarray:
        """(C, h + 8, w + 8) float32: the pixels of rows and columns with those around them; edges repeat."""
        read, pad = [], []
        for (first, end), side in zip(spans, self.shape[1:], strict=True):
            low, high = max(first - _MARGIN, 0), min(end + _MARGIN, side)
            read.append(slice(low, high))
            pad.append((_MARGIN - (first - low), _MARGIN - (high - end)))
        pixels = np.asarray(self.source[(slice(None), *read)], np.float32)
        return np.pad(pixels, [(0, 0), *pad], mode="edge")

    def _lost(self, pixels: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
        """(h, w) bool: where there are no data in pixels with their margin."""
        lost = np.isnan(pixels).any(axis=0)
        wide = [(first - _MARGIN, end + _MARGIN) for first, end in spans]
        for fill in self.fills:
            lost |= fill.mask(pixels, wide)
        return lost

    def _take_off_ramp(self, pixels: np.ndarray, spans: list[tuple[int, int]]) -> None:
        if not self.slope.any():
            return
        down, across = (np.arange(first - _MARGIN, end + _MARGIN, dtype=np.float32) for first, end in spans)
        for of_channel, (row_slope, column_slope) in zip(pixels, self.slope, strict=True):
            height, width = self.shape[1:]
            least = min(0, row_slope * (height - 1)) + min(0, column_slope * (width - 1))
            of_channel -= (row_slope * down)[:, None] + column_slope * across - least

    def _without_hot(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels, hot ones replaced by the median of those around them."""
        for channel, (background, signal) in enumerate(zip(self.background, self.signal, strict=True)):
            plane = pixels[channel]
            row, column = np.nonzero(_hot(plane, float(background), float(signal)))
            if len(row):
                around = np.arange(-2, 3)
                rows = np.clip(row[:, None, None] + around[:, None], 0, plane.shape[0] - 1)
                columns = np.clip(column[:, None, None] + around, 0, plane.shape[1] - 1)
                plane[row, column] = np.nanmedian(plane[rows, columns].reshape(len(row), -1), axis=1)
        return pixels


@dataclass(frozen=True)
class KnownPixels:
    """Where a region of an image has data, (height, width) bool, computed where it is sliced."""

    image: RepairedImage
    region: Region

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, columns = (
            slice(first + low, first + high)
            for first, (low, high) in zip(
                self.region.corner.tolist(),
                (side.indices(n)[:2] for side, n in zip(full_key(key, 2), self.region.shape, strict=True)),
                strict=True,
            )
        )
        return ~np.isnan(self.image[:1, rows, columns][0])


def repair_image(image: Any) -> RepairedImage:
    """Find what disturbs an image, and an image without it, computed where it is sliced.

    Parameters
    ----------
    image : array-like (C, H, W)
        NaN where there are no data.  Every k-th row and column of a large image is read, and some squares.

    Returns
    -------
    RepairedImage
    """
    step = math.ceil(math.sqrt(math.prod(image.shape[1:]) / _OVERVIEW))
    view = np.asarray(image[:, ::step, ::step], np.float32).copy()
    n_channels, notes = len(view), []
    lost = np.isnan(view).any(axis=0)
    if lost.any():
        notes.append(f"{lost.mean():.0%} of the pixels are NaN or masked, and left out")
    fills = tuple(find_fills(view, step))
    for fill in fills:
        notes.append(
            f"{fill.places.mean():.1%} of the pixels are of exactly one value, in pieces: taken for no data"
        )
        view[:, fill.places] = np.nan
    empty = np.zeros(n_channels)
    if np.isnan(view).any(axis=0).all():
        return RepairedImage(image, fills, np.zeros((n_channels, 2)), empty, empty + np.inf, tuple(notes))
    slope = np.stack([_ramp(plane) for plane in view]) / step
    if slope.any():
        notes.append("the background rises like a ramp across the image, which is taken off")
    flat = RepairedImage(image, fills, slope, empty, empty + np.inf, ())
    squares = list(_squares(flat))
    background, signal = np.array(
        [_signal([square[channel] for square in squares]) for channel in range(n_channels)]
    ).T
    hot = np.mean(
        [_hot(*of).mean() for square in squares for of in zip(square, background, signal, strict=True)]
    )
    if hot > 0:
        notes.append(f"{100 * hot:.2g} % of the pixels are hot, and replaced by those around them")
    return RepairedImage(image, fills, slope, background, signal, tuple(notes))


# --- ramps --------------------------------------------------------------------------------------------------------


def _ramp(plane: np.ndarray) -> np.ndarray:
    """(2,) rise per px down and across of the dark levels of a plane (h, w) with NaN; 0 where they follow no ramp."""
    none = np.zeros(2)
    plane = plane.astype(np.float64)
    side = max(plane.shape) / _RAMP_BLOCKS
    rows, columns = (np.array_split(np.arange(n), max(1, min(n, round(n / side)))) for n in plane.shape)
    places, levels = [], []
    for row in rows:
        for column in columns:
            block = plane[row[0] : row[-1] + 1, column[0] : column[-1] + 1]
            known = block[~np.isnan(block)]
            if len(known) >= _RAMP_KNOWN * block.size:
                places.append((1.0, row.mean(), column.mean()))
                levels.append(np.percentile(known, _RAMP_PERCENTILE))
    if len(levels) < _LEAST_BLOCKS or np.ptp(levels) <= _DUST * np.abs(levels).max():
        return none
    design, level = np.array(places), np.array(levels)
    if np.linalg.matrix_rank(design) < 3:
        return none
    kept = np.ones(len(level), bool)
    for _ in range(_RAMP_ROUNDS):
        fitted = design @ np.linalg.lstsq(design[kept], level[kept], rcond=None)[0]
        off = np.abs(level - fitted)
        kept = off <= max(_OUTLIER * 1.4826 * float(np.median(off)), 1e-9)
        if kept.sum() < _LEAST_BLOCKS:
            return none
    slope = np.linalg.lstsq(design[kept], level[kept], rcond=None)[0]
    explained = 1 - np.mean((level - design @ slope) ** 2) / max(float(np.var(level)), 1e-12)
    flat = plane - slope[1] * np.arange(plane.shape[0])[:, None] - slope[2] * np.arange(plane.shape[1])
    known = flat[~np.isnan(flat)]
    is_smooth = np.ptp(known) <= _DUST * np.abs(level).max()
    noise = 0.0 if is_smooth else background_and_noise(known)[1]
    span = abs(slope[1]) * plane.shape[0] + abs(slope[2]) * plane.shape[1]
    return slope[1:] if explained >= _RAMP_EXPLAINS and span > _RAMP_SPAN * noise else none


# --- hot pixels ---------------------------------------------------------------------------------------------------

_SQUARE, _SQUARES_PER_AXIS = 128, 4


def _squares(image: RepairedImage) -> Iterator[np.ndarray]:
    """Squares (C, h, w) of an image: all of a small one, evenly spread ones of a large one."""
    starts = [
        range(0, n, _SQUARE)
        if n <= _SQUARE * _SQUARES_PER_AXIS
        else np.linspace(0, n - _SQUARE, _SQUARES_PER_AXIS).astype(int)
        for n in image.shape[1:]
    ]
    for row in starts[0]:
        for column in starts[1]:
            yield image[:, int(row) : int(row) + _SQUARE, int(column) : int(column) + _SQUARE]


def _signal(squares: list[np.ndarray]) -> tuple[float, float]:
    """The background of squares (h, w) of a plane, and the signal of an object above it; infinite if none is there."""
    pixels = np.concatenate([square.ravel() for square in squares])
    known = pixels[~np.isnan(pixels)]
    if not len(known):
        return 0.0, np.inf
    background, noise = background_and_noise(known.astype(np.float64))
    return background, object_signal(squares, background, noise)


def _hot(plane: np.ndarray, background: float, signal: float) -> np.ndarray:
    """(h, w) bool: the pixels of a plane that stand out from both of their sides as nothing does that is in focus."""
    hot = np.zeros(plane.shape, bool)
    if not np.isfinite(signal):
        return hot
    for distance, times in _HOT:
        least = np.maximum(times * signal, _FLANK * (plane - background))
        for axis in (0, 1):
            inner = [slice(None), slice(None)]
            inner[axis] = slice(distance, -distance)
            before, after = (np.roll(plane, shift, axis)[tuple(inner)] for shift in (distance, -distance))
            hot[tuple(inner)] |= plane[tuple(inner)] - np.maximum(before, after) > least[tuple(inner)]
    return hot
