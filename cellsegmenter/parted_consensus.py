"""The consensus of an image whose parts are seen at different scales: each part is cut alone, then they are joined.

A part is cut together with a margin around it; an object belongs to the part in which its centroid lies, see `joining`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from cellsegmenter.consensus import (
    AbsoluteResolution,
    Method,
    Resolution,
    ResolutionError,
    Segmentation,
    mean_pair_weight,
    resolve,
)
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.joining import JoinedLabels
from cellsegmenter.region import Region
from cellsegmenter.store import FolderStore, Store, short_hash

__all__ = ["PartConsensus", "PartedConsensus"]


class PartConsensus(NamedTuple):
    """One part; regions are px of the image that is put together."""

    core: Region  # where the centroids of its objects lie; those of all parts cover the image without overlap
    frame: Region  # the core and its margin, which the consensus shows
    consensus: ImageConsensus


class PartedConsensus:
    """Cuts an image that is made of parts of different scales; made by `CellSegmenter.consensus`.

    Attributes
    ----------
    parts : sequence of PartConsensus
    image_shape : (height, width) in px of the user's image, or of its region
    resolution : "auto", float or AbsoluteResolution
        The default of `cut`.
    """

    def __init__(
        self,
        parts: Sequence[PartConsensus],
        image_shape: tuple[int, int],
        store: Store,
        *,
        resolution: Literal["auto"] | float | AbsoluteResolution,
        progress: bool = False,
    ) -> None:
        self.parts = parts
        self.image_shape = image_shape
        self.resolution = resolution
        self.progress = progress
        self._store = store

    @property
    def work_folder(self) -> Path | None:
        """Where everything that grows with the image is kept; None if that is memory."""
        return self._store.path if isinstance(self._store, FolderStore) else None

    @property
    def scales(self) -> list[tuple[Region, float]]:
        """The parts of the image that were seen at one scale each, and their scales: working size over their own."""
        return [(part.core, part.consensus.scale) for part in self.parts]

    def cut(
        self,
        resolution: Literal["auto"] | float | AbsoluteResolution | None = None,
        *,
        method: Method = "cpm",
        min_size: int | None = None,
        min_foreground: float = 0.5,
    ) -> Segmentation:
        """Segment the image at a resolution; a second cut samples and builds nothing, but solves again.

        Parameters are those of `ImageConsensus.cut`.  All parts are cut at one absolute resolution: "auto" chooses it
        in the part that shows the most foreground, and a published γ is relative to the graph of all parts together.
        """
        resolution = self.resolution if resolution is None else resolution
        how = {"method": method, "min_size": min_size, "min_foreground": min_foreground}
        resolved = self._resolve(resolution, how)
        if resolved.chosen_by == "gamma" and resolved.absolute > 1:  # no pair of pixels is worth as much
            self._refuse_empty(resolved, how)
        joined = self._join(resolved, how)
        if resolved.chosen_by == "gamma" and not len(joined):
            self._refuse_empty(resolved, how)
        return joined

    def agreement(self) -> Callable[[np.ndarray], float]:
        """How well label images of `image_shape` agree with single posterior samples, 0..1: a mean over the parts."""
        of_parts = [part.consensus.agreement() for part in self.parts]
        areas = [math.prod(part.core.shape) for part in self.parts]

        def agreement(labels: np.ndarray) -> float:
            values = [
                of_part(labels[part.frame.slices]) for of_part, part in zip(of_parts, self.parts, strict=True)
            ]
            return float(np.average(values, weights=areas))

        return agreement

    def _resolve(
        self, requested: Literal["auto"] | float | AbsoluteResolution, how: dict[str, Any]
    ) -> Resolution:
        """The resolution for all parts, with its γ relative to all of them together."""
        weights = [part.consensus.graph.weight(how["min_foreground"]) for part in self.parts]
        n_pixels = [n for _, n in weights]
        mean = mean_pair_weight(sum(total for total, _ in weights), sum(n_pixels))
        if requested == "auto":
            fullest = self.parts[int(np.argmax(n_pixels))]
            chosen = fullest.consensus.automatic_resolution(**how)
            return replace(chosen, gamma=chosen.absolute / mean if mean > 0 else math.nan)
        cutoff_distance = self.parts[0].consensus.graph.cutoff_distance
        return resolve(requested, how["method"], mean, cutoff_distance)

    def _join(self, resolved: Resolution, how: dict[str, Any]) -> Segmentation:
        """Cut every part at γ_abs and put them together."""
        # Where there is no graph there is no resolution either, and nothing is found at any.
        absolute = AbsoluteResolution(resolved.absolute if 0 < resolved.absolute < 1 else 1.0)
        name = f"joined-{short_hash(resolved.absolute, how)}"
        joined = JoinedLabels(self._store.new_image(f"{name}-labels", self.image_shape, np.int32))
        foreground = self._store.new_image(f"{name}-foreground", self.image_shape, np.float32)
        confidence, z_what = [], []
        for part in tqdm(self.parts, desc="cut", unit="part", disable=None if self.progress else True):
            found = part.consensus.cut(absolute, **how)
            least = part.consensus.min_size if how["min_size"] is None else how["min_size"]
            own = joined.add(found.labels, len(found), part.core, part.frame, least)
            confidence.append(found.confidence[own - 1])
            z_what.append(found.z_what[own - 1])
            for band in part.core.bands():
                foreground[band.slices] = found.foreground_prob[band.within(part.frame).slices]
        order = joined.number_by_first_pixel()
        return Segmentation(
            joined.labels,
            resolved,
            np.concatenate(confidence)[order],
            np.concatenate(z_what)[order],
            foreground,
        )

    def _refuse_empty(self, resolved: Resolution, how: dict[str, Any]) -> None:
        """Raise if another resolution would give objects; otherwise the image has none."""
        fits = self._resolve("auto", how)
        if len(self._join(fits, how)):
            raise ResolutionError.of_empty(resolved, fits, self.image_shape)
