"""Crops for the recognition network: pixels as they may look elsewhere, and what the network should say of them.

An object's middle is where its border is farthest.  So the network learns, at each point of its grid, how deep the
point lies in its object, and how far the border is in 32 directions (`cellsegmenter.recognition.stars`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cellsegmenter.recognition.network import RecognitionConfig
from cellsegmenter.recognition.stars import ray_lengths
from cellsegmenter.sleep.units import Intensity, from_linear, log_uniform, sixteenth, to_linear
from cellsegmenter.windows import reflect_index

__all__ = ["Crop", "CropSource", "Targets", "crop_targets"]

# Lengths in sixteenths of a diameter; see `cellsegmenter.sleep.units`.
_SIZE = 96.0  # side of a crop
_CONTEXT = 24.0  # objects are looked at in so much more on each side, so that most are whole
# Share of the crops that show an object, and how far their middle may lie from one of its pixels.
_OBJECT_SHARE, _OBJECT_DISTANCE = 0.7, 30.0
# A crop reaches this far beyond an image that is not smaller; there it is mirrored, as in prediction.
_OUTSIDE = 16.0
_ZOOMED_SHARE, _ZOOM = 0.6, (0.8, 1.25)
_GAIN_SHARE, _GAIN = 0.5, (-0.5, 0.4)  # logarithm of the factor on the linear scale
_BLURRED_SHARE, _BLUR = 0.25, (0.3, 1.0)
_NOISY_SHARE, _MOST_NOISE = 0.4, 0.04  # standard deviation on the normalised scale


class Targets(NamedTuple):
    """What the network should say at the m × m points of its grid, each the first pixel of pitch × pitch."""

    objectness: np.ndarray  # (m, m) float32 in 0..1: shortest ray over the longest such ray of the object
    radii: np.ndarray  # (32, m, m) float32 px: distances to the border; 0 outside of objects
    known: np.ndarray  # (m, m) bool: False where the label is ignored


class Crop(NamedTuple):
    """n × n pixels and the targets at the m × m points of the grid, m = n / pitch; see `Targets`."""

    pixels: np.ndarray  # (C, n, n) float32, normalised
    objectness: np.ndarray  # (m, m) float32 in 0..1
    radii: np.ndarray  # (32, m, m) float32 px
    known: np.ndarray  # (m, m) bool


class CropSource:
    """Draws augmented crops from labelled images; large images are drawn more often, as the root of their area.

    Parameters
    ----------
    images : sequence of (pixels, labels)
        Normalised pixels (C, H, W) and labels (H, W): objects above 0, 0 background, -1 ignored.
    diameter : float
        px of a typical object.
    method : {"log", "linear"}
        Scale of the pixels, see `cellsegmenter.normalize`.
    grid : RecognitionConfig
        Of the network that learns from them.
    size : int, optional
        Side of a crop, px; by default about 6 diameters.
    """

    def __init__(
        self,
        images: Sequence[tuple[np.ndarray, np.ndarray]],
        diameter: float,
        method: Intensity,
        grid: RecognitionConfig,
        size: int | None = None,
    ) -> None:
        assert images, "crops need an image"
        self.unit = sixteenth(diameter)
        self.pitch, step = grid.pitch, grid.multiple
        self.size = step * max(1, round(_SIZE * self.unit / step)) if size is None else size
        assert self.size % step == 0, f"a crop of {self.size} px does not end with the network's cells"
        self.margin = self.pitch * math.ceil(_CONTEXT * self.unit / self.pitch)
        self.images = list(images)
        self.method = method
        sides = np.sqrt([labels.size for _, labels in images])
        self._share = np.cumsum(sides / sides.sum())
        self._objects = [np.flatnonzero(labels > 0).astype(np.int32) for _, labels in images]

    def draw(self, random: np.random.Generator) -> Crop:
        """A random crop, at a random size and turn, with other intensities."""
        index = min(int(np.searchsorted(self._share, random.random(), side="right")), len(self.images) - 1)
        pixels, labels = self.images[index]
        zoom = log_uniform(random, *_ZOOM) if random.random() < _ZOOMED_SHARE else 1.0
        middle = self._middle(index, zoom, random)
        turns, mirrored = int(random.integers(4)), random.random() < 0.5

        def turned(plane: np.ndarray) -> np.ndarray:
            plane = np.rot90(plane, turns, (-2, -1))
            return np.ascontiguousarray(plane[..., ::-1] if mirrored else plane)

        rows, columns = (_positions(place, self.size, zoom) for place in middle)
        shown = self._restyle(turned(_interpolate(pixels, rows, columns)), random)
        rows, columns = (_positions(place, self.size + 2 * self.margin, zoom) for place in middle)
        return Crop(shown, *crop_targets(turned(_nearest(labels, rows, columns)), self.margin, self.pitch))

    def _middle(self, index: int, zoom: float, random: np.random.Generator) -> list[int]:
        """Row and column in the image that become the middle of a crop."""
        shape = self.images[index][1].shape
        # From a middle to the image's edge, at least.
        distance = round(self.size / 2 / zoom - _OUTSIDE * self.unit)
        lowest = [min(max(distance, 0), length // 2) for length in shape]
        highest = [max(min(length - distance, length - 1), length // 2) for length in shape]
        objects = self._objects[index]
        if not len(objects) or random.random() >= _OBJECT_SHARE:
            return [int(n) for n in random.integers(lowest, highest, endpoint=True)]
        reach = round(_OBJECT_DISTANCE * self.unit)
        pixel = np.array(divmod(int(objects[random.integers(len(objects))]), shape[1]))
        return [int(n) for n in np.clip(pixel + random.integers(-reach, reach + 1, 2), lowest, highest)]

    def _restyle(self, pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(C, n, n) with another gain, blur and noise."""
        if random.random() < _GAIN_SHARE:
            gain = np.float32(np.exp(random.uniform(*_GAIN)))
            pixels = from_linear(gain * to_linear(pixels, self.method), self.method)
        if random.random() < _BLURRED_SHARE:
            sigma = self.unit * random.uniform(*_BLUR)
            pixels = ndimage.gaussian_filter(pixels, (0, sigma, sigma))
        if random.random() < _NOISY_SHARE:
            noise = np.float32(random.uniform(0, _MOST_NOISE))
            pixels = pixels + noise * random.standard_normal(pixels.shape, np.float32)
        return pixels


def crop_targets(labels: np.ndarray, margin: int, pitch: int) -> Targets:
    """What the network should say of the middle of a label image.

    Parameters
    ----------
    labels : (n + 2 margin, n + 2 margin) int array
        A crop with its context; -1 is ignored.
    margin : int
        px of context on each side, a multiple of the pitch.
    pitch : int
        px between the points of the grid.
    """
    size = len(labels) - 2 * margin
    middle = np.s_[margin : margin + size, margin : margin + size]
    # Rays are slow, so only objects of the middle get some.
    shown = np.zeros(max(int(labels.max()), 0) + 1, bool)
    shown[np.maximum(labels[middle], 0)] = True
    needed = np.where(shown[np.maximum(labels, 0)], labels, 0)
    radii = ray_lengths(needed, step=pitch)
    shortest = radii.min(axis=0)
    at_point = np.maximum(needed[::pitch, ::pitch], 0)
    deepest = np.zeros(len(shown), np.float32)
    np.maximum.at(deepest, at_point, shortest)
    deepest[0] = 1  # the background's rays are 0
    objectness = shortest / deepest[at_point]
    first, last = margin // pitch, (margin + size) // pitch
    points = np.s_[..., first:last, first:last]
    return Targets(objectness[points], radii[points], labels[middle][::pitch, ::pitch] >= 0)


def _positions(middle: int, n: int, zoom: float) -> np.ndarray:
    """Where the centres of n pixels lie in the image, px; whole pixels without zoom."""
    return middle + (np.arange(n) + 0.5 - n / 2) / zoom


def _nearest(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Labels at the positions, mirrored at the image's edges."""
    row, column = (
        reflect_index(np.floor(position), length)
        for position, length in zip((rows, columns), labels.shape, strict=True)
    )
    return labels[row[:, None], column]


def _interpolate(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pixels (C, H, W) at the positions, linear between their centres, mirrored at the image's edges."""
    for axis, position in ((1, rows), (2, columns)):
        low = np.floor(position - 0.5)
        weight = (position - 0.5 - low).astype(np.float32)
        left, right = (reflect_index(index, pixels.shape[axis]) for index in (low, low + 1))
        if weight.any():
            weight = weight[:, None] if axis == 1 else weight
            pixels = (1 - weight) * pixels.take(left, axis) + weight * pixels.take(right, axis)
        else:
            pixels = pixels.take(left, axis)
    return pixels
