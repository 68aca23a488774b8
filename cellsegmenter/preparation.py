"""What every image goes through before a window is cut: intensities normalised, size brought to the working scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from skimage.transform import resize

from cellsegmenter.normalize import ImageStatistics, image_statistics, normalize_image

__all__ = ["PreparedImage", "Region", "check_region", "prepare_image"]


class Region(NamedTuple):
    """A rectangle of an image, px."""

    row: int  # of the first pixel
    column: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.row, self.row + self.height), slice(self.column, self.column + self.width)


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
    """An image (C, H, W) at working scale, normalised by the statistics of the whole image when sliced."""

    source: Any  # array-like (C, H, W), already at working scale
    statistics: ImageStatistics
    intensity: Literal["log", "linear"]
    original_shape: tuple[int, int]  # height, width in px of the user's image

    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.source.shape)  # type: ignore[return-value]

    def __getitem__(self, key: Any) -> np.ndarray:
        return normalize_image(self.source[key], method=self.intensity, statistics=self.statistics)


def prepare_image(
    image: Any,
    *,
    scale: float = 1.0,
    intensity: Literal["log", "linear"] = "log",
    region: Region | None = None,
) -> PreparedImage:
    """Normalise lazily; rescale, if at all, in memory.

    Parameters
    ----------
    image : array-like (C, H, W)
        As `cellsegmenter.validation.check_images` gives it; stays lazy at scale 1.
    scale : float
        Working size over the image's own: 0.5 halves both sides.
    intensity : {"log", "linear"}
        See `cellsegmenter.normalize`.
    region : Region, optional
        Only this part, with the intensities of the whole image's scale.
    """
    statistics = None if region is None else image_statistics(image)
    source = image if region is None else image[(slice(None), *region.slices)]
    height, width = (int(n) for n in source.shape[-2:])
    if scale != 1.0:
        target = (source.shape[0], max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = np.asarray(source)
        source = resize(pixels, target, order=1, mode="reflect", anti_aliasing=scale < 1, preserve_range=True)
    statistics = image_statistics(source) if statistics is None else statistics
    return PreparedImage(source, statistics, intensity, (height, width))
