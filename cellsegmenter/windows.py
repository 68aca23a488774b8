"""Overlapping windows over an image of any size, and random crops for training (Suppl. S9).

The image is padded by reflection so that every one of its pixels, corners included, is seen by exactly
(window_size / stride)² windows; the consensus divides by that number once and needs no per-pixel correction.
Padding is never materialised: a window is a slice of the image followed by an index map, so an array-like
that loads lazily (zarr, dask, memmap) is read window by window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["WindowGrid", "check_stride", "make_windows", "random_crop", "reflect_index"]


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


def _read_reflected(image: Any, row: int, column: int, size: int) -> np.ndarray:
    """The (C, size, size) window whose corner is (row, column), touching only the pixels that it shows."""
    height, width = image.shape[-2:]
    rows = reflect_index(np.arange(row, row + size), height)
    columns = reflect_index(np.arange(column, column + size), width)
    top, left = int(rows.min()), int(columns.min())
    # Slice first, so that a lazy array loads this window and no more.
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

    def extract(self, image: Any, index: np.ndarray) -> np.ndarray:
        """The windows at `index` cut out of `image`.

        Parameters
        ----------
        image : array-like (C, H, W)
            Anything with ``shape`` and slicing; only the pixels of the windows are loaded.
        index : (B,) integer array
            Which windows.

        Returns
        -------
        (B, C, window_size, window_size) array of the image's dtype.
        """
        if len(image.shape) != 3 or tuple(image.shape[-2:]) != self.image_shape:
            raise ValueError(
                f"image has shape {tuple(image.shape)}, but these windows were made for (channels, "
                f"{self.image_shape[0]}, {self.image_shape[1]}); pass the image with its channels first"
            )
        corners = self.origin[np.atleast_1d(index)]
        return np.stack([_read_reflected(image, int(r), int(c), self.window_size) for r, c in corners])

    def pixel_index(self, index: np.ndarray) -> np.ndarray:
        """The flat, row-major pixel that each place of the windows at `index` (B,) shows; -1 in the padding.

        Returns
        -------
        (B, window_size, window_size) int64 array.
        """
        height, width = self.image_shape
        corners = self.origin[np.atleast_1d(index)]
        along = np.arange(self.window_size)
        row = (corners[:, 0, None] + along)[:, :, None]
        column = (corners[:, 1, None] + along)[:, None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return np.where(inside, row * width + column, -1)


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


def random_crop(image: Any, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random (C, size, size) crop of `image` (C, H, W), padded by reflection where the image is smaller.

    Positions are uniform over the crops that lie inside the image; along an axis shorter than `size`
    they are uniform over the crops that contain the whole axis.
    """
    if size < 1:
        raise ValueError(f"size={size!r} must be at least 1 px")
    slack = [length - size for length in image.shape[-2:]]
    row, column = (int(rng.integers(min(0, free), max(0, free), endpoint=True)) for free in slack)
    return _read_reflected(image, row, column, size)
