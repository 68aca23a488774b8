"""Synthetic fluorescence nuclei: textured ellipses as a camera would see them.

The scene is built in photons: ellipses of very different brightness over an uneven background, blurred by the
microscope, then counted (Poisson) and read out (Gaussian noise).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.draw import disk
from sklearn.utils import check_random_state

from ._types import LabelledImages

__all__ = ["make_nuclei"]

PLACEMENT_TRIES = 1_000  # positions tried for a nucleus before the request is declared impossible
TEXTURE_SCALE = 0.12  # correlation length of the chromatin texture, in diameters
TEXTURE_CONTRAST = 0.15  # standard deviation of the texture, relative to the nucleus
NUCLEOLUS, NUCLEOLUS_CONTRAST = 0.2, 0.7  # radius relative to the nucleus, and how much darker
POINT_SPREAD = 0.8  # px, standard deviation of the microscope's blur
PEAK_PHOTONS = 800.0  # of the brightest nuclei
BACKGROUND_PHOTONS = 40.0  # on average; rises threefold across the image
READ_NOISE = 4.0  # photons, standard deviation
FULL_SCALE = 2 * PEAK_PHOTONS  # photons shown as 1; leaves room for texture and background


def make_nuclei(
    n_images: int = 1,
    *,
    size: int | tuple[int, int] = 256,
    count: tuple[int, int] = (40, 60),
    diameter: float | Sequence[float] = 16.0,
    brightness: tuple[float, float] = (0.1, 1.0),
    touching: float = 0.1,
    nucleoli: int = 0,
    random_state: int | np.random.RandomState | None = None,
) -> LabelledImages:
    """Synthetic images of fluorescent nuclei with noise, texture and an uneven background.

    Parameters
    ----------
    n_images : int
        How many images.
    size : int or (height, width)
        px.
    count : (min, max)
        Nuclei in an image, uniform; their centres are inside the image, their edges need not be.
    diameter : float or sequence of float
        Mean diameter, px; single nuclei deviate by a fifth, their axes by up to a third.  Of several, each nucleus
        has one, all equally often.
    brightness : (min, max)
        Relative to the camera's range, log-uniform.
    touching : float in [0, 1)
        By how much two neighbours may come closer than the sum of their radii; 0 keeps them apart.
    nucleoli : int
        Dark spots in each nucleus, a fifth of its diameter wide, as nuclear proteins leave them.
    random_state : int, RandomState or None

    Returns
    -------
    LabelledImages

    Raises
    ------
    ValueError
        If that many nuclei do not fit into an image.
    """
    rng = check_random_state(random_state)
    height, width = (size, size) if isinstance(size, int) else size
    counts = rng.randint(count[0], count[1] + 1, size=n_images)
    images = np.zeros((n_images, height, width), np.float32)
    labels = np.zeros((n_images, height, width), np.int32)
    for image, label, n in zip(images, labels, counts, strict=True):
        # Large ones first: small ones find a place between them.
        sizes = np.sort(np.resize(np.atleast_1d(np.asarray(diameter, float)), n))[::-1]
        radii = sizes / 2 * np.clip(rng.normal(1, 0.2, size=n), 0.5, 1.5)
        centers = _place_centers(radii, (height, width), touching, rng)
        _draw_ellipses(label, centers, radii, rng)
        photons = _emit(label, sizes, brightness, rng)
        for _ in range(nucleoli):
            photons *= 1 - NUCLEOLUS_CONTRAST * _spots(label, centers, radii, rng)
        image[:] = _photograph(photons, rng)
    return LabelledImages(images, labels, counts)


def _place_centers(
    radii: np.ndarray, shape: tuple[int, int], touching: float, rng: np.random.RandomState
) -> np.ndarray:
    """Centres (n, 2) whose distances are at least (1 - touching) times the sum of the radii."""
    centers = np.zeros((0, 2))
    for index, radius in enumerate(radii):
        candidates = rng.uniform(0, shape, size=(PLACEMENT_TRIES, 2))
        distance = np.linalg.norm(candidates[:, None] - centers[None], axis=2)
        fits = np.flatnonzero((distance >= (1 - touching) * (radius + radii[:index])).all(axis=1))
        if len(fits) == 0:
            raise ValueError(
                f"{len(radii)} nuclei of {2 * radii.mean():.0f} px do not fit into size={shape}; "
                "make the image larger, or lower count or diameter"
            )
        centers = np.vstack([centers, candidates[fits[0]]])
    return centers


def _draw_ellipses(
    label: np.ndarray, centers: np.ndarray, radii: np.ndarray, rng: np.random.RandomState
) -> None:
    """Write labels 1 .. n into `label`; where ellipses overlap, a pixel goes to the one it lies deeper in."""
    depth = np.zeros(label.shape)
    for index, ((y, x), radius) in enumerate(zip(centers, radii, strict=True), start=1):
        elongation = rng.uniform(1, 4 / 3)  # ratio of the axes, at the same area
        angle = rng.uniform(0, np.pi)
        reach = int(np.ceil(radius * np.sqrt(elongation))) + 1
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        box = np.s_[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.indices(label[box].shape)
        dy, dx = rows + top + 0.5 - y, columns + left + 0.5 - x
        along = (dx * np.cos(angle) + dy * np.sin(angle)) / np.sqrt(elongation)
        across = (dy * np.cos(angle) - dx * np.sin(angle)) * np.sqrt(elongation)
        inside = 1 - np.hypot(along, across) / radius
        deeper = inside > depth[box]
        label[box][deeper] = index
        depth[box][deeper] = inside[deeper]


def _emit(
    label: np.ndarray, sizes: np.ndarray, brightness: tuple[float, float], rng: np.random.RandomState
) -> np.ndarray:
    """The photons (H, W) that textured nuclei emit, without background."""
    low, high = np.log(brightness)
    photons = np.concatenate([[0.0], PEAK_PHOTONS * np.exp(rng.uniform(low, high, size=len(sizes)))])[label]
    size_of = np.concatenate([[0.0], sizes])[label]
    for size in np.unique(sizes):
        texture = ndimage.gaussian_filter(rng.standard_normal(label.shape), TEXTURE_SCALE * size)
        photons *= np.where(
            size_of == size, np.clip(1 + TEXTURE_CONTRAST * texture / texture.std(), 0.2, None), 1
        )
    return photons


def _spots(
    label: np.ndarray, centers: np.ndarray, radii: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """(H, W) bool: a disc somewhere in the inner half of each nucleus."""
    spots = np.zeros(label.shape, bool)
    angle, distance = (
        rng.uniform(0, 2 * np.pi, len(radii)),
        0.5 * radii * np.sqrt(rng.uniform(size=len(radii))),
    )
    places = centers + distance[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    for number, (place, radius) in enumerate(zip(places, NUCLEOLUS * radii, strict=True), start=1):
        row, column = disk(place - 0.5, radius, shape=label.shape)
        spots[row, column] |= label[row, column] == number
    return spots


def _photograph(photons: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """The image (H, W) float32 in [0, 1] that a camera takes of what emits photons (H, W)."""
    ramp = np.linspace(0.5, 1.5, photons.shape[1])[None, :]  # uneven illumination, left to right
    photons = ndimage.gaussian_filter(photons, POINT_SPREAD) + BACKGROUND_PHOTONS * ramp
    counted = rng.poisson(photons) + rng.normal(scale=READ_NOISE, size=photons.shape)
    return np.clip(counted / FULL_SCALE, 0, 1).astype(np.float32)
