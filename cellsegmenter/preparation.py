"""What every image goes through before a window is cut: intensities normalised, size brought to the working scale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import sparse
from scipy.ndimage import distance_transform_edt

from cellsegmenter.block_map import BlockMap
from cellsegmenter.haze import estimate_haze
from cellsegmenter.normalize import LocalStatistics, local_statistics, normalize_image
from cellsegmenter.region import Region
from cellsegmenter.validation import full_key
from cellsegmenter.windows import reflect_index

__all__ = [
    "PreparedImage",
    "ScaledImage",
    "check_region",
    "fingerprint",
    "prepare_image",
]

# Rescaled images of fewer pixels stay in memory, for training reads each of them many times.
_IN_MEMORY = 2**22
_CONTINUED = 16  # px at working scale by which an image is continued where it has no data
_LEAST_KNOWN = 0.5  # share of the weights of a rescaled pixel
_BAND = 512  # rows that are rescaled, or read, at a time


def check_region(region: Any, image_shape: tuple[int, ...]) -> Region:
    """Refuse what is no rectangle inside of an image (..., height, width).

    Raises
    ------
    ValueError
    """
    height, width = image_shape[-2:]
    try:
        checked = Region(*(int(side) for side in region))
    except (TypeError, ValueError):
        raise ValueError(f"region={region!r} is not (row, column, height, width) in pixels") from None
    if min(checked.row, checked.column) < 0 or min(checked.height, checked.width) < 1:
        raise ValueError(f"region={tuple(checked)} must begin at 0 or later and hold at least one pixel")
    if checked.row + checked.height > height or checked.column + checked.width > width:
        raise ValueError(
            f"region={tuple(checked)} reaches beyond the image of {height} × {width} px; "
            f"its rows end at {checked.row + checked.height} and its columns at {checked.column + checked.width}"
        )
    return checked


@dataclass(frozen=True)
class PreparedImage:
    """An image (C, H, W) at working scale; when sliced, haze is taken off and the intensities are normalised."""

    source: Any  # array-like (C, H, W), already at working scale
    statistics: LocalStatistics
    haze: BlockMap
    intensity: Literal["log", "linear"]
    original_shape: tuple[int, int]  # height, width in px of the user's image

    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.source.shape)  # type: ignore[return-value]

    @property
    def levels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(C, m, n) of the maps of background, scale and haze, in their blocks."""
        return self.statistics.background.levels, self.statistics.log_scale.levels, self.haze.levels

    @cached_property
    def pixels_hash(self) -> str:
        """Of all pixels and of what normalises them, read band by band."""
        digest = hashlib.sha256(b"".join(levels.tobytes() for levels in self.levels))
        for row in range(0, self.shape[1], _BAND):
            digest.update(np.asarray(self.source[:, row : row + _BAND, :]).tobytes())
        return digest.hexdigest()[:16]

    def working_region(self, region: Region) -> Region:
        """The pixels at working scale that a region of the user's image touches."""
        spans = []
        for first, n, new, old in zip(
            region.corner.tolist(), region.shape, self.shape[-2:], self.original_shape, strict=True
        ):
            low, high = first * new // old, -(-(first + n) * new // old)
            spans.append((low, high - low))
        (row, height), (column, width) = spans
        return Region(row, column, height, width)

    def working_pixels(self, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """The row and the column at working scale that each row and column of a region of the user's image shows."""
        rows, columns = (
            np.minimum((np.arange(first, first + n) + 0.5) * new / old, new - 1).astype(np.int64)
            for first, n, new, old in zip(
                region.corner.tolist(), region.shape, self.shape[-2:], self.original_shape, strict=True
            )
        )
        return rows, columns

    def __getitem__(self, key: Any) -> np.ndarray:
        place = tuple(full_key(key, self.ndim))
        normal = self._normalized(place)
        return normal if self.statistics.complete or not np.isnan(normal).any() else self._continued(place)

    def _normalized(self, place: tuple[slice, ...]) -> np.ndarray:
        clear = self.source[place] - self.haze[place]
        return normalize_image(clear, method=self.intensity, statistics=self.statistics[place])

    def _continued(self, place: tuple[slice, ...]) -> np.ndarray:
        """Pixels at slices; where there are no data they go on by reflection, as at the edge of an image, then as 0."""
        spans = [side.indices(n)[:2] for side, n in zip(place[1:], self.shape[1:], strict=True)]
        wide = [
            (max(0, low - 2 * _CONTINUED), min(n, high + 2 * _CONTINUED))
            for (low, high), n in zip(spans, self.shape[1:], strict=True)
        ]
        normal = self._normalized((place[0], *(slice(*span) for span in wide)))
        distance, near = distance_transform_edt(np.isnan(normal[0]), return_indices=True)
        size = np.array(normal.shape[1:])[:, None, None]
        mirrored = np.clip(2 * near - np.indices(normal.shape[1:]), 0, size - 1)
        row, column = np.where(distance <= _CONTINUED, mirrored, near)
        continued = np.nan_to_num(normal[:, row, column]) * (distance <= _CONTINUED)
        inner = [
            slice(low - first, high - first) for (low, high), (first, _) in zip(spans, wide, strict=True)
        ]
        return continued[(slice(None), *inner)]

    def known(self, region: Region) -> np.ndarray:
        """(height, width) bool: which pixels of a region, px at working scale, have data."""
        return ~np.isnan(self.source[(slice(0, 1), *region.slices)][0])


def prepare_image(
    image: Any,
    *,
    scale: float = 1.0,
    diameter: float,
    intensity: Literal["log", "linear"] = "log",
) -> PreparedImage:
    """Take off haze, normalise and rescale lazily; small images are rescaled at once.

    The image is read twice, in bands: for its statistics and for its haze.

    Parameters
    ----------
    image : array-like (C, H, W)
        As `cellsegmenter.validation.check_images` gives it; stays lazy.
    scale : float
        Working size over the image's own: 0.5 halves both sides.
    diameter : float
        px of an object at working scale; see `cellsegmenter.haze`.
    intensity : {"log", "linear"}
        See `cellsegmenter.normalize`.
    """
    source = image
    height, width = (int(n) for n in image.shape[-2:])
    if scale != 1.0:
        source = ScaledImage.of(source, (max(1, round(height * scale)), max(1, round(width * scale))))
        if np.prod(source.shape[1:]) <= _IN_MEMORY:
            source = source.in_memory()
    statistics = local_statistics(source, diameter)
    haze = estimate_haze(source, statistics.background, diameter)
    return PreparedImage(source, statistics, haze, intensity, (height, width))


def fingerprint(images: Sequence[PreparedImage]) -> str:
    """What tells these images from others, in this order, without another look at their pixels.

    Shapes, intensities and haze; rounded, so that other last bits of another machine will hardly show.
    """
    digest = hashlib.sha256()
    for image in images:
        numbers = np.concatenate([levels.ravel() for levels in image.levels])
        digest.update(f"{image.shape} {[f'{number:.4g}' for number in numbers]}".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ScaledImage:
    """An image (C, H, W) at another size, computed where it is sliced; each pixel is the same in every slice.

    Linear interpolation between pixel centres, with reflection at the edges; before making an image smaller, a
    Gaussian takes out what the new pixels cannot show.  This is `skimage.transform.resize` with ``order=1``,
    ``mode="reflect"`` and anti-aliasing, which needs the whole image at once.
    """

    source: Any  # array-like (C, H, W)
    rows: sparse.csr_array  # (new height, height) weights of the old rows in each new one
    columns: sparse.csr_array  # (new width, width)

    dtype = np.dtype(np.float32)
    ndim = 3

    @classmethod
    def of(cls, source: Any, new_shape: tuple[int, int]) -> ScaledImage:
        """`source` at a size of (height, width)."""
        height, width = (int(n) for n in source.shape[-2:])
        return cls(source, _axis_weights(height, new_shape[0]), _axis_weights(width, new_shape[1]))

    @property
    def shape(self) -> tuple[int, int, int]:
        return int(self.source.shape[0]), self.rows.shape[0], self.columns.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, wanted_rows, wanted_columns = full_key(key, self.ndim)
        rows, first_row, end_row = _used(self.rows[wanted_rows])
        columns, first_column, end_column = _used(self.columns[wanted_columns])
        pixels = np.asarray(self.source[channels, first_row:end_row, first_column:end_column])
        unknown = np.isnan(pixels[0])

        def rescaled(plane: np.ndarray) -> np.ndarray:
            return (columns @ (rows @ plane.astype(np.float64)).T).T

        if not unknown.any():
            return np.stack([rescaled(plane) for plane in pixels]).astype(np.float32)
        # What has no data has no weight; where most of the weight is lost, there are no data.
        share = rescaled(~unknown)
        with np.errstate(invalid="ignore", divide="ignore"):
            planes = [rescaled(np.where(unknown, 0, plane)) / share for plane in pixels]
        return np.where(share > _LEAST_KNOWN, planes, np.nan).astype(np.float32)

    def in_memory(self) -> np.ndarray:
        """All of it, (C, H, W) float32, from bands of the source."""
        pixels = np.empty(self.shape, np.float32)
        n_rows = max(1, _BAND * self.shape[1] // int(self.source.shape[1]))
        for row in range(0, self.shape[1], n_rows):
            pixels[:, row : row + n_rows] = self[:, row : row + n_rows]
        return pixels


def _used(weights: sparse.csr_array) -> tuple[sparse.csr_array, int, int]:
    """Weights of the old pixels that occur in them, and which these are: first, and one past the last."""
    first, end = int(weights.indices.min()), int(weights.indices.max()) + 1
    return sparse.csr_array(weights[:, first:end]), first, end


def _axis_weights(old: int, new: int) -> sparse.csr_array:
    """(new, old) weights that take an axis from `old` to `new` pixels."""
    factor = old / new
    position = (np.arange(new) + 0.5) * factor - 0.5  # of the new pixels' centres among the old ones
    left = np.floor(position).astype(np.int64)
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(4 * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    blur = np.exp(-0.5 * (offset / sigma) ** 2) if sigma > 0 else np.ones(1)
    blur /= blur.sum()
    index, weight = [], []
    for side, share in ((left, 1 - (position - left)), (left + 1, position - left)):
        index.append(reflect_index((side[:, None] + offset).ravel(), old))
        weight.append((share[:, None] * blur).ravel())
    row = np.repeat(np.arange(new), len(offset))
    where = (np.concatenate([row, row]), np.concatenate(index))
    return sparse.csr_array((np.concatenate(weight), where), shape=(new, old))
