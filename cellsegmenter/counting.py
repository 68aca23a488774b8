"""Objects counted without a model: a threshold, then cuts where the foreground has a neck.

The logarithmic intensity scale lets dim objects pass Otsu's threshold.  A watershed of the distance transform cuts
the foreground at every maximum, and pieces are joined again unless the border between them is a neck: clearly
narrower than the smaller piece.  So touching discs are parted, and a stroke of even width stays whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.measure import regionprops_table
from skimage.segmentation import watershed

from cellsegmenter.diameter import (
    MIN_AREA,
    MIN_THRESHOLD,
    foreground_distances,
    spread_tiles,
    typical_radius,
)
from cellsegmenter.normalize import KNEE

__all__ = ["CountedTile", "count_objects"]

# A border is a neck where it is narrower than this fraction of the smaller piece.  Among discs every narrowing is one;
# a stroke varies in width and has necks only where it nearly ends.  Which of the two an image shows follows from the
# thickness of what stands alone: the radius of the largest circle inside over that of the circle of equal area, about
# 1 for discs and 0.6 for handwritten digits.  (Always 0.6 counts 68 % of the nuclei of BBBC038, always 0.9 78 %, but
# twice as many digits as there are.)
_NECK_OF_STROKES, _NECK_OF_DISCS = 0.5, 0.9
_THICKNESS_OF_STROKES, _THICKNESS_OF_DISCS = 0.63, 0.9
_SEED_DISTANCE = 0.4  # least distance of the first seeds, in typical radii
_CRUMB = 0.1  # pieces below this fraction of the typical area are no objects


class CountedTile(NamedTuple):
    """What was counted in an image, or in one tile of a large one."""

    pixels: np.ndarray  # (H, W) float32, normalised intensity: the brightest channel
    labels: np.ndarray  # (H, W) int32: 0 background, 1..n objects
    areas: np.ndarray  # (n,) px
    boxes: np.ndarray  # (n, 2) px: height and width of the bounding boxes
    whole: np.ndarray  # (n,) bool: does not touch the rim

    @property
    def diameter(self) -> float:
        """px of the circle of the mean area; nan without objects."""
        return float(np.sqrt(4 / np.pi * self.areas.mean())) if len(self.areas) else float("nan")


def count_objects(image: Any) -> list[CountedTile]:
    """Count bright objects on a darker background.

    Parameters
    ----------
    image : array-like (C, H, W)
        Of several channels the brightest counts at each pixel.

    Returns
    -------
    list of CountedTile
        One for an image of up to 4 million pixels; of a larger one up to 16 evenly spread tiles.
    """
    tiles = spread_tiles(image, method="log")
    least = np.log1p(MIN_THRESHOLD / KNEE) / np.log1p(1 / KNEE)  # it is stated on the linear scale
    distance = foreground_distances(tiles, least)
    radius = typical_radius(distance)
    neck = _neck(distance, radius)
    cut = [_cut_at_necks(tile, radius, neck) for tile in distance]
    areas = np.concatenate([np.bincount(labels.ravel())[1:] for labels in cut])
    areas = areas[areas >= MIN_AREA]
    smallest = max(MIN_AREA, _CRUMB * float(np.median(areas))) if len(areas) else MIN_AREA
    return [_counted(tile, labels, smallest) for tile, labels in zip(tiles, cut, strict=True)]


def _counted(pixels: np.ndarray, labels: np.ndarray, smallest: float) -> CountedTile:
    """Drop the crumbs and measure the rest."""
    area = np.bincount(labels.ravel())
    kept = area >= smallest
    kept[0] = False
    labels = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
    shape = regionprops_table(labels, properties=("area", "bbox"))
    low = np.stack([shape["bbox-0"], shape["bbox-1"]], axis=-1)
    high = np.stack([shape["bbox-2"], shape["bbox-3"]], axis=-1)
    whole = np.all((low > 0) & (high < labels.shape), axis=1)
    return CountedTile(pixels, labels, np.asarray(shape["area"], float), high - low, whole)


def _neck(distance: list[np.ndarray], radius: float) -> float:
    """How narrow a border has to be, over the smaller piece, to be cut."""
    areas = np.concatenate([np.bincount(ndimage.label(tile > 0)[0].ravel())[1:] for tile in distance])
    areas = areas[areas >= MIN_AREA]
    if not len(areas) or not np.isfinite(radius):
        return _NECK_OF_DISCS
    thickness = radius / float(np.median(np.sqrt(areas / np.pi)))
    thicknesses = (_THICKNESS_OF_STROKES, _THICKNESS_OF_DISCS)
    return float(np.interp(thickness, thicknesses, (_NECK_OF_STROKES, _NECK_OF_DISCS)))


def _cut_at_necks(distance: np.ndarray, radius: float, neck: float) -> np.ndarray:
    """(H, W) int32 labels of the pieces of a foreground, from its distance transform."""
    if not np.isfinite(radius):
        return ndimage.label(distance > 0)[0].astype(np.int32)
    components, _ = ndimage.label(distance > 0)
    spacing = max(2, round(_SEED_DISTANCE * radius))
    smooth = ndimage.gaussian_filter(distance, max(spacing / 4, 0.5))  # so that ragged edges make no seeds
    peaks = peak_local_max(smooth, min_distance=spacing, labels=components, exclude_border=False)
    seeds = np.zeros(distance.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    pieces = watershed(-smooth, seeds, mask=components > 0)
    height = np.concatenate([[0.0], smooth[tuple(peaks.T)]])
    return _joined(pieces, _borders(pieces, smooth), height, neck)


def _borders(pieces: np.ndarray, distance: np.ndarray) -> dict[tuple[int, int], float]:
    """The widest place of the border between each two pieces that touch: the larger its distance, the wider."""
    widest: dict[tuple[int, int], float] = {}
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = pieces[one], pieces[other]
        between = (a != b) & (a > 0) & (b > 0)
        width = np.minimum(distance[one][between], distance[other][between])
        for i, j, value in zip(a[between].tolist(), b[between].tolist(), width.tolist(), strict=True):
            pair = (min(i, j), max(i, j))
            widest[pair] = max(widest.get(pair, 0.0), value)
    return widest


def _joined(
    pieces: np.ndarray, borders: dict[tuple[int, int], float], height: np.ndarray, neck: float
) -> np.ndarray:
    """Join pieces whose border is no neck, widest borders first.

    A joined piece is as high as its highest part, so that a bump in the neck of two discs joins one of them,
    and does not join the two.
    """
    parent, height = list(range(len(height))), height.copy()

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for (i, j), width in sorted(borders.items(), key=lambda item: -item[1]):
        a, b = root(i), root(j)
        if a != b and width >= neck * min(height[a], height[b]):
            parent[b] = a
            height[a] = max(height[a], height[b])
    group = np.unique([root(i) for i in range(len(parent))], return_inverse=True)[1]
    return group[pieces].astype(np.int32)
