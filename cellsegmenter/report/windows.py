"""Windows worth showing: where the images have something to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.preparation import PreparedImage
from cellsegmenter.region import Region
from cellsegmenter.scale_search import see_by_estimate
from cellsegmenter.validation import check_images

__all__ = ["TellingWindow", "telling_windows"]

_CANDIDATES = 12  # for each window: those with the most contrast are shown


class TellingWindow(NamedTuple):
    """A place in an image that fits into a window, as training sees it."""

    image: Any  # all of it, as the user gave it
    region: Region  # px of the image
    pixels: np.ndarray  # (C, h, w) float32 at working scale, normalised; h, w at most window_size
    rows: np.ndarray  # (h,) the row of the region that each row of pixels shows
    columns: np.ndarray  # (w,)


def telling_windows(segmenter: Any, images: Sequence[Any], n_windows: int = 4) -> list[TellingWindow]:
    """Cut windows from images that are prepared for the model as a whole.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    images : sequence of array-likes
        As in `CellSegmenter.predict`.
    n_windows : int
        At most; evenly spread over the images, and no two of one image overlap.  An image that is smaller than a
        window is shown as it is.

    Raises
    ------
    ValueError
        If an image is not understood.
    """
    views, _ = check_images(
        list(images), channel_axis=segmenter.channel_axis, n_channels=segmenter.n_channels_in_
    )
    random = np.random.default_rng(0)
    spread = np.linspace(0, len(views) - 1, n_windows).round().astype(int)
    windows = []
    for index, count in zip(*np.unique(spread, return_counts=True), strict=True):
        places = _places(segmenter, views[index], _CANDIDATES * int(count), random)
        windows += [_window(images[index], place) for place in _contrasting(places, int(count))]
    return windows


class _Place(NamedTuple):
    """A window in a prepared image."""

    prepared: PreparedImage
    region: Region  # px at working scale

    @property
    def pixels(self) -> np.ndarray:
        """(C, h, w)."""
        return self.prepared[(slice(None), *self.region.slices)]


def _places(segmenter: Any, view: Any, n_places: int, random: np.random.Generator) -> list[_Place]:
    """Random windows of an image (C, H, W)."""
    prepared = see_by_estimate(
        view,
        segmenter.diameter,
        segmenter.polarity,
        working_diameter=segmenter.working_diameter_,
        intensity=segmenter.intensity,
    ).views[0]
    size = segmenter.model_.config.window_size
    height, width = (min(size, side) for side in prepared.shape[1:])
    last = prepared.shape[1] - height, prepared.shape[2] - width
    corners = random.integers((0, 0), last, size=(n_places, 2), endpoint=True)
    return [_Place(prepared, Region(int(row), int(column), height, width)) for row, column in corners]


def _contrasting(places: list[_Place], n_windows: int) -> list[_Place]:
    """Those with much contrast, none over another."""
    contrast = [-float(place.pixels.std()) for place in places]
    chosen: list[_Place] = []
    for i in np.argsort(contrast, kind="stable"):
        if len(chosen) < n_windows and not any(places[i].region.meets(other.region) for other in chosen):
            chosen.append(places[i])
    return chosen


def _window(image: Any, place: _Place) -> TellingWindow:
    """A place with its pixels, and where it is in the user's image."""
    prepared, spans = place.prepared, []
    for first, n, new, old in zip(
        place.region.corner.tolist(),
        place.region.shape,
        prepared.shape[1:],
        prepared.original_shape,
        strict=True,
    ):
        low, high = first * old // new, -(-(first + n) * old // new)
        shown = ((np.arange(first, first + n) + 0.5) * old / new).astype(np.int64)
        spans.append((low, high - low, shown - low))
    (row, height, rows), (column, width, columns) = spans
    return TellingWindow(image, Region(row, column, height, width), place.pixels, rows, columns)
