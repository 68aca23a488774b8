"""What varies slowly across an image: a value for each of its blocks, linear between their middles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cellsegmenter.validation import full_key

__all__ = ["BlockMap", "block_edges", "read_blocks"]

_BAND = 512  # rows that are read at a time: chunks of a zarr array are not read once for every row of blocks


@dataclass(frozen=True)
class BlockMap:
    """A map of an image (C, H, W) that is computed where it is sliced; each pixel is the same in every slice."""

    levels: np.ndarray  # (C, m, n) float32, in the middle of each block
    image_shape: tuple[int, int]  # H, W

    def __getitem__(self, key: Any) -> np.ndarray:
        channels, rows, columns = full_key(key, 3)
        above, below, down = _between(self.image_shape[0], self.levels.shape[1], rows)
        left, right, across = _between(self.image_shape[1], self.levels.shape[2], columns)
        levels = self.levels[channels]
        levels = levels[:, above] + down[:, None] * (levels[:, below] - levels[:, above])  # (C, h, n)
        return levels[..., left] + across * (levels[..., right] - levels[..., left])

    def in_blocks(self, shape: tuple[int, int]) -> np.ndarray:
        """(C, *shape) the map in the middles of other blocks, of which `shape` cover the image."""
        rows, columns = (
            ((np.arange(n) + 0.5) * side / n).astype(int)
            for n, side in zip(shape, self.image_shape, strict=True)
        )
        return np.stack([self[:, row : row + 1][:, 0, columns] for row in rows], axis=1)


def read_blocks(image: Any, block: int) -> Iterator[list[np.ndarray]]:
    """The pixels (C, h, w) of the blocks of an image (C, H, W), a row of blocks after the other; read once."""
    height, width = (int(n) for n in image.shape[-2:])
    rows, columns = block_edges(height, block), block_edges(width, block)
    per_band = max(1, _BAND // block)
    for first in range(0, len(rows) - 1, per_band):
        of_band = rows[first : first + per_band + 1]
        band = np.asarray(image[:, of_band[0] : of_band[-1], :])
        for top, bottom in pairwise(of_band - of_band[0]):
            yield np.split(band[:, top:bottom], columns[1:-1], axis=2)


def block_edges(length: int, block: float, at_most: int | None = None) -> np.ndarray:
    """Where blocks of about `block` px begin on an axis, and its end; larger blocks, if there would be too many."""
    n_blocks = max(1, round(length / block))
    return np.linspace(0, length, min(n_blocks, at_most or n_blocks) + 1).astype(int)


def _between(length: int, n_blocks: int, wanted: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two blocks between whose middles each wanted pixel of an axis lies, and how far it is from the first.

    Beyond the outermost middles it is at these.
    """
    pixel = np.arange(*wanted.indices(length))
    position = np.clip((pixel + 0.5) * n_blocks / length - 0.5, 0, n_blocks - 1)
    first = position.astype(int)
    return first, np.minimum(first + 1, n_blocks - 1), (position - first).astype(np.float32)
