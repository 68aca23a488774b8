"""Units of the sleep phase: lengths in sixteenths of a diameter, intensities on the linear scale.

Lengths and areas are given for a typical object of 16 px, the size at which they were measured.  Objects are cut out
and pasted on the linear scale, where light adds up; networks see the normalised scale of `cellsegmenter.normalize`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellsegmenter.normalize import KNEE

__all__ = ["Intensity", "from_linear", "log_uniform", "sixteenth", "to_linear"]

Intensity = Literal["log", "linear"]

_LEAST_SIXTEENTH = 0.6  # px; below it rings and gaps would have no pixels


def sixteenth(diameter: float) -> float:
    """px of a sixteenth of a typical object's diameter."""
    return max(diameter / 16, _LEAST_SIXTEENTH)


def to_linear(pixels: np.ndarray, method: Intensity) -> np.ndarray:
    """Normalised intensities on the linear scale, float32; see `cellsegmenter.normalize.linear_intensity`."""
    if method == "linear":
        return pixels.astype(np.float32, copy=False)
    linear = np.copysign(np.expm1(np.abs(pixels) * np.log1p(1 / KNEE)) * KNEE, pixels)
    return linear.astype(np.float32, copy=False)


def from_linear(pixels: np.ndarray, method: Intensity) -> np.ndarray:
    """The inverse of `to_linear`."""
    if method == "linear":
        return pixels.astype(np.float32, copy=False)
    normalized = np.copysign(np.log1p(np.abs(pixels) / KNEE) / np.log1p(1 / KNEE), pixels)
    return normalized.astype(np.float32, copy=False)


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))
