"""The consensus of one image in the user's own pixels, whatever scale the model worked at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from cellsegmenter.consensus import AbsoluteResolution, Consensus, Method, Segmentation
from cellsegmenter.store import Store

__all__ = ["ImageConsensus"]

_BAND = 512  # rows that are rescaled at a time


class ImageConsensus:
    """Cuts the co-membership graph of an image at any resolution; made by `CellSegmenter.consensus`.

    Attributes
    ----------
    graph : Consensus
        At working scale.
    image_shape : (height, width) in px of the user's image, or of its region
    scale : float
        Working size over the image's own.
    resolution : "auto", float or AbsoluteResolution
        The default of `cut`.
    min_size : int
        The default of `cut`, in px of the user's image.
    """

    def __init__(
        self,
        graph: Consensus,
        pixels: tuple[np.ndarray, np.ndarray],
        scale: float,
        *,
        resolution: Literal["auto"] | float | AbsoluteResolution,
        min_size: int,
        random_state: int,
    ) -> None:
        self.graph = graph
        # The row and the column of the graph that each row and column of the image shows.
        self._pixels = pixels
        self.image_shape = (len(pixels[0]), len(pixels[1]))
        self.scale = scale
        self.resolution = resolution
        self.min_size = min_size
        self.random_state = random_state

    def cut(
        self,
        resolution: Literal["auto"] | float | AbsoluteResolution | None = None,
        *,
        method: Method = "cpm",
        min_size: int | None = None,
        min_foreground: float = 0.5,
    ) -> Segmentation:
        """Segment the image at a resolution; a second cut samples and builds nothing, but solves again.

        Parameters are those of `cellsegmenter.consensus.Consensus.cut`, with the estimator's own resolution by
        default, `min_size` in px of the user's image, and the labels in its shape.
        """
        resolution = self.resolution if resolution is None else resolution
        wanted = self.min_size if min_size is None else min_size
        segmentation = self.graph.cut(
            resolution,
            method=method,
            min_size=max(1, math.floor(wanted * self.scale**2)),
            min_foreground=min_foreground,
            random_state=self.random_state,
        )
        if segmentation.labels.shape == self.image_shape:
            return segmentation
        return _at_pixels(segmentation, self._pixels, self.graph.store)


def _at_pixels(
    segmentation: Segmentation, pixels: tuple[np.ndarray, np.ndarray], store: Store
) -> Segmentation:
    """The label at each of some rows and columns, which make another image; objects that vanish are dropped."""
    rows, columns = pixels
    shape = (len(rows), len(columns))
    labels = store.new_image("labels-at-shape", shape, np.int32)
    foreground = store.new_image("foreground-at-shape", shape, np.float32)
    seen = np.zeros(len(segmentation) + 1, dtype=bool)
    for start in range(0, shape[0], _BAND):
        band = rows[start : start + _BAND]
        low, high = int(band[0]), int(band[-1]) + 1
        of_band = segmentation.labels[low:high][(band - low)[:, None], columns[None, :]]
        seen[of_band] = True
        labels[start : start + _BAND] = of_band
        prob = segmentation.foreground_prob[low:high]
        foreground[start : start + _BAND] = prob[(band - low)[:, None], columns[None, :]]
    seen[0] = False
    kept = np.flatnonzero(seen)
    if len(kept) < len(segmentation):
        number = np.zeros(len(seen), dtype=np.int32)
        number[kept] = np.arange(1, len(kept) + 1)
        for start in range(0, shape[0], _BAND):
            labels[start : start + _BAND] = number[labels[start : start + _BAND]]
    return replace(
        segmentation,
        labels=labels,
        confidence=segmentation.confidence[kept - 1],
        z_what=segmentation.z_what[kept - 1],
        foreground_prob=foreground,
    )
