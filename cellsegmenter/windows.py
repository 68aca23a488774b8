"""Overlapping windows over an image of any size, and random crops for training (Suppl. S9).

The image is padded by reflection so that every one of its pixels, corners included, is seen by exactly
(window_size / stride)² windows; the consensus divides by that number once and needs no per-pixel correction.
Padding is never materialised: a window is a slice of the image followed by an index map, so an array-like
that loads lazily (zarr, dask, memmap) is read window by window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellsegmenter.region import Region

__all__ = [
    "TILE_SIZE",
    "Tiling",
    "WindowGrid",
    "check_stride",
    "first_window",
    "make_tiling",
    "make_windows",
    "random_crop",
    "read_reflected",
    "reflect_index",
]

# Rows and columns of windows that go through the networks together.  The last bit of what a network gives can
# depend on the batch it sees, so batches are the same in every tiling.
_BATCH_ROWS, _BATCH_COLUMNS = 4, 8
TILE_SIZE = 1024  # px: what is worked on at a time


def reflect_index(position: np.ndarray, length: int) -> np.ndarray:
    """Positions on an axis of `length` pixels that reflection padding reads from.

    The edge pixel is not repeated (``numpy.pad(mode="reflect")``), and the image is reflected as often as
    needed, so that padding may exceed the image.

    Parameters
    ----------
    position : (n,) integer array
        Positions in pixels; may be negative or beyond the end.
    length : int
        Number of pixels of the axis.

    Returns
    -------
    (n,) int64 array with values in 0 .. length - 1.
    """
    period = max(2 * (length - 1), 1)
    folded = np.mod(np.asarray(position, dtype=np.int64), period)
    return np.minimum(folded, period - folded)  # length 1: period 1, so always 0


def read_reflected(image: Any, corner: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The (C, *extent) rectangle whose first row and column are `corner`, touching only the pixels that it shows."""
    rows, columns = (
        reflect_index(np.arange(low, low + n), length)
        for low, n, length in zip(corner, extent, image.shape[-2:], strict=True)
    )
    top, left = int(rows.min()), int(columns.min())
    # Slice first, so that a lazy array loads this rectangle and no more.
    part = np.asarray(image[:, top : int(rows.max()) + 1, left : int(columns.max()) + 1])
    return part[:, (rows - top)[:, None], (columns - left)[None, :]]


@dataclass(frozen=True)
class WindowGrid:
    """Square windows at a regular stride that cover an image with its reflected padding."""

    image_shape: tuple[int, int]  # height, width in px
    window_size: int  # px
    stride: int  # px, divides window_size
    origin: np.ndarray  # (n_windows, 2) int64: row, column of the corner; negative in the padding

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def n_visits(self) -> int:
        """How many windows see each pixel of the image."""
        return (self.window_size // self.stride) ** 2

    def take(self, index: np.ndarray) -> WindowGrid:
        """The grid with only the windows at `index`."""
        return replace(self, origin=self.origin[index])

    def touching(self, region: Region) -> WindowGrid:
        """The grid with only the windows that show pixels of a region."""
        ends = region.corner + region.shape
        shows = (self.origin + self.window_size > region.corner) & (self.origin < ends)
        return self.take(np.flatnonzero(shows.all(axis=1)))

    def batches(self) -> list[np.ndarray]:
        """The windows in batches of neighbours, which are the same if some batches are missing."""
        start = self.stride - self.window_size
        row, column = (self.origin - start).T // self.stride
        n_columns = -(-(self.image_shape[1] - start) // self.stride)
        batch = row // _BATCH_ROWS * n_columns + column // _BATCH_COLUMNS
        order = np.argsort(batch, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(batch[order])) + 1) if len(self) else []

    def read(self, image: Any) -> ImagePart:
        """What the windows show, read at once: each pixel is read and normalised once, not 16 times.

        Parameters
        ----------
        image : array-like (C, H, W)
            Anything with ``shape`` and slicing; only the rectangle that the windows span is loaded.
        """
        if len(image.shape) != 3 or tuple(image.shape[-2:]) != self.image_shape:
            raise ValueError(
                f"image has shape {tuple(image.shape)}, but these windows were made for (channels, "
                f"{self.image_shape[0]}, {self.image_shape[1]}); pass the image with its channels first"
            )
        corner = self.origin.min(axis=0)
        extent = self.origin.max(axis=0) + self.window_size - corner
        return ImagePart(read_reflected(image, corner, extent), corner, self)


@dataclass(frozen=True)
class ImagePart:
    """A rectangle of an image, with its padding, that the windows of a grid are cut out of."""

    pixels: np.ndarray  # (C, height, width)
    corner: np.ndarray  # (2,) its first row and column
    grid: WindowGrid

    def windows(self, index: np.ndarray) -> np.ndarray:
        """The windows at `index` (B,): (B, C, window_size, window_size)."""
        size = self.grid.window_size
        corners = self.grid.origin[index] - self.corner
        return np.stack([self.pixels[:, r : r + size, c : c + size] for r, c in corners])


@dataclass(frozen=True)
class Tiling:
    """An image cut into rectangles, which hold pixels and the windows whose corner lies in them."""

    image_shape: tuple[int, int]  # height, width in px
    rows: np.ndarray  # (n + 1,) int64: where the rows of tiles begin, px, and the height
    columns: np.ndarray  # (m + 1,) int64
    window_size: int  # px

    def __len__(self) -> int:
        return (len(self.rows) - 1) * (len(self.columns) - 1)

    def within(self, region: Region) -> Tiling:
        """The tiling of a region alone, at the same places of the image, so that batches of windows stay whole."""

        def edges(old: np.ndarray, first: int, length: int) -> np.ndarray:
            moved = old - first
            return np.concatenate([[0], moved[(moved > 0) & (moved < length)], [length]])

        rows, columns = (
            edges(old, first, length)
            for old, first, length in zip(
                (self.rows, self.columns), region.corner.tolist(), region.shape, strict=True
            )
        )
        return replace(self, image_shape=region.shape, rows=rows, columns=columns)

    def box(self, tile: int) -> tuple[int, int, int, int]:
        """First row, one past the last, first column, one past the last."""
        i, j = divmod(tile, len(self.columns) - 1)
        return int(self.rows[i]), int(self.rows[i + 1]), int(self.columns[j]), int(self.columns[j + 1])

    def tile_of(self, position: np.ndarray) -> np.ndarray:
        """(n,) the tile of each row and column (n, 2); what lies outside of the image counts to the nearest."""
        i, j = (
            np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
            for edges, at in zip((self.rows, self.columns), np.reshape(position, (-1, 2)).T, strict=True)
        )
        return i * (len(self.columns) - 1) + j

    def overlapping(self, top: float, bottom: float, left: float, right: float) -> list[int]:
        """The tiles that hold pixels of rows top <= r < bottom and columns left <= c < right."""
        i = np.flatnonzero((self.rows[:-1] < bottom) & (self.rows[1:] > top))
        j = np.flatnonzero((self.columns[:-1] < right) & (self.columns[1:] > left))
        return [int(tile) for tile in (i[:, None] * (len(self.columns) - 1) + j).ravel()]

    def sources(self, tile: int) -> list[int]:
        """The tiles whose windows can show pixels of this one: itself, and neighbours above and to the left."""
        top, bottom, left, right = self.box(tile)
        return self.overlapping(top - self.window_size, bottom, left - self.window_size, right)


def make_tiling(image_shape: tuple[int, int], window_size: int, stride: int, tile_size: int) -> Tiling:
    """Tiles of about `tile_size` px that are made of whole batches of windows.

    Parameters
    ----------
    image_shape : (height, width) in px
    window_size, stride : int
        As of the windows, see `make_windows`.
    tile_size : int
        px.
    """

    def edges(length: int, batch: int) -> np.ndarray:
        step = batch * stride
        step *= max(1, round(tile_size / step), -(-window_size // step))
        return np.concatenate([[0], np.arange(stride - window_size + step, length, step), [length]])

    height, width = image_shape
    return Tiling((height, width), edges(height, _BATCH_ROWS), edges(width, _BATCH_COLUMNS), window_size)


def check_stride(window_size: int, stride: int) -> None:
    """Refuse a stride that does not divide the windows.

    Raises
    ------
    ValueError
    """
    if window_size < 1 or stride < 1:
        raise ValueError(f"window_size={window_size!r} and stride={stride!r} must be at least 1 px")
    if window_size % stride:
        divisors = [d for d in range(1, window_size + 1) if window_size % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - stride))
        raise ValueError(
            f"stride={stride} does not divide window_size={window_size}, so pixels would be seen unequally "
            f"often; use a divisor of window_size, for example stride={nearest}"
        )


def make_windows(image_shape: tuple[int, int], window_size: int, stride: int) -> WindowGrid:
    """Windows such that every pixel of the image lies in exactly (window_size / stride)² of them.

    Parameters
    ----------
    image_shape : (height, width) in px
    window_size : int
        Side of the windows in px.
    stride : int
        Distance between neighbouring windows in px; divides `window_size`.

    Raises
    ------
    ValueError
        If the image is empty, a size is not positive, or `stride` does not divide `window_size`.
    """
    height, width = (int(side) for side in image_shape)
    if height < 1 or width < 1:
        raise ValueError(f"image_shape={image_shape!r} has no pixels; pass the (height, width) of an image")
    check_stride(window_size, stride)
    # Corners at multiples of the stride: from the first window that reaches pixel 0 to the last inside.
    rows = np.arange(stride - window_size, height, stride, dtype=np.int64)
    columns = np.arange(stride - window_size, width, stride, dtype=np.int64)
    origin = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return WindowGrid((height, width), int(window_size), int(stride), origin)


def first_window(image: Any, size: int) -> np.ndarray:
    """The (C, size, size) window whose pixel (0, 0) is that of `image` (C, H, W); reflected where it ends sooner."""
    return read_reflected(image, np.array([0, 0]), np.array([size, size]))


def random_crop(image: Any, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random (C, size, size) crop of `image` (C, H, W), padded by reflection where the image is smaller.

    Positions are uniform over the crops that lie inside the image; along an axis shorter than `size`
    they are uniform over the crops that contain the whole axis.
    """
    if size < 1:
        raise ValueError(f"size={size!r} must be at least 1 px")
    slack = [length - size for length in image.shape[-2:]]
    row, column = (int(rng.integers(min(0, free), max(0, free), endpoint=True)) for free in slack)
    return read_reflected(image, np.array([row, column]), np.array([size, size]))
