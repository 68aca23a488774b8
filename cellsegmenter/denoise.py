"""How much an image must be blurred at working scale so that noise does not hide its objects.

Normalisation puts four standard deviations of the noise at 0.15 of the scale.  Where an object's signal is only a few
times the noise, objects would be faint in it, and the networks would see grains in them.  A Gaussian of up to two
pixels, an eighth of a typical object, takes the noise down to a tenth of the signal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import ndimage

from cellsegmenter.normalize import background_and_noise, object_signal

__all__ = ["blur_against_noise"]

_SQUARE, _SQUARES_PER_AXIS = 128, 3
# Noise over signal that is left alone, and that is aimed at.
_TOLERATED, _WANTED = 0.15, 0.1
_CLEAR = 0.05  # noise over the range of intensities, below which no signal needs to be measured
_MOST = 2.0  # px, standard deviation of the Gaussian
_NEIGHBOURS = math.sqrt(2)  # the difference of two pixels is so many times as noisy as one


def blur_against_noise(image: Any) -> float:
    """Standard deviation of the Gaussian that an image (C, H, W) at working scale needs, px; 0 if it is clear enough.

    White noise of standard deviation 1 has 1 / (2 sqrt(pi) σ) after a Gaussian of σ.
    """
    squares = [
        _square(image, row, column) for row in _starts(image.shape[1]) for column in _starts(image.shape[2])
    ]
    worst = max(
        (_noise_over_signal([square[c] for square in squares]) for c in range(image.shape[0])), default=0.0
    )
    if worst <= _TOLERATED:
        return 0.0
    return min(_MOST, max(0.5, worst / _WANTED / (2 * math.sqrt(math.pi))))


def _square(image: Any, row: int, column: int) -> np.ndarray:
    return np.asarray(image[:, row : row + _SQUARE, column : column + _SQUARE])


def _starts(length: int) -> list[int]:
    n = min(_SQUARES_PER_AXIS, max(1, length // _SQUARE))
    return np.linspace(0, max(0, length - _SQUARE), n).astype(int).tolist()


def _noise_over_signal(planes: list[np.ndarray]) -> float:
    """Of squares (h, w) of a plane, NaN where they have no data; 0 if nothing stands out."""
    steps = np.concatenate([np.abs(np.diff(plane, axis=1)).ravel() for plane in planes])
    pixels = np.concatenate([plane.ravel() for plane in planes])
    steps, pixels = steps[~np.isnan(steps)], pixels[~np.isnan(pixels)]
    if not len(steps):
        return 0.0
    noise = 1.4826 * float(np.median(steps)) / _NEIGHBOURS
    if noise <= _CLEAR * float(np.ptp(np.percentile(pixels, [50, 99]))):
        return 0.0
    smooth = [
        ndimage.gaussian_filter(np.nan_to_num(plane, nan=float(np.median(pixels))), _MOST) for plane in planes
    ]
    background, left = background_and_noise(
        np.concatenate([plane.ravel() for plane in smooth]).astype(np.float64)
    )
    signal = object_signal(smooth, background, left)
    return noise / signal if math.isfinite(signal) else 0.0
