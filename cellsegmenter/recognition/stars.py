"""Star-shaped outlines: a centre and its distances to the outline along 32 rays.

Positions follow the package's convention: pixel (row i, column j) has its centre at (i + 0.5, j + 0.5).  Ray r leaves
the centre at the angle 2π r / 32, which turns from the direction of the columns to that of the rows.  The outline is
the polygon through the ends of the rays, so a star is scaled by scaling its numbers.  (Star-convex shapes as the output
of a dense network: Schmidt et al., MICCAI 2018.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "N_RAYS",
    "RAYS",
    "Stars",
    "areas",
    "contains",
    "intersection_over_minimum",
    "ray_lengths",
    "vertices",
]

N_RAYS = 32
_ANGLES = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
RAYS = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], axis=1).astype(np.float32)  # (32, 2) row, column

_STEP = 0.5  # px between the points at which a ray looks for the end of its object
# Points that a star is integrated over: on every ray, in the middle of so many rings of equal area.
_RINGS = 4
_PAIRS_AT_ONCE = 2**14


class Stars(NamedTuple):
    """n star-shaped outlines."""

    centre: np.ndarray  # (n, 2) float32 row and column, px
    radii: np.ndarray  # (n, 32) float32 px, positive

    def take(self, index: np.ndarray) -> Stars:
        return Stars(self.centre[index], self.radii[index])

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) first row, first column, last row, last column of the outlines, px."""
        corners = vertices(self)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def ray_lengths(labels: np.ndarray, step: int = 1) -> np.ndarray:
    """How far each pixel sees its own object, in 32 directions.

    Parameters
    ----------
    labels : (H, W) int array
        Objects are above 0.
    step : int
        Only every so many rows and columns are looked from, px.

    Returns
    -------
    (32, ⌈H / step⌉, ⌈W / step⌉) float32 array
        px from the pixel's centre to the first place that is not of its object, or outside of the image; 0 where
        there is no object.
    """
    # A frame that no object enters, so that rays need not look where the image ends.
    framed = np.pad(labels, 1, constant_values=-1)
    flat, stride = framed.ravel(), framed.shape[1]
    seen = labels[::step, ::step]
    row, column = np.nonzero(seen > 0)
    lengths = np.zeros((N_RAYS, *seen.shape), np.float32)
    if not len(row):
        return lengths
    label = np.tile(seen[row, column], N_RAYS)
    y = np.tile((row * step + 1.5).astype(np.float32), N_RAYS)
    x = np.tile((column * step + 1.5).astype(np.float32), N_RAYS)
    down, right = (np.repeat(_STEP * RAYS[:, axis], len(row)) for axis in (0, 1))
    steps = np.zeros(len(label), np.int32)
    active = np.arange(len(label))
    while len(active):
        y, x = y + down, x + right
        inside = flat[y.astype(np.int32) * stride + x.astype(np.int32)] == label
        steps[active] += 1
        active, label = active[inside], label[inside]
        y, x, down, right = y[inside], x[inside], down[inside], right[inside]
    lengths[:, row, column] = (_STEP * (steps - 0.5)).reshape(N_RAYS, -1)
    return lengths


def vertices(stars: Stars) -> np.ndarray:
    """(n, 32, 2) row and column of the ends of the rays, px."""
    return stars.centre[:, None] + stars.radii[..., None] * RAYS


def areas(stars: Stars) -> np.ndarray:
    """(n,) px² of the polygons: triangles between neighbouring rays."""
    following = np.roll(stars.radii, -1, axis=1)
    return np.sin(2 * np.pi / N_RAYS) / 2 * (stars.radii * following).sum(axis=1)


def contains(stars: Stars, index: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Whether points lie in stars: point (n, m, 2) in star index (n,); (n, m) bool."""
    offset = point - stars.centre[index, None]
    turn = np.arctan2(offset[..., 0], offset[..., 1]) * (N_RAYS / (2 * np.pi))
    first = np.floor(turn).astype(np.int64) % N_RAYS
    second = (first + 1) % N_RAYS
    radii = stars.radii[index]
    start = np.take_along_axis(radii, first, axis=1)[..., None] * RAYS[first]
    end = np.take_along_axis(radii, second, axis=1)[..., None] * RAYS[second]
    side, to_point = end - start, offset - start
    # The centre and the point lie on the same side of the outline between the two rays.
    return side[..., 1] * to_point[..., 0] - side[..., 0] * to_point[..., 1] >= 0


def intersection_over_minimum(stars: Stars, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The intersection of pairs of stars over the smaller of the two, (n,) in 0..1, for indices (n,) and (n,).

    The smaller star is integrated over points on its rays, which stand for equal areas along a ray.
    """
    area = areas(stars)
    swap = area[first] > area[second]
    small, large = np.where(swap, second, first), np.where(swap, first, second)
    depth = np.sqrt((np.arange(_RINGS) + 0.5) / _RINGS).astype(np.float32)
    shares = np.zeros(len(small), np.float32)
    for start in range(0, len(small), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        radii = stars.radii[small[part]]
        reach = radii[..., None, None] * depth[:, None] * RAYS[:, None]  # (n, 32, rings, 2)
        point = stars.centre[small[part], None] + reach.reshape(len(radii), -1, 2)
        inside = contains(stars, large[part], point).reshape(len(radii), N_RAYS, _RINGS).mean(axis=2)
        weight = radii**2
        shares[part] = (inside * weight).sum(axis=1) / weight.sum(axis=1)
    return shares
