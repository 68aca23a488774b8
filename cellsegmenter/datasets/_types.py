"""What the generators and loaders of this package return (`count` hides the method of tuples, on purpose)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["DigitImages", "ImageCollection", "LabelledImages"]


class LabelledImages(NamedTuple):
    """Images of one size with their instance masks."""

    images: np.ndarray  # (N, H, W) float32, in [0, 1]
    labels: np.ndarray  # (N, H, W) int32: 0 background, 1 .. count[n] the objects
    count: np.ndarray  # type: ignore[assignment]  # (N,) int64: objects in each image


class DigitImages(NamedTuple):
    """Images of several digits with their instance masks and classes."""

    images: np.ndarray  # (N, H, W) float32, in [0, 1]
    labels: np.ndarray  # (N, H, W) int32: 0 background, 1 .. count[n] the digits
    count: np.ndarray  # type: ignore[assignment]  # (N,) int64: digits in each image
    classes: list[np.ndarray]  # N arrays (count[n],) int64: entry i is the digit with label i + 1


class ImageCollection(NamedTuple):
    """Images of different sizes with their instance masks."""

    names: list[str]  # N identifiers
    images: list[np.ndarray]  # N arrays (H, W), as stored
    labels: list[np.ndarray]  # N arrays (H, W) int32: 0 background, 1 .. n the objects
    diameters: np.ndarray  # (N,) float64, px: mean diameter of the circles of equal area
