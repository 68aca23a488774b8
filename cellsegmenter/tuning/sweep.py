"""One graph cut at many resolutions, and how well each cut agrees with the single posterior samples (S9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from cellsegmenter.consensus import AbsoluteResolution, Segmentation
from cellsegmenter.image_consensus import ImageConsensus

__all__ = ["ResolutionCut", "ResolutionSweep", "SampledWindows", "sweep_resolutions"]

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


class SampledWindows(NamedTuple):
    """Posterior samples of some windows of a region, at working scale."""

    pixel: np.ndarray  # (n, h, w) int64: the flat pixel of the region that each place shows, -1 outside of it
    labels: np.ndarray  # (n, S, h, w) int32: the S samples' own segmentations
    image_shape: tuple[int, int]  # height, width of the region at working scale, px

    def agreement(self, labels: np.ndarray) -> float:
        """Σ 2 I / Σ (H + H) of the labels of a region (H, W) with the samples; see `SampleAgreement`."""
        at_scale = _nearest(labels, self.image_shape).ravel()
        shared = total = 0.0
        for pixel, samples in zip(self.pixel, self.labels, strict=True):
            inside = pixel >= 0
            ours = at_scale[pixel[inside]]
            for sample in samples:
                own, other, joint = _entropies(ours, sample[inside])
                shared += 2 * (own + other - joint)
                total += own + other
        return shared / total if total > 1e-9 else 1.0


def sweep_resolutions(
    consensus: ImageConsensus,
    agreement: Callable[[np.ndarray], float],
    pixels: np.ndarray,
    resolutions: Sequence[float] = _RESOLUTIONS,
) -> ResolutionSweep:
    """Cut a graph at many resolutions, and at the automatic one.

    Parameters
    ----------
    consensus : ImageConsensus
        Of the region, from `CellSegmenter.consensus`.
    agreement : callable
        Takes labels (H, W), gives their agreement with posterior samples.
    pixels : ndarray (H, W)
        The region as it is to be shown.
    resolutions : sequence of float
        γ_abs in 0..1.

    Returns
    -------
    ResolutionSweep
    """
    automatic = consensus.cut("auto")
    chosen = automatic.resolution.absolute
    found = {} if np.isnan(chosen) else {chosen: automatic}
    for value in resolutions:
        if value not in found:
            found[value] = consensus.cut(AbsoluteResolution(value))
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


def _entropies(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Entropies of two label arrays (n,) and their joint one, times n."""
    joint = a.astype(np.int64) * (int(b.max(initial=0)) + 1) + b
    whole = xlogy(len(a), len(a))
    own, other, both = (
        float(whole - xlogy(counts, counts).sum())
        for counts in (np.unique(values, return_counts=True)[1] for values in (a, b, joint))
    )
    return own, other, both


def _nearest(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The label at the nearest pixel, for each pixel of another size of the same image."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for old, new in zip(labels.shape, shape, strict=True)
    )
    return labels[rows[:, None], columns[None, :]]
