"""Blobs of constant intensity that may overlap (paper, S6): nothing but their shape tells them apart."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

from ._types import LabelledImages

__all__ = ["make_blobs"]

HARMONICS = np.arange(2, 6)  # of the Fourier series; the first would only shift the blob
PLACEMENT_TRIES = 50  # positions tried for a blob before the image is started afresh
LAYOUT_TRIES = 10  # fresh starts before the request is declared impossible


def make_blobs(
    n_images: int = 100,
    *,
    size: int = 80,
    count: tuple[int, int] = (2, 6),
    radius: tuple[float, float] = (7.0, 14.0),
    irregularity: float = 0.15,
    max_overlap: float = 0.3,
    random_state: int | np.random.RandomState | None = None,
) -> LabelledImages:
    """Blobs of intensity 1 on black; the boundary's radius is a random finite Fourier series of the angle.

    Parameters
    ----------
    n_images : int
        How many images.
    size : int
        Height and width, px.
    count : (min, max)
        Blobs in an image, uniform.
    radius : (min, max)
        Mean radius of a blob, px, uniform.
    irregularity : float
        Standard deviation of the series' coefficients, relative to the radius; 0 draws discs.
    max_overlap : float in [0, 1]
        Largest common part of two blobs, relative to the smaller; 0 keeps them apart, 0.6 crowds them.
    random_state : int, RandomState or None

    Returns
    -------
    LabelledImages
        Where blobs overlap, a pixel has the label of the blob in which it lies deeper.

    Raises
    ------
    ValueError
        If that many blobs of that size do not fit into an image.
    """
    rng = check_random_state(random_state)
    counts = rng.randint(count[0], count[1] + 1, size=n_images)
    labels = np.zeros((n_images, size, size), np.int32)
    for label, n in zip(labels, counts, strict=True):
        depths = _layout(n, size, radius, irregularity, max_overlap, rng)
        label[:] = np.where(depths.max(axis=0, initial=0) > 0, depths.argmax(axis=0) + 1, 0) if n else 0
    return LabelledImages((labels > 0).astype(np.float32), labels, counts)


def _layout(
    n: int,
    size: int,
    radius: tuple[float, float],
    irregularity: float,
    max_overlap: float,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Depth maps (n, size, size) of blobs none of which overlaps another one too much."""
    for _ in range(LAYOUT_TRIES):
        depths = np.zeros((0, size, size))
        for _ in range(PLACEMENT_TRIES * n):
            if len(depths) == n:
                break
            depth = _random_blob(size, radius, irregularity, rng)
            common = ((depth > 0) & (depths > 0)).sum(axis=(1, 2))
            smaller = np.minimum((depth > 0).sum(), (depths > 0).sum(axis=(1, 2)))
            if (common <= max_overlap * smaller).all():
                depths = np.concatenate([depths, depth[None]])
        if len(depths) == n and np.isin(np.arange(n), depths.argmax(axis=0)[(depths > 0).any(axis=0)]).all():
            return depths
    raise ValueError(
        f"{n} blobs of radius={radius} with max_overlap={max_overlap} do not fit into size={size}; "
        "make the image larger or the blobs smaller or fewer"
    )


def _random_blob(
    size: int, radius: tuple[float, float], irregularity: float, rng: np.random.RandomState
) -> np.ndarray:
    """Depth (size, size) inside a random blob: 1 at its centre, 0 at its boundary, negative outside."""
    mean_radius = rng.uniform(*radius)
    center_y, center_x = rng.uniform(mean_radius, size - mean_radius, size=2)
    cosine, sine = rng.normal(scale=irregularity / np.sqrt(HARMONICS), size=(2, len(HARMONICS)))
    row, column = np.mgrid[:size, :size] + 0.5
    angle = HARMONICS * np.arctan2(row - center_y, column - center_x)[..., None]
    boundary = mean_radius * np.clip(1 + np.cos(angle) @ cosine + np.sin(angle) @ sine, 0.3, None)
    return 1 - np.hypot(row - center_y, column - center_x) / boundary
