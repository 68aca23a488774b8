"""The typical diameter of bright objects, estimated from an image, to bring it to a model's working scale.

Otsu's threshold finds the foreground.  Its distance transform gives a first idea of the size: the radius at
its maxima, weighted by area, so that crumbs do not count.  A watershed with seeds about that far apart then
separates touching objects, and the mean diameter of the pieces is the answer.  A haze behind the objects counts as one
of them at first; it is taken off, by the diameter found so far, until the answer stays.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from cellsegmenter.block_map import BlockMap
from cellsegmenter.haze import estimate_haze
from cellsegmenter.normalize import normalize_image, tile_statistics

__all__ = [
    "MIN_AREA",
    "MIN_THRESHOLD",
    "estimate_diameter",
    "foreground_distances",
    "read_tiles",
    "spread_tiles",
    "typical_radius",
]

MIN_AREA = 20  # px, smaller pieces are noise
MIN_RADIUS = 2.0  # px, of a maximum of the distance transform
# On the normalised scale: below it what Otsu separates is noise (one of its σ is 0.0375).
MIN_THRESHOLD = 0.04
SEED_DISTANCE = 0.6  # least distance of seeds, relative to the first estimate of the radius
HAZE_ROUNDS = 3
SETTLED = 0.1  # relative change of the diameter
TILE = 512  # px, side of the tiles a large image is judged by
TILES_PER_AXIS = 4


def estimate_diameter(image: Any) -> float:
    """Mean diameter of the objects in a fluorescence image, in pixels.

    On 285 images of fluorescence nuclei (`load_dsb2018`, "train"; mean diameters from 9 to 95 px) the median
    relative error against the annotation is 5 %, and 9 of 10 images are within 20 %.  In two of its four images of
    embryos, whose nuclei lie in a bright haze, it takes the embryo for one big object.

    Parameters
    ----------
    image : array-like (H, W) or (C, H, W)
        Bright objects on a darker background; of several channels the brightest counts at each pixel.  Large
        images are judged by up to 16 evenly spread tiles of 512 × 512 px.

    Returns
    -------
    float
        Diameter of the circle of equal area, px; nan if no objects stand out from the background.
    """
    tiles = spread_tiles(image, method="linear")
    diameter = _mean_diameter(tiles)
    for _ in range(HAZE_ROUNDS):
        if np.isnan(diameter):
            break
        hazy, diameter = diameter, _mean_diameter([tile - _haze(tile, diameter) for tile in tiles])
        if np.isnan(diameter):
            return hazy
        if abs(diameter / hazy - 1) < SETTLED:
            break
    return diameter


def _haze(tile: np.ndarray, diameter: float) -> np.ndarray:
    """(H, W) of a normalised tile, whose background is 0."""
    nothing = BlockMap(np.zeros((1, 1, 1), np.float32), tile.shape)
    return estimate_haze(tile[None], nothing, diameter)[...][0]


def _mean_diameter(tiles: list[np.ndarray]) -> float:
    """px, of the pieces in normalised tiles (H, W); nan if nothing stands out."""
    distance = foreground_distances(tiles, MIN_THRESHOLD)
    radius = typical_radius(distance)
    if np.isnan(radius):
        return radius
    areas = np.concatenate([_piece_areas(tile, SEED_DISTANCE * radius) for tile in distance])
    areas = areas[areas >= MIN_AREA]
    return float(np.mean(2 * np.sqrt(areas / np.pi))) if len(areas) else float("nan")


def foreground_distances(tiles: list[np.ndarray], least: float) -> list[np.ndarray]:
    """px from each pixel of normalised tiles (H, W) to where the foreground ends; 0 in the background."""
    smooth = [ndimage.gaussian_filter(tile, 1) for tile in tiles]
    threshold = _foreground_threshold(np.concatenate([tile.ravel() for tile in smooth]), least)
    foreground = [ndimage.binary_fill_holes(tile > threshold) for tile in smooth]
    return [ndimage.distance_transform_edt(np.pad(tile, 1, mode="edge"))[1:-1, 1:-1] for tile in foreground]


def _foreground_threshold(values: np.ndarray, least: float) -> float:
    """Otsu's threshold of normalised intensities; infinite where nothing exceeds `least`, which is above the noise.

    Of few objects in much background Otsu's threshold knows nothing, and halves the noise: then what is above the
    noise is asked alone.
    """
    threshold = float(threshold_otsu(values))
    if threshold >= least:
        return threshold
    above = values[values > least]
    return float(threshold_otsu(above)) if len(above) >= MIN_AREA else float("inf")


def spread_tiles(image: Any, *, method: Literal["log", "linear"]) -> list[np.ndarray]:
    """The tiles of `read_tiles`, each (H, W) float32: its brightest channel, normalised by what is in the tile."""
    tiles = read_tiles(image)
    return [
        normalize_image(tile, method=method, statistics=statistics).max(axis=0)
        for tile, statistics in zip(tiles, tile_statistics(tiles), strict=True)
    ]


def read_tiles(image: Any) -> list[np.ndarray]:
    """An image (H, W) or (C, H, W), or evenly spread tiles of a large one that do not overlap; each (C, H, W)."""
    height, width = image.shape[-2:]
    places = [np.s_[..., :, :]]
    if height * width > (TILE * TILES_PER_AXIS) ** 2:
        places = [
            np.s_[..., top : top + TILE, left : left + TILE]
            for top in _tile_starts(height)
            for left in _tile_starts(width)
        ]
    pixels = [np.asarray(image[place]) for place in places]
    return [tile.reshape(-1, *tile.shape[-2:]) for tile in pixels]


def _tile_starts(length: int) -> np.ndarray:
    n_tiles = min(TILES_PER_AXIS, max(1, length // TILE))
    return np.linspace(0, max(length - TILE, 0), n_tiles).astype(int)


def typical_radius(distance: list[np.ndarray]) -> float:
    """Area-weighted median of the distance transform at its maxima; nan if there are none."""
    radii = []
    for tile in distance:
        peaks = peak_local_max(
            ndimage.gaussian_filter(tile, 1),
            min_distance=3,
            labels=(tile > 0).astype(int),
            exclude_border=False,
        )
        radii.append(tile[tuple(peaks.T)])
    radius = np.sort(np.concatenate(radii))
    radius = radius[radius >= MIN_RADIUS]
    if len(radius) == 0:
        return float("nan")
    area = np.cumsum(radius**2)
    return float(radius[np.searchsorted(area, area[-1] / 2)])


def _piece_areas(distance: np.ndarray, min_distance: float) -> np.ndarray:
    """Areas (n,) in px of the pieces into which a watershed from separated maxima cuts the foreground."""
    components, _ = ndimage.label(distance > 0)
    spacing = max(2, round(min_distance))
    smooth = ndimage.gaussian_filter(distance, spacing / 4)  # so that ragged edges make no seeds
    peaks = peak_local_max(smooth, min_distance=spacing, labels=components, exclude_border=False)
    seeds = np.zeros(distance.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    pieces = watershed(-distance, seeds, mask=components > 0)
    return np.bincount(pieces.ravel())[1:]
