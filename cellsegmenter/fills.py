"""Fills: pixels that hold no data, because something else than a camera wrote the same exact value into them.

Missing tiles, the margin of a mosaic, the corners of a rotated image are large pieces of one value.  Scale bars and
burnt-in marks are rectangles of the least or the greatest value.  A background that was cut off at a value is no fill:
it fades before it ends, and single pixels beside it have the value, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cellsegmenter.normalize import background_and_noise

__all__ = ["Fill", "find_fills"]

# Pieces of one value are large from this share of the image on; the data around them are large pieces, too.
_LARGE_FILL, _LARGE_DATA, _LARGE_SIDE, _LEAST_SIDE = 0.002, 0.05, 128, 64
_SHARE_IN_LARGE_DATA = 0.9
_COMMON = 0.05  # share of the other pixels that have the value, too, where a background was cut off
# Pixels beside a fill are as elsewhere: below the background by so many standard deviations of the noise at most, or
# by this share of the way to the fill; and away from the value by more than frequent values differ.
_LIKE_BACKGROUND, _HALFWAY = 3.0, 0.5
_STEPS, _FREQUENT = 1.5, 0.001
_MIXED = 0.1  # share of the pixels that touch a fill and are nearer to it than to the background
_FRAME = (
    0.3  # share of an image's edge that bright pieces must have, which may be saturated objects otherwise
)
_COUNTED = 2**17  # pixels by which frequent values are found
_BESIDE = (2, 5)  # px from a fill; interpolation may have mixed it with what is nearer
# Rectangles: pixels, share of the bounding box, shortest side, and distance from the background.
_BAR_PIXELS, _BAR_EXTENT, _BAR_SIDE, _BAR_STANDS_OUT = 30, 0.97, 3, 5.0
_TILE_EXTENT = 0.9  # of a large piece: pixels beside it may have its value by chance


@dataclass(frozen=True)
class Fill:
    """Pixels without data, all of one value."""

    value: np.ndarray  # (C,) float32
    places: np.ndarray  # (h, w) bool: where, in an overview
    step: int  # px of the image to one of the overview
    rim: int  # px around it that interpolation has mixed with it

    def mask(self, pixels: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
        """(h, w) bool: which of the pixels (C, h, w) at rows and columns of the image have no data."""
        index = [
            np.clip(np.arange(first, end) // self.step, 0, n - 1)
            for (first, end), n in zip(spans, self.places.shape, strict=True)
        ]
        near = self.places[index[0][:, None], index[1]]
        same = near & (pixels == self.value[:, None, None]).all(axis=0)
        return ndimage.binary_dilation(same, iterations=self.rim) if self.rim and same.any() else same


@dataclass(frozen=True)
class _Overview:
    """Every k-th row and column of an image."""

    pixels: np.ndarray  # (C, h, w), nan where there are no data
    known: np.ndarray  # (h, w) bool
    step: int  # k


def find_fills(view: np.ndarray, step: int) -> list[Fill]:
    """The fills of an image, from every `step`-th row and column of it, (C, h, w) with NaN where there are no data."""
    known = ~np.isnan(view).any(axis=0)
    if not known.any():
        return []
    overview = _Overview(view, known, step)
    return [fill for value in _frequent_values(view[:, known]) for fill in _fill_of(overview, value)]


def _frequent_values(pixels: np.ndarray) -> np.ndarray:
    """(n, C) values of pixels (C, m) that a fill may have: the least, the greatest, the most frequent."""
    modes = []
    for plane in pixels:
        values, counts = np.unique(_some(plane), return_counts=True)
        modes.append(values[counts.argmax()])
    return np.unique(np.stack([pixels.min(axis=1), pixels.max(axis=1), np.array(modes)]), axis=0)


def _some(pixels: np.ndarray) -> np.ndarray:
    """Evenly spread ones of the pixels (n,), to count values by."""
    return pixels[:: max(1, len(pixels) // _COUNTED)]


def _fill_of(overview: _Overview, value: np.ndarray) -> Iterator[Fill]:
    """The fill of one value, if it has any."""
    view, known = overview.pixels, overview.known
    same = known & (view == value[:, None, None]).all(axis=0)
    rest = known & ~ndimage.binary_dilation(same, iterations=_BESIDE[0])
    if same.sum() < _BAR_PIXELS or not rest.any() or not np.ptp(view[:, rest], axis=1).any():
        return
    levels = [background_and_noise(plane[rest].astype(np.float64)) for plane in view]
    pieces, _ = ndimage.label(same)
    size = np.bincount(pieces.ravel())
    size[0] = 0
    large = (size >= max(_BAR_PIXELS, _LARGE_FILL * same.size))[pieces]
    if not _frames(large):  # otherwise only rectangles: the rest may be saturated objects
        large = _rectangles(pieces, _TILE_EXTENT) & large
    places, rim = np.zeros_like(same), 0
    if (
        large.any()
        and same[known & ~large].mean() <= _COMMON
        and _holds_images(known & ~large, overview.step)
        and _ends_abruptly(overview, value, large, levels, _BESIDE)
    ):
        places = large
        rim = _BESIDE[0] if overview.step > 1 or _is_mixed(overview, value, large, levels) else 0
    stands_out = any(
        abs(of_value - level) > _BAR_STANDS_OUT * max(noise, 1e-9)
        for of_value, (level, noise) in zip(value, levels, strict=True)
    )
    extremes = view[:, known].min(axis=1), view[:, known].max(axis=1)
    # Otherwise a plateau of a smooth image would be a rectangle now and then.
    if stands_out and any((value == extreme).all() for extreme in extremes):
        places = places | _rectangles(pieces, _BAR_EXTENT)
    if places.any():
        yield Fill(value, ndimage.binary_dilation(places, iterations=2), overview.step, rim)


def _frames(large: np.ndarray) -> bool:
    """Whether pieces make up much of the edge of an image (h, w)."""
    edge = np.concatenate([large[0], large[-1], large[:, 0], large[:, -1]])
    return bool(edge.mean() >= _FRAME)


def _holds_images(data: np.ndarray, step: int) -> bool:
    """Whether what is not of the value are large pieces, rather than single objects on black."""
    pieces, _ = ndimage.label(data)
    size = np.bincount(pieces.ravel())[1:]
    least = max(min(_LARGE_DATA * data.size, (_LARGE_SIDE / step) ** 2), (_LEAST_SIDE / step) ** 2)
    return bool(size[size >= least].sum() >= _SHARE_IN_LARGE_DATA * size.sum())


def _ends_abruptly(
    overview: _Overview,
    value: np.ndarray,
    large: np.ndarray,
    levels: list[tuple[float, float]],
    beside: tuple[int, int],
) -> bool:
    """Whether pixels at a distance from large pieces of one value are like pixels elsewhere."""
    near, far = (ndimage.binary_dilation(large, iterations=n) if n else large for n in beside)
    ring = far & ~near & overview.known
    if not ring.any():
        return False
    for of_value, plane, (level, noise) in zip(value, overview.pixels, levels, strict=True):
        median = float(np.median(plane[ring]))
        below = max(_LIKE_BACKGROUND * noise, _HALFWAY * abs(level - of_value))
        if median >= level - below and abs(median - of_value) > _STEPS * _step(
            of_value, plane[overview.known]
        ):
            return True
    return False


def _is_mixed(
    overview: _Overview, value: np.ndarray, large: np.ndarray, levels: list[tuple[float, float]]
) -> bool:
    """Whether some pixels that touch large pieces are between their value and the background: interpolation does so."""
    ring = ndimage.binary_dilation(large) & ~large & overview.known
    return any(
        float(np.mean(np.abs(plane[ring] - of_value) < _HALFWAY * abs(level - of_value))) > _MIXED
        for of_value, plane, (level, _) in zip(value, overview.pixels, levels, strict=True)
    )


def _step(value: float, pixels: np.ndarray) -> float:
    """The least difference between frequent values other than one; 0 if there are none."""
    values, counts = np.unique(_some(pixels), return_counts=True)
    frequent = values[(counts > _FREQUENT * counts.sum()) & (values != value)]
    return float(np.diff(frequent).min()) if len(frequent) > 1 else 0.0


def _rectangles(pieces: np.ndarray, least_extent: float) -> np.ndarray:
    """(h, w) bool: which of the numbered pieces are rectangles, or lines across the image."""
    numbers = []
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        piece = pieces[box] == number
        is_line = any(side == whole for side, whole in zip(piece.shape, pieces.shape, strict=True))
        is_large = piece.sum() >= _BAR_PIXELS and min(piece.shape) >= (1 if is_line else _BAR_SIDE)
        if is_large and piece.mean() >= least_extent:
            numbers.append(number)
    return np.isin(pieces, numbers)
