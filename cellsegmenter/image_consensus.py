"""The consensus of one image in the user's own pixels, whatever scale the model worked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cellsegmenter.consensus import (
    AbsoluteResolution,
    Consensus,
    Method,
    Resolution,
    Segmentation,
    ShapeConsensus,
    Solver,
)
from cellsegmenter.recognition.calibration import count_interval
from cellsegmenter.region import Region
from cellsegmenter.scales import SeenImage
from cellsegmenter.store import FolderStore, Image, short_hash
from cellsegmenter.validation import check_number

__all__ = ["COUNT_LEVEL", "CutDefaults", "ImageConsensus"]

COUNT_LEVEL = 0.9  # what the interval of the count claims


class CutDefaults(NamedTuple):
    """How an image is cut where the caller of `ImageConsensus.cut` says nothing else."""

    resolution: Literal["auto"] | float | AbsoluteResolution
    min_size: int  # px of the user's image
    random_state: int


class ImageConsensus:
    """Cuts the co-membership graph of an image at any resolution; made by `CellSegmenter.consensus`.

    Attributes
    ----------
    graph : ShapeConsensus or Consensus
        Of shapes in px of the image, or of windows at working scale.
    image_shape : (height, width) in px of the user's image, or of its region
    seen : SeenImage
        The image as the model saw it: at which scales, and what was done to it.
    defaults : CutDefaults
        Of `cut`.
    """

    def __init__(
        self,
        graph: ShapeConsensus | Consensus,
        pixels: tuple[np.ndarray, np.ndarray] | None,
        seen: SeenImage,
        defaults: CutDefaults,
        count_stretch: float = 1.0,
        known: Any = None,
    ) -> None:
        self.graph = graph
        # The row and the column of the graph that each row and column of the image shows; None: they are the same.
        self._pixels = pixels
        self.image_shape = graph.image_shape if pixels is None else (len(pixels[0]), len(pixels[1]))
        self.seen = seen
        self.defaults = defaults
        self._count_stretch = count_stretch
        self._known = known  # (height, width) bool: where there are data, if the graph does not know
        self._foreground_image: Image | None = None

    @property
    def work_folder(self) -> Path | None:
        """Where all that is known of pixels is kept; None if that is memory."""
        store = self.graph.store
        return store.path if isinstance(store, FolderStore) else None

    @property
    def n_objects(self) -> np.ndarray | None:
        """(S,) objects in each posterior sample of the image; None if samples are those of windows."""
        return self._n_objects(self.defaults.min_size)

    def _n_objects(self, min_size: int) -> np.ndarray | None:
        if isinstance(self.graph, Consensus):
            return None
        return self.graph.n_objects(self._size_in_graph(min_size))

    def count_interval(
        self, level: float = COUNT_LEVEL, *, min_size: int | None = None
    ) -> tuple[int, int] | None:
        """The interval that holds the number of objects with a probability of `level`; None with sliding windows.

        Parameters
        ----------
        level : float
            In 0..1.  The stretch of the samples' interval was fitted for 0.9; other levels are less exact.
        min_size : int, optional
            px, as in `cut`.
        """
        check_number("level", level, low=0, high=1)
        counts = self._n_objects(self._checked_size(min_size))
        return None if counts is None else count_interval(counts, level, self._count_stretch)

    def cut(
        self,
        resolution: Literal["auto"] | float | AbsoluteResolution | None = None,
        *,
        method: Method = "cpm",
        min_size: int | None = None,
        min_foreground: float = 0.5,
        solver: Solver = "igraph",
    ) -> Segmentation:
        """Segment the image at a resolution; a second cut samples and builds nothing, but solves again.

        Parameters are those of `cellsegmenter.consensus.Consensus.cut`, with the estimator's own resolution by
        default, `min_size` in px of the user's image (0 keeps everything), and the labels in its shape.
        """
        resolution = self.defaults.resolution if resolution is None else resolution
        min_size = self._checked_size(min_size)
        segmentation = self.graph.cut(
            resolution,
            method=method,
            min_size=self._size_in_graph(min_size),
            min_foreground=min_foreground,
            random_state=self.defaults.random_state,
            solver=solver,
        )
        if self._pixels is None:
            interval = self.count_interval(min_size=min_size)
            return replace(segmentation, count_interval=_holding(interval, len(segmentation)))
        # A folder keeps the images of every cut, as they are read from it whenever they are used.
        absolute = float(segmentation.resolution.absolute)
        cut = short_hash(absolute, method, min_size, min_foreground, solver, _place(self._pixels))
        labels = self.graph.store.new_image(f"at-shape-{cut}-labels", self.image_shape, np.int32)
        return _at_pixels(
            segmentation, self._pixels, labels, self._foreground(self._pixels), min_size, self._known
        )

    def automatic_resolution(
        self, *, method: Method = "cpm", min_size: int | None = None, min_foreground: float = 0.5
    ) -> Resolution:
        """The resolution that `cut` takes for "auto", without a cut; its published γ is nan."""
        return self.graph.automatic_resolution(
            method=method,
            min_size=self._size_in_graph(self._checked_size(min_size)),
            min_foreground=min_foreground,
            random_state=self.defaults.random_state,
        )

    def agreement(self) -> Callable[[np.ndarray], float]:
        """How well label images of `image_shape` agree with single posterior samples, 0..1 (NMI); of images that fit
        in memory.
        """
        shape, of_samples = self.graph.image_shape, self.graph.sample_agreement()
        return lambda labels: of_samples(_nearest(labels, shape))

    def _checked_size(self, min_size: int | None) -> int:
        size = self.defaults.min_size if min_size is None else min_size
        check_number("min_size", size, low=0, integer=True)
        return size

    def _size_in_graph(self, min_size: int) -> int:
        """px of the graph that are at most so many of the image."""
        return max(1, min_size if self._pixels is None else math.floor(min_size * self.seen.scales[0] ** 2))

    def _foreground(self, pixels: tuple[np.ndarray, np.ndarray]) -> Image:
        """The graph's probabilities of foreground in the image's own pixels; the same in every cut."""
        if self._foreground_image is None:
            self._foreground_image = self.graph.store.new_image(
                f"at-shape-{_place(pixels)}-foreground", self.image_shape, np.float32
            )
            _show_at(self.graph.foreground(), pixels, self._foreground_image)
        return self._foreground_image


def _holding(interval: tuple[int, int] | None, count: int) -> tuple[int, int] | None:
    """The interval, widened to the number of objects that were found.

    A cut keeps all objects that are more probable than not, and samples hold each as often as it is probable.  Where
    many are unsure, a cut has more.
    """
    return None if interval is None else (min(interval[0], count), max(interval[1], count))


def _place(pixels: tuple[np.ndarray, np.ndarray]) -> str:
    return short_hash(*(positions.tolist() for positions in pixels))


def _nearest(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The label at the nearest pixel, for each pixel of another size of the same image."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for old, new in zip(labels.shape, shape, strict=True)
    )
    return labels[rows[:, None], columns[None, :]]


def _show_at(image: Image, pixels: tuple[np.ndarray, np.ndarray], shown: Image) -> None:
    """Write what an image has at some rows and columns, band by band, to one of their shape."""
    rows, columns = pixels
    for band in Region(0, 0, *shown.shape).bands():
        wanted = rows[band.slices[0]]
        low, high = int(wanted[0]), int(wanted[-1]) + 1
        shown[band.slices] = image[low:high][(wanted - low)[:, None], columns[None, :]]


def _at_pixels(
    segmentation: Segmentation,
    pixels: tuple[np.ndarray, np.ndarray],
    labels: Image,
    foreground: Image,
    min_size: int,
    known: Any,
) -> Segmentation:
    """The segmentation with the label at each of some rows and columns, without objects that are too small there."""
    _show_at(segmentation.labels, pixels, labels)
    size = np.zeros(len(segmentation) + 1, np.int64)
    bands = [band.slices for band in Region(0, 0, *labels.shape).bands()]
    for band in bands if known is not None else []:
        labels[band] = labels[band] * known[band]
    for band in bands:
        size += np.bincount(labels[band].ravel(), minlength=len(size))
    kept = 1 + np.flatnonzero(size[1:] >= max(1, min_size))
    if len(kept) < len(segmentation):
        number = np.zeros(len(size), dtype=np.int32)
        number[kept] = np.arange(1, len(kept) + 1)
        for band in bands:
            labels[band] = number[labels[band]]
    return replace(
        segmentation,
        labels=labels,
        confidence=segmentation.confidence[kept - 1],
        z_what=segmentation.z_what[kept - 1],
        foreground_prob=foreground,
    )
