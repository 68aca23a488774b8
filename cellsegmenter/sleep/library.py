"""What the wake model teaches: cut-outs of its confident objects, backgrounds without objects, and filtered labels.

The wake model is right about most objects that it is sure of.  These are used in two ways.  `build_library` cuts them
out, so that composites with exact labels can be made from them (`cellsegmenter.sleep.composites`).  `taught_labels`
keeps them as labels of the image itself and marks what is doubtful as ignored.

On 171 training images of nuclei, 74 % of the objects passed the filter of `taught_labels`.  Of those that passed, 96 %
were right, against 88 % of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import regionprops

from cellsegmenter.sleep.units import Intensity, sixteenth, to_linear

__all__ = [
    "IGNORED",
    "Backdrop",
    "CutOut",
    "Library",
    "Shelf",
    "TaughtImage",
    "build_library",
    "taught_labels",
]

IGNORED = -1  # label of pixels of which nothing is learned

# Lengths in sixteenths of a diameter, areas in their squares; see `cellsegmenter.sleep.units`.

# An object is trusted as a label.
_TRUSTED_CONFIDENCE, _TRUSTED_SOLIDITY = 0.8, 0.88
# An object is good enough to be pasted elsewhere.
_PASTED_CONFIDENCE, _PASTED_SOLIDITY = 0.85, 0.86
_LEAST_AREA = 20.0
# What is good enough has fewer dents than all objects have, and a network would learn that every dent parts two.  So
# the more solid an object, the less often it is pasted: e-fold in a twelfth (57 training images of nuclei, mean of four
# APs, two seeds: .786 with 0.92 and equal chances, .790 with this).
_SOLIDITY_SCALE = 1 / 12
# Area of a pasted object over the median area of the image's confident objects.
_RELATIVE_AREA = (0.25, 3.0)
_SOLID_ANYWAY = 12  # px; of smaller objects pixels decide the solidity, not shape
# A pasted object lies this far from the image's edge, px, and from other objects.
_EDGE, _CLEARANCE = 2, 3.0
# Pixels at these distances from the mask say what surrounds an object; few of them may be foreground.
_RING, _RING_FOREGROUND, _LEAST_RING = (2.5, 5.0), 0.25, 10
# The signal of a cut-out fades to nothing between these distances from the mask.
_FADE = (2.0, 4.5)
_LEAST_LEVEL = 0.04  # linear intensity above the surroundings

# Pixels around doubtful objects, and pixels with more foreground than this outside of objects, are ignored.
_DOUBT_REACH, _DOUBTFUL_FOREGROUND = 2.0, 0.2

# A backdrop shows no pixel with more foreground than this, nor pixels near it or near an object.
_BACKDROP_FOREGROUND, _BACKDROP_REACH = 0.15, 3.0
# Nor pixels that stand out by so many standard deviations of the noise, nor those near them.
_OUTLIER, _OUTLIER_REACH = 6.0, 2.0
# Share of an image that may be covered, before and after outliers are found.
_MOST_COVERED = (0.85, 0.9)
_BACKDROP_SMOOTHING = 10.0
# Noise of covered pixels is copied from elsewhere, at most this far away, in so many rounds.
_NOISE_SHIFT, _NOISE_ROUNDS = 60.0, 12
_LEAST_NOISE = 1e-4
_MAD_TO_STD = 1.4826


class TaughtImage(NamedTuple):
    """What the wake model says of one training image, at working scale."""

    pixels: np.ndarray  # (C, H, W) float32, normalised
    labels: np.ndarray  # (H, W) int32: 0 background, objects 1..n
    confidence: np.ndarray  # (n,) in 0..1
    foreground: np.ndarray  # (H, W) float32 in 0..1: share of looks that call a pixel foreground


class CutOut(NamedTuple):
    """An object without its surroundings."""

    signal: (
        np.ndarray
    )  # (C, h, w) float32 linear intensity above the surroundings; fades to 0 outside of the mask
    mask: np.ndarray  # (h, w) float32: 1 in the object, else 0
    level: float  # median signal in the mask, in the channel where it is brightest
    weight: float  # chance to be pasted, relative to the others
    image: int  # index of the image that it is from


class Backdrop(NamedTuple):
    """An image without its objects."""

    pixels: np.ndarray  # (C, H, W) float32 linear intensity
    noise: float  # standard deviation, mean of the channels
    image: int  # index of the image that it is from


class Shelf:
    """Some cut-outs to draw from, each by its weight."""

    def __init__(self, objects: Sequence[CutOut]) -> None:
        self.objects = objects
        self._share = np.cumsum([cut_out.weight for cut_out in objects])

    def __len__(self) -> int:
        return len(self.objects)

    def draw(self, random: np.random.Generator) -> CutOut:
        place = np.searchsorted(self._share, random.uniform(0, self._share[-1]), side="right")
        return self.objects[min(int(place), len(self.objects) - 1)]


@dataclass(frozen=True)
class Library:
    """What composites are made of."""

    objects: list[CutOut]
    backdrops: list[Backdrop]
    n_seen: int  # objects of the wake model in all images

    @property
    def n_kept(self) -> int:
        """Objects good enough to be pasted."""
        return len(self.objects)

    @cached_property
    def by_image(self) -> dict[int, Shelf]:
        """The objects of each image that has some."""
        of_image: dict[int, list[CutOut]] = {}
        for cut_out in self.objects:
            of_image.setdefault(cut_out.image, []).append(cut_out)
        return {image: Shelf(objects) for image, objects in of_image.items()}


def build_library(
    images: Sequence[TaughtImage], diameter: float, method: Intensity, random: np.random.Generator
) -> Library:
    """Cut confident objects out of images, and make backdrops of what is left.

    Without a single confident object in `images`, the library has no objects.  It always has a backdrop, unless
    there are no images: if objects fill all images, backdrops are flat with the noise of the images.

    Parameters
    ----------
    images : sequence of TaughtImage
    diameter : float
        px of a typical object at working scale.
    method : {"log", "linear"}
        Scale of the pixels, see `cellsegmenter.normalize`.
    random : numpy.random.Generator
        Places that the noise of the backdrops is copied from.
    """
    unit = sixteenth(diameter)
    objects: list[CutOut] = []
    backdrops: list[Backdrop] = []
    n_seen = 0
    for index, image in enumerate(images):
        linear = to_linear(image.pixels, method)
        objects += _cut_outs(image, linear, index, unit)
        backdrop = _backdrop(image, linear, index, unit, random)
        if backdrop is not None:
            backdrops.append(backdrop)
        n_seen += len(image.confidence)
    if not backdrops:
        backdrops = [
            _flat_backdrop(to_linear(image.pixels, method), index, random)
            for index, image in enumerate(images)
        ]
    return Library(objects, backdrops, n_seen)


def taught_labels(image: TaughtImage, diameter: float) -> np.ndarray:
    """The labels of trusted objects; doubtful objects and unexplained foreground are ignored.

    Parameters
    ----------
    image : TaughtImage
    diameter : float
        px of a typical object at working scale.

    Returns
    -------
    (H, W) int32 array
        Trusted objects keep their labels.  0 is background, -1 is ignored.
    """
    labels = image.labels
    trusted = np.zeros(labels.max(initial=0) + 1, bool)
    for region in regionprops(labels):
        trusted[region.label] = _is_trusted(region, image.confidence)
    kept = np.where(trusted[labels], labels, 0)
    doubtful = ndimage.binary_dilation(
        (labels > 0) & (kept == 0), iterations=round(_DOUBT_REACH * sixteenth(diameter))
    )
    ignored = (doubtful | (image.foreground > _DOUBTFUL_FOREGROUND)) & (kept == 0)
    return np.where(ignored, IGNORED, kept).astype(np.int32)


def _solidity(region: Any) -> float:
    """Area of a region over that of its convex hull."""
    return float(region.solidity) if region.area >= _SOLID_ANYWAY else 1.0


def _is_trusted(region: Any, confidence: np.ndarray) -> bool:
    return bool(
        confidence[region.label - 1] >= _TRUSTED_CONFIDENCE and _solidity(region) >= _TRUSTED_SOLIDITY
    )


def _cut_outs(image: TaughtImage, linear: np.ndarray, index: int, unit: float) -> list[CutOut]:
    """The confident objects of an image."""
    regions = regionprops(image.labels)
    areas = [region.area for region in regions if image.confidence[region.label - 1] >= _TRUSTED_CONFIDENCE]
    if not areas:
        return []
    least, most = (share * float(np.median(areas)) for share in _RELATIVE_AREA)
    found = [
        _cut_out(image, linear, region, index, unit)
        for region in regions
        if max(least, _LEAST_AREA * unit**2) < region.area < most
        and image.confidence[region.label - 1] >= _PASTED_CONFIDENCE
        and _solidity(region) >= _PASTED_SOLIDITY
    ]
    return [cut_out for cut_out in found if cut_out is not None]


def _cut_out(image: TaughtImage, linear: np.ndarray, region: Any, index: int, unit: float) -> CutOut | None:
    """One object above its surroundings; None if it is not alone, not whole or hardly visible."""
    top, left, bottom, right = region.bbox
    height, width = image.labels.shape
    if min(top, left) < _EDGE or bottom > height - _EDGE or right > width - _EDGE:
        return None
    margin = math.ceil(_RING[1] * unit) + 1
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    labels, foreground, pixels = (
        plane[..., rows, columns] for plane in (image.labels, image.foreground, linear)
    )
    mask = labels == region.label
    distance = ndimage.distance_transform_edt(~mask) / unit
    if ((labels > 0) & ~mask & (distance <= _CLEARANCE)).any():
        return None
    ring = (distance > _RING[0]) & (distance <= _RING[1])
    if ring.sum() < _LEAST_RING or foreground[ring].mean() > _RING_FOREGROUND:
        return None
    surroundings = np.median(pixels[:, ring], axis=1)
    level = float((np.median(pixels[:, mask], axis=1) - surroundings).max())
    if level < _LEAST_LEVEL:
        return None
    opacity = np.clip((_FADE[1] - distance) / (_FADE[1] - _FADE[0]), 0, 1)
    signal = (pixels - surroundings[:, None, None]) * opacity
    weight = math.exp((_PASTED_SOLIDITY - _solidity(region)) / _SOLIDITY_SCALE)
    return CutOut(signal.astype(np.float32), mask.astype(np.float32), level, weight, index)


def _backdrop(
    image: TaughtImage, linear: np.ndarray, index: int, unit: float, random: np.random.Generator
) -> Backdrop | None:
    """The image without its objects; None if they cover nearly all of it."""
    covered = ndimage.binary_dilation(
        (image.labels > 0) | (image.foreground > _BACKDROP_FOREGROUND),
        iterations=round(_BACKDROP_REACH * unit),
    )
    if covered.mean() > _MOST_COVERED[0]:
        return None
    level = np.median(linear[:, ~covered], axis=1)[:, None]
    noise = _LEAST_NOISE + _MAD_TO_STD * np.median(np.abs(linear[:, ~covered] - level), axis=1)
    smooth = ndimage.gaussian_filter(linear, (0, unit, unit))
    bright = (smooth > (level + _OUTLIER * noise[:, None])[..., None]).any(axis=0)
    covered |= ndimage.binary_dilation(bright, iterations=round(_OUTLIER_REACH * unit))
    if covered.mean() > _MOST_COVERED[1]:
        return None
    pixels = _filled(linear, covered, level[..., None], noise, unit, random)
    return Backdrop(pixels, float(noise.mean()), index)


def _filled(
    linear: np.ndarray,
    covered: np.ndarray,
    level: np.ndarray,
    noise: np.ndarray,
    unit: float,
    random: np.random.Generator,
) -> np.ndarray:
    """(C, H, W) whose covered pixels show the level around them, with noise from elsewhere in the image."""
    clear = (~covered).astype(np.float32)
    sigma = (0, _BACKDROP_SMOOTHING * unit, _BACKDROP_SMOOTHING * unit)
    # Far from all clear pixels the level of the whole image takes over.
    weight = ndimage.gaussian_filter(clear[None], sigma) + 1e-3
    smooth = (ndimage.gaussian_filter(linear * clear, sigma) + 1e-3 * level) / weight
    residual = np.where(covered, 0, linear - smooth)
    filled = np.where(covered, smooth, linear)
    missing = covered.copy()
    reach = round(_NOISE_SHIFT * unit)
    for _ in range(_NOISE_ROUNDS):
        shift = tuple(int(step) for step in random.integers(-reach, reach + 1, 2))
        found = missing & np.roll(~covered, shift, (0, 1))
        filled[:, found] += np.roll(residual, shift, (1, 2))[:, found]
        missing &= ~found
    filled[:, missing] += noise[:, None] * random.standard_normal((len(linear), int(missing.sum())))
    return filled.astype(np.float32)


def _flat_backdrop(linear: np.ndarray, index: int, random: np.random.Generator) -> Backdrop:
    """The normalised background, 0, with the noise of an image that objects cover."""
    steps = np.abs(np.diff(linear, axis=2)).reshape(len(linear), -1)
    noise = _LEAST_NOISE + _MAD_TO_STD / math.sqrt(2) * np.median(steps, axis=1)
    pixels = noise[:, None, None] * random.standard_normal(linear.shape)
    return Backdrop(pixels.astype(np.float32), float(noise.mean()), index)
