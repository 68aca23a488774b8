"""Masks: images that say where nothing is looked for, so that these places count as without data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellsegmenter.validation import full_key

from ._files import ImageFileError
from ._layout import LARGE
from ._readers import read_image

__all__ = ["mask_image", "read_mask"]


def read_mask(path: str | Path) -> Any:
    """A mask from an image file of a single channel, of any type.

    Parameters
    ----------
    path : str or Path
        As `read_image` takes it; an image that is grey but saved in colour will do.

    Returns
    -------
    array-like (H, W)
        For `mask_image`.

    Raises
    ------
    ImageFileError
        If the file cannot be read, holds several channels or planes, or is 0 everywhere.
    """
    try:
        mask = read_image(path).array
    except ImageFileError as error:
        raise ImageFileError(
            f"{path} cannot be used as a mask, which is a grey image of one plane: {error}"
        ) from error
    if isinstance(mask, np.ndarray) and not isinstance(mask, np.memmap) and not _is_on(mask).any():
        raise ImageFileError(
            f"{path} is 0 everywhere, so that nothing is looked for; it must not be 0 where objects are"
        )
    return mask


def mask_image(image: Any, mask: Any) -> Any:
    """An image without data where a mask is 0: nothing is looked for there, and nothing is measured by it.

    Parameters
    ----------
    image : array-like (H, W) or (C, H, W)
        Such as `read_image` gives it; what is lazy stays lazy.
    mask : array-like (H, W)
        0, False or NaN where nothing is to be looked for.

    Returns
    -------
    array-like, of the image's shape
        NaN where the mask is 0, else the image's values; float32, or float64 if the image is.

    Raises
    ------
    ValueError
        If image and mask differ in size.

    Examples
    --------
    >>> import numpy as np
    >>> from cellsegmenter.io import mask_image
    >>> mask_image(np.ones((1, 3)), np.array([[1, 0, 1]]))
    array([[ 1., nan,  1.]])
    """
    size, wanted = tuple(map(int, mask.shape)), tuple(map(int, image.shape[-2:]))
    if size != wanted:
        raise ValueError(
            f"the mask has {_size(size)} px and the image {_size(wanted)}; give a mask of the image's size"
        )
    masked = _Masked(image, mask)
    n_bytes = prod(masked.shape) * masked.dtype.itemsize
    on_disk = isinstance(image, np.memmap) or not isinstance(image, np.ndarray)
    return masked if on_disk or n_bytes > LARGE else masked[...]


def _is_on(mask: np.ndarray) -> np.ndarray:
    return (mask != 0) & (mask == mask)


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


@dataclass(frozen=True)
class _Masked:
    """An image with NaN where a mask is 0, computed where it is sliced."""

    source: Any  # array-like (..., H, W)
    mask: Any  # array-like (H, W)

    @property
    def dtype(self) -> np.dtype:
        is_double = np.dtype(self.source.dtype) == np.float64
        return np.dtype(np.float64 if is_double else np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.source.shape))

    def __getitem__(self, key: Any) -> np.ndarray:
        slices = tuple(full_key(key, self.ndim))
        pixels = np.asarray(self.source[slices], self.dtype)
        return np.where(_is_on(np.asarray(self.mask[slices[-2:]])), pixels, self.dtype.type(np.nan))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)
