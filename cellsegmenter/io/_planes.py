"""One plane of an array that may be on disk, and the reading of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cellsegmenter.validation import full_key

from ._files import ImageFileError

__all__ = ["Plane", "read_pixels"]


@dataclass(frozen=True)
class Plane:
    """An image inside a lazy array of more dimensions, read when sliced."""

    source: Any  # array-like
    index: tuple[int | slice, ...]  # a position for each axis that is fixed, slice(None) for the others
    order: tuple[int, ...]  # of the axes that remain
    name: str  # of the file, for messages

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.source.dtype)

    @property
    def ndim(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        free = [size for size, at in zip(self.source.shape, self.index, strict=True) if isinstance(at, slice)]
        return tuple(int(free[axis]) for axis in self.order)

    def __getitem__(self, key: Any) -> np.ndarray:
        slices = full_key(key, self.ndim)
        in_file_order = iter([slices[self.order.index(axis)] for axis in range(self.ndim)])
        index = tuple(next(in_file_order) if isinstance(at, slice) else at for at in self.index)
        return read_pixels(self.source, index, self.name).transpose(self.order)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def read_pixels(source: Any, index: tuple[int | slice, ...], name: str) -> np.ndarray:
    """A part of an array that may be on disk, where it can be damaged."""
    try:
        return np.asarray(source[index])
    except Exception as error:  # each format's decoder raises what it likes
        reason = str(error) or type(error).__name__
        raise ImageFileError(
            f"{name} cannot be read, its pixels may be damaged or incomplete ({reason}); copy or export it again"
        ) from error
