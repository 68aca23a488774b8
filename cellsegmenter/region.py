"""Rectangles of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["Region"]

_BAND = 512  # rows that are worth holding at a time


class Region(NamedTuple):
    """A rectangle of an image, px."""

    row: int  # of the first pixel
    column: int
    height: int
    width: int

    @property
    def corner(self) -> np.ndarray:
        """(2,) row and column of the first pixel."""
        return np.array([self.row, self.column])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.row, self.row + self.height), slice(self.column, self.column + self.width)

    def grown(self, margin: int) -> Region:
        """With a margin of so many px on each side."""
        return Region(
            self.row - margin, self.column - margin, self.height + 2 * margin, self.width + 2 * margin
        )

    def meets(self, other: Region) -> bool:
        """Whether any pixel lies in both."""
        return min(self.common(other).shape) > 0

    def common(self, other: Region) -> Region:
        """What lies in both; without pixels if nothing does."""
        top, left = np.maximum(self.corner, other.corner).tolist()
        bottom, right = np.minimum(self.corner + self.shape, other.corner + other.shape).tolist()
        return Region(top, left, max(bottom - top, 0), max(right - left, 0))

    def bands(self) -> Iterator[Region]:
        """The same pixels, at most 512 rows at a time."""
        for start in range(self.row, self.row + self.height, _BAND):
            yield Region(start, self.column, _BAND, self.width).common(self)
