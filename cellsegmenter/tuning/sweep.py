"""One graph cut at many resolutions, and how well each cut agrees with the single posterior samples (S9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cellsegmenter.consensus import AbsoluteResolution, Segmentation
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.io import shown_grey
from cellsegmenter.normalize import image_statistics
from cellsegmenter.region import Region

__all__ = ["ResolutionCut", "ResolutionSweep", "region_pixels", "sweep_resolutions"]

# γ_abs to cut at: close together where objects merge and split most.
_RESOLUTIONS = (
    0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.37, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.77, 0.83, 0.9,
)  # fmt: skip


class ResolutionCut(NamedTuple):
    """A region segmented at one resolution."""

    absolute: float  # γ_abs in 0..1
    labels: np.ndarray  # (H, W) int32: 0 background, 1..n objects, px of the user's image
    n_objects: int
    median_diameter: float  # px of the circle of the median area; nan without objects
    confidence: float  # mean over the objects; nan without objects
    agreement: float  # NMI with posterior samples, 0..1


class ResolutionSweep(NamedTuple):
    """A region segmented at many resolutions."""

    pixels: np.ndarray  # (H, W) float32: the region's normalised intensities, the brightest channel
    cuts: tuple[ResolutionCut, ...]  # by ascending γ_abs
    automatic: int  # which of them resolution="auto" takes on this region


def sweep_resolutions(
    consensus: ImageConsensus,
    pixels: np.ndarray,
    resolutions: Sequence[float] = _RESOLUTIONS,
    *,
    progress: bool = False,
) -> ResolutionSweep:
    """Cut a graph at many resolutions, and at the automatic one.

    Parameters
    ----------
    consensus : ImageConsensus
        Of the region, from `CellSegmenter.consensus`.
    pixels : ndarray (H, W)
        The region as it is to be shown.
    resolutions : sequence of float
        γ_abs in 0..1.
    progress : bool
        Show a bar; in dense tissue every cut takes seconds.

    Returns
    -------
    ResolutionSweep
    """
    automatic = consensus.cut("auto")
    chosen = automatic.resolution.absolute
    found = {} if np.isnan(chosen) else {chosen: automatic}
    for value in tqdm(resolutions, desc="cuts", unit="cut", disable=not progress):
        if value not in found:
            found[value] = consensus.cut(AbsoluteResolution(value))
    agreement = consensus.agreement()
    values = sorted(found)
    cuts = [_described(value, found[value], agreement) for value in values]
    return ResolutionSweep(pixels, tuple(cuts), values.index(chosen) if chosen in found else 0)


def _described(
    absolute: float, segmentation: Segmentation, agreement: Callable[[np.ndarray], float]
) -> ResolutionCut:
    labels, confidence = np.asarray(segmentation.labels), segmentation.confidence
    areas = np.bincount(labels.ravel())[1:]
    some = len(areas) > 0
    return ResolutionCut(
        absolute=float(absolute),
        labels=labels,
        n_objects=len(areas),
        median_diameter=float(np.sqrt(4 / np.pi * np.median(areas))) if some else float("nan"),
        confidence=float(np.mean(confidence)) if some else float("nan"),
        agreement=agreement(labels),
    )


def region_pixels(image: Any, region: Region) -> np.ndarray:
    """A region of an image (C, H, W) to be looked at: (height, width) in 0..1, normalised as the whole."""
    pixels = np.asarray(image[(slice(None), *region.slices)])
    return shown_grey(pixels, image_statistics(image))
