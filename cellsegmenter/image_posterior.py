"""Posterior samples of a whole image, as `CellSegmenter.sample_posterior` gives them for a recognition network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellsegmenter.consensus import ShapePosterior
from cellsegmenter.consensus.runs import star_spans
from cellsegmenter.recognition.stars import vertices

__all__ = ["ImagePosterior"]


@dataclass(frozen=True)
class ImagePosterior:
    """Candidates of an image, and S segmentations that each switch some of them on.

    Attributes
    ----------
    image_shape : (height, width) in px
    shapes : ShapePosterior
        n candidates, px of the image.
    probability : ndarray (n,)
        That a candidate is an object, before suppression.
    """

    image_shape: tuple[int, int]
    shapes: ShapePosterior
    probability: np.ndarray

    @property
    def presence(self) -> np.ndarray:
        """(n, S) bool: which candidates are on in each sample."""
        return self.shapes.present

    @property
    def n_objects(self) -> np.ndarray:
        """(S,) objects in each sample."""
        return self.presence.sum(axis=0)

    @property
    def outlines(self) -> np.ndarray:
        """(n, 32, 2) row and column of the candidates' outlines, px; pixel (i, j) has its centre at + 0.5."""
        return vertices(self.shapes.stars)

    @property
    def z_what(self) -> np.ndarray:
        """(n, D) latent codes of the candidates."""
        return self.shapes.z_what

    def labels(self, sample: int) -> np.ndarray:
        """A sample as a label image, (height, width) int32: 0 background, i + 1 where candidate i is.

        Where objects overlap, the more probable one has the pixel.
        """
        on = np.flatnonzero(self.presence[:, sample])
        on = on[np.argsort(-self.shapes.order[on])]  # the most probable is drawn last
        height, width = self.image_shape
        spans = star_spans(self.shapes.stars.take(on), (0, height, 0, width))
        labels = np.zeros(height * width, np.int32)
        for shape, start, stop in zip(*spans, strict=True):
            labels[start:stop] = on[shape] + 1
        return labels.reshape(height, width)
