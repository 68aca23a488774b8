"""What every image goes through before a window is cut: intensities normalised, size brought to the working scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from skimage.transform import resize

from cellsegmenter.normalize import ImageStatistics, image_statistics, normalize_image

__all__ = ["PreparedImage", "prepare_image"]


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
    image: Any, *, scale: float = 1.0, intensity: Literal["log", "linear"] = "log"
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
    """
    height, width = (int(n) for n in image.shape[-2:])
    source = image
    if scale != 1.0:
        target = (image.shape[0], max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = np.asarray(image)
        source = resize(pixels, target, order=1, mode="reflect", anti_aliasing=scale < 1, preserve_range=True)
    return PreparedImage(source, image_statistics(source), intensity, (height, width))
