"""Bounds for `CellSegmenter.fit`, proposed from images without labels.

count objects → the scale to work at → what random windows at that scale hold → ranges around it

The count is classical (`cellsegmenter.counting`) and crude, which is all that the bounds need: training stays free
inside them.  Whoever uses them should look at the picture of what was counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cellsegmenter.counting import CountedTile, count_objects
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.files import pasteable
from cellsegmenter.learning import noise_scale_of
from cellsegmenter.parameters import check_bounds_together
from cellsegmenter.polarity import Inverted, looks_dark_on_bright
from cellsegmenter.preparation import prepare_image
from cellsegmenter.validation import check_choice, check_images, check_number

__all__ = ["SuggestedBounds", "suggest_bounds"]

# Objects of this diameter, px, suit an 80-px window; outside of the comfortable range images are rescaled to it.
_TARGET_DIAMETER = 16.0
_COMFORTABLE = (10.0, 24.0)
# Images whose mean diameters differ by more than this (90th over 10th percentile) get a scale each.
_SAME_SCALE = 1.6
# The ranges around the means that were counted.  Counts by threshold err towards too few, areas towards too much.
_DENSITY_RANGE = (0.75, 1.5)
_AREA_RANGE = (0.7, 1.25)
_SIZE_PERCENTILES, _SIZE_MARGINS = (5, 90), (0.8, 1.25)  # pieces that were not parted are in the upper tail
_MAX_IMAGES = 50
_N_WINDOWS = 400
# An object counts in every window that shows at least this part of it: it has to be explained there.
_VISIBLE = 0.25
_ENOUGH = 5  # objects for an image's own mean diameter
_FEW = 30  # objects: below this the numbers say little


class _Counted(NamedTuple):
    """One tile and the scale its image is worked at."""

    tile: CountedTile
    scale: float  # working size over the image's own


@dataclass(frozen=True)
class SuggestedBounds:
    """What `suggest_bounds` proposes; bounds are at working scale, as `CellSegmenter` takes them."""

    density: tuple[float, float]  # objects per window
    area: tuple[float, float]  # fraction
    object_size: tuple[int, int]  # px of a bounding box's sides, after rescaling
    window_size: int  # px
    max_objects: int | None  # only where some windows are much denser than the mean
    diameter: float | Literal["auto"] | None  # px of the user's images; None: no rescaling is needed
    noise_scale: float  # sigma, normalised intensity; `fit` estimates the same by default
    n_images: int  # that were looked at
    n_objects: int  # that were counted in them
    object_diameter: float  # px of the user's images: circle of the mean area
    counted: tuple[CountedTile, ...]  # for the picture
    scales: tuple[float, ...]  # of each counted tile: working size over its own
    polarity: Literal["auto", "dark"]  # of the objects; "auto" is bright in `fit`
    notes: tuple[str, ...]  # what the user should know, in words

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments for `CellSegmenter`."""
        chosen = {
            "density": self.density,
            "area": self.area,
            "object_size": self.object_size,
            "window_size": self.window_size,
            "max_objects": self.max_objects,
            "diameter": self.diameter,
            "polarity": self.polarity,
        }
        defaults = {"window_size": 80, "max_objects": None, "diameter": None, "polarity": "auto"}
        return {
            name: value for name, value in chosen.items() if name not in defaults or value != defaults[name]
        }

    @property
    def constructor(self) -> str:
        """The call in Python, ready to be pasted."""
        return f"CellSegmenter({', '.join(f'{name}={value!r}' for name, value in self.parameters.items())})"

    def command(self, images: Sequence[str | Path], output: str | Path = "my-model.safetensors") -> str:
        """The command line that fits these images, ready to be pasted."""
        words = ["cellseg", "fit", *map(str, images), "-o", str(output)]
        for name, value in self.parameters.items():
            values = value if isinstance(value, tuple) else (value,)
            words += [
                f"--{name.replace('_', '-')}",
                *(f"{v:g}" if not isinstance(v, str) else v for v in values),
            ]
        return pasteable(words)


def suggest_bounds(
    X: Any,
    *,
    channel_axis: int | None = None,
    window_size: int = 80,
    polarity: Literal["auto", "bright", "dark"] = "auto",
) -> SuggestedBounds:
    """Propose the bounds of `CellSegmenter` from images without labels.

    Parameters
    ----------
    X : array-like or list of array-likes
        As in `CellSegmenter.fit`.  Of many images 50 are looked at, evenly spread; of large ones up to 16 tiles.
    channel_axis : int, optional
        Axis of the channels; by default images are grey.
    window_size : int, default=80
        Side of the windows that the model will work on, px.
    polarity : {"auto", "bright", "dark"}, default="auto"
        Whether objects are brighter or darker than what is around them; "auto" takes them for bright, as `fit` does.

    Returns
    -------
    SuggestedBounds
        ``CellSegmenter(**suggest_bounds(images).parameters)`` is ready to be fitted.

    Raises
    ------
    ValueError
        If nothing stands out from the background, or an image is not understood (see `CellSegmenter.fit`).
    """
    window = int(check_number("window_size", window_size, low=32, integer=True))
    images, _ = check_images(X, channel_axis=channel_axis)
    check_choice("polarity", polarity, ("auto", "bright", "dark"))
    dark = polarity == "dark"
    chosen = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, _MAX_IMAGES).astype(int))]
    views: list[Any] = [Inverted(view) if dark else view for view in chosen]
    tiles = [count_objects(view) for view in views]
    areas = np.concatenate([tile.areas for own in tiles for tile in own])
    if not len(areas):
        raise ValueError(
            "X shows nothing that stands out from the background in any image; check the channel, and "
            'that objects are brighter than the background (otherwise polarity="dark", --polarity dark)'
        )
    own_diameter = math.sqrt(4 / math.pi * areas.mean())
    scales = _scales(views, tiles, own_diameter)
    counted = [_Counted(t, scale) for own, scale in zip(tiles, scales, strict=True) for t in own]
    n_objects, foreground = _window_contents(counted, window)
    sides = np.concatenate([c.scale * c.tile.boxes[c.tile.whole] for c in counted])
    density = _around(float(n_objects.mean()), _DENSITY_RANGE)
    area = _around(float(foreground.mean()), _AREA_RANGE)
    size = _object_size(
        sides if len(sides) else np.concatenate([c.scale * c.tile.boxes for c in counted]), window
    )
    bounds = check_bounds_together(
        density=density, area=area, object_size=size, window_size=window, max_objects=None
    )
    crowded = int(np.percentile(n_objects, 99))
    prepared = [
        prepare_image(view, scale=scale, diameter=bounds.diameter)
        for view, scale in zip(views, scales, strict=True)
    ]
    return SuggestedBounds(
        density=density,
        area=area,
        object_size=size,
        window_size=window,
        max_objects=crowded if crowded > bounds.max_objects else None,
        diameter=_diameter(scales, bounds.diameter),
        noise_scale=noise_scale_of(prepared, window, seed=0),
        n_images=len(views),
        n_objects=len(areas),
        object_diameter=own_diameter,
        counted=tuple(c.tile for c in counted),
        scales=tuple(c.scale for c in counted),
        polarity="dark" if dark else "auto",
        notes=tuple(
            _notes(counted, len(areas), sum(looks_dark_on_bright(view) for view in views) / len(views))
        ),
    )


def _scales(views: list[Any], tiles: list[list[CountedTile]], own_diameter: float) -> list[float]:
    """The working scale of each image: 1 if its objects suit the windows, else what makes them 16 px wide."""
    counts = np.array([sum(len(tile.areas) for tile in own) for own in tiles])
    # The mean of a few objects says little of an image's scale.
    diameters = [_mean_diameter(own) for own, n in zip(tiles, counts, strict=True) if n >= _ENOUGH]
    low, high = np.percentile(diameters, [10, 90]) if len(diameters) > 2 else (1.0, 1.0)
    if high > _SAME_SCALE * low:
        # As diameter="auto" does it, so that the bounds hold for what training will see.
        estimates = [estimate_diameter(view) for view in views]
        return [_TARGET_DIAMETER / d if np.isfinite(d) else 1.0 for d in estimates]
    comfortable = _COMFORTABLE[0] <= own_diameter <= _COMFORTABLE[1]
    return [1.0 if comfortable else _TARGET_DIAMETER / own_diameter] * len(views)


def _mean_diameter(tiles: list[CountedTile]) -> float:
    """px of the circle of the mean area in one image."""
    return math.sqrt(4 / math.pi * np.concatenate([tile.areas for tile in tiles]).mean())


def _diameter(scales: list[float], working_diameter: float) -> float | Literal["auto"] | None:
    """The parameter that makes `fit` work at these scales, given the diameter that the bounds imply."""
    if all(scale == 1.0 for scale in scales):
        return None
    return "auto" if len(set(scales)) > 1 else round(working_diameter / scales[0], 1)


def _window_contents(counted: list[_Counted], window: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects and foreground fraction of random windows, drawn as training draws them: by area."""
    random = np.random.default_rng(0)
    share = np.array([c.tile.labels.size * c.scale**2 for c in counted])
    n_objects, foreground = [], []
    for index in random.choice(len(counted), size=_N_WINDOWS, p=share / share.sum()):
        tile, scale = counted[index]
        side = window / scale
        height, width = tile.labels.shape
        rows, columns = min(height, round(side)), min(width, round(side))
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
        crop = tile.labels[top : top + rows, left : left + columns]
        shown = np.bincount(crop.ravel(), minlength=len(tile.areas) + 1)[1:]
        # An image smaller than a window is continued by reflection.
        n_objects.append(np.sum(shown >= np.maximum(_VISIBLE * tile.areas, 1)) * (side**2 / crop.size))
        foreground.append(np.mean(crop > 0))
    if not any(n_objects):  # so few that no window met one: their share of all windows
        n_windows = sum(c.tile.labels.size * c.scale**2 for c in counted) / window**2
        n_objects = [sum(len(c.tile.areas) for c in counted) / n_windows]
        foreground = [sum(float(c.tile.areas.sum()) * c.scale**2 for c in counted) / window**2 / n_windows]
    return np.array(n_objects), np.array(foreground)


def _around(mean: float, factors: tuple[float, float]) -> tuple[float, float]:
    """A range around a mean, to two digits."""
    low, high = (float(f"{mean * factor:.2g}") for factor in factors)
    return low, min(high, 1.0) if mean <= 1 and factors is _AREA_RANGE else high


def _object_size(sides: np.ndarray, window: int) -> tuple[int, int]:
    """Shortest and longest side of the bounding boxes (n, 2), with a margin, px."""
    low = _SIZE_MARGINS[0] * np.percentile(sides.min(axis=1), _SIZE_PERCENTILES[0])
    high = _SIZE_MARGINS[1] * np.percentile(sides.max(axis=1), _SIZE_PERCENTILES[1])
    shortest = min(max(3, round(low)), window - 2)
    return shortest, min(max(round(high), shortest + 2), window)


def _notes(counted: list[_Counted], n_objects: int, bright: float) -> list[str]:
    """What may be wrong with the numbers, in words; `bright` is the share of images that look dark on bright."""
    notes = []
    if n_objects < _FEW:
        counted_ones = "1 object was" if n_objects == 1 else f"{n_objects} objects were"
        notes.append(f"Only {counted_ones} counted: the numbers are rough; give more images.")
    diameters = np.concatenate([c.scale * np.sqrt(4 / np.pi * c.tile.areas[c.tile.whole]) for c in counted])
    if len(diameters) >= _FEW:
        small, large = np.percentile(diameters, [5, 95])
        if large > 3 * small:
            notes.append(
                f"Objects differ in size by more than three times ({small:.0f} to {large:.0f} px at working scale): "
                "one model works at one scale, so the smallest or the largest will do badly."
            )
    if len({c.scale for c in counted}) > 1:
        notes.append(
            'The images differ in scale: diameter="auto" brings each to objects of '
            f"{_TARGET_DIAMETER:g} px, and the bounds are in these rescaled pixels."
        )
    foreground = np.array([np.mean(c.tile.labels > 0) for c in counted])
    if bright > 0.5:
        notes.append(
            f"{bright:.0%} of the images are mostly bright: if the objects are dark on a brighter background, give "
            'polarity="dark" (--polarity dark), as the numbers mean nothing otherwise.'
        )
    elif np.median(foreground) > 0.5:
        notes.append(
            f"{np.median(foreground):.0%} of the pixels look like objects: check that they are brighter than the "
            "background, and not the other way round."
        )
    sprawling = [
        (boxes >= 0.9 * np.array(tile.labels.shape)).any(axis=1).any()
        for tile, boxes in ((c.tile, c.tile.boxes) for c in counted)
        if min(tile.labels.shape) > 4 * _TARGET_DIAMETER
    ]
    if sprawling and np.mean(sprawling) > 0.25:
        notes.append(
            "In many images one piece spans the whole picture: touching objects that were not parted, or a "
            "structured background. Look at the picture, and correct the density and the area by hand."
        )
    return notes
