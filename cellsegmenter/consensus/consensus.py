"""The front of the consensus stage: posterior samples in, segmentations at any resolution out (Sec. 4).

instances → foreground pixels → edges → communities at a resolution → labels, confidence, latent codes
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.agreement import SampleAgreement
from cellsegmenter.consensus.communities import solve_graph
from cellsegmenter.consensus.graph import PixelGraph
from cellsegmenter.consensus.labels import Segmentation, label_objects, object_table
from cellsegmenter.consensus.regions import stack_regions
from cellsegmenter.consensus.resolution import (
    AbsoluteResolution,
    Method,
    Resolution,
    ResolutionError,
    choose_resolution,
    resolve,
)
from cellsegmenter.types import Instances

__all__ = ["Consensus", "build_consensus"]

# The automatic resolution looks at this many squares of this many window sizes: 100,000 px for 80-px windows.
_REGIONS = 4
_REGION_WINDOWS = 2


def build_consensus(
    instances: Instances,
    *,
    cutoff_distance: float,
    min_edge: float = 0.01,
    n_jobs: int = 1,
    max_cache_bytes: int = 2**30,
) -> Consensus:
    """Prepare the consensus of all posterior samples and windows of one image.

    Parameters
    ----------
    instances : Instances
    cutoff_distance : float
        Pixels at least this many px apart have no edge (d_c of S9): a fraction of the object size.
    min_edge : float
        Average co-membership weights below this are no edges (E_min of S9).
    n_jobs : int
        Processes for joblib; ``joblib.parallel_config`` decides what they are.
    max_cache_bytes : int
        Edges kept in memory for a second cut; what does not fit is rebuilt.

    Returns
    -------
    Consensus
        Nothing is computed yet: edges are built by the first cut.
    """
    if not cutoff_distance > 1:
        raise ValueError(
            f"cutoff_distance={cutoff_distance!r} leaves no two pixels within reach; use a fraction of the "
            "object size in px, for example half of it"
        )
    if not 0 < min_edge < 1:
        raise ValueError(f"min_edge={min_edge!r} must lie between 0 and 1, for example 0.01")
    return Consensus(_canonical(instances), cutoff_distance, min_edge, n_jobs, max_cache_bytes)


@dataclass(frozen=True)
class _Cut:
    """How to cut, apart from the resolution; see `Consensus.cut`."""

    method: Method
    min_size: int
    min_foreground: float
    random_state: int

    def __post_init__(self) -> None:
        if self.method not in ("cpm", "rb"):
            raise ValueError(f'method={self.method!r} is not known; use "cpm" or "rb"')
        if self.min_size < 1:
            raise ValueError(f"min_size={self.min_size!r} must be at least 1 px")
        if not 0 <= self.min_foreground <= 1:
            raise ValueError(
                f"min_foreground={self.min_foreground!r} is a probability; use a value between 0 and 1"
            )


class Consensus:
    """Cuts the co-membership graph of one image; made by `build_consensus`."""

    def __init__(
        self, instances: Instances, cutoff_distance: float, min_edge: float, n_jobs: int, max_cache_bytes: int
    ) -> None:
        self.instances = instances
        self.cutoff_distance = float(cutoff_distance)
        self.min_edge = float(min_edge)
        self.n_jobs = n_jobs
        self.max_cache_bytes = max_cache_bytes
        self._membership = sparse.csr_array(instances.membership)
        # Of how many of its visits a pixel was covered by objects.
        self._foreground = self._membership.sum(axis=1, dtype=float) / max(instances.n_visits, 1)
        self._graph: tuple[float, PixelGraph] | None = None

    def cut(
        self,
        resolution: Literal["auto"] | float | AbsoluteResolution = "auto",
        *,
        method: Method = "cpm",
        min_size: int = 20,
        min_foreground: float = 0.5,
        random_state: int = 0,
    ) -> Segmentation:
        """Segment the image at a resolution.

        Parameters
        ----------
        resolution : "auto", float or AbsoluteResolution
            "auto" takes the resolution at which the consensus agrees best with the single posterior samples.
            A number is a γ as published, relative to the graph of this image; a higher one gives more and
            smaller objects.  An `AbsoluteResolution` carries over from other images and crops.
        method : "cpm" or "rb"
            Constant Potts model or Reichardt-Bornholdt; both are in the paper, with similar results.
        min_size : int
            Objects of fewer pixels become background.
        min_foreground : float
            Pixels take part if they are foreground with at least this probability, Σ Π / n_visits.  The paper
            ignores background and leaves it to γ to shed it; but a γ low enough to keep uncertain cells
            whole also keeps their halo, and more-probable-than-not is what the argmax of a sample means.
            0 lets every pixel take part, as published; n and W of the published γ count the pixels that do.
        random_state : int
            Seeds the solver and the choice of regions for "auto".

        Returns
        -------
        Segmentation
            Without objects, if there are no instances.

        Raises
        ------
        ResolutionError
            If a published-style γ leaves no object where another value gives some, as happens on small
            images, because γ is relative to their size; ``suggestion`` holds the resolution that fits.
        """
        how = _Cut(method, min_size, min_foreground, random_state)
        graph = self._graph_of(min_foreground)
        if resolution == "auto":
            resolved = self._choose(how)
        else:
            resolved = resolve(resolution, method, graph.mean_weight, self.cutoff_distance)
        labels = self._labels(resolved.absolute, how)
        if resolved.chosen_by == "gamma" and not labels.any():
            self._refuse_empty(resolved, how)
        confidence, z_what = object_table(
            labels, self._membership, self.instances.z_what, self.instances.n_visits
        )
        return Segmentation(labels, resolved, confidence, z_what)

    def _graph_of(self, min_foreground: float) -> PixelGraph:
        """The graph over the pixels that are foreground often enough; the last is kept, with its edges."""
        if self._graph is None or self._graph[0] != min_foreground:
            vertices = np.flatnonzero((self._foreground >= min_foreground) & (self._foreground > 0))
            sides = self.instances.boxes[:, 2:].max(axis=1)
            object_size = float(np.median(sides)) if len(sides) else 0.0
            graph = PixelGraph(
                self._membership,
                vertices,
                width=self.instances.image_shape[1],
                n_visits=self.instances.n_visits,
                cutoff_distance=self.cutoff_distance,
                min_edge=self.min_edge,
                halo=max(2 * object_size, self.cutoff_distance),
                n_jobs=self.n_jobs,
                max_cache_bytes=self.max_cache_bytes,
            )
            self._graph = min_foreground, graph
        return self._graph[1]

    def _labels(self, absolute: float, how: _Cut) -> np.ndarray:
        """(height, width) int32 labels of a cut at γ_abs."""
        graph = self._graph_of(how.min_foreground)
        shape = self.instances.image_shape
        if not graph.mean_weight > 0:
            return np.zeros(shape, dtype=np.int32)
        # RB compares with γ s s' / 2m, where γ = γ_abs / mean weight and 2m = Σ s.
        use_strength = how.method == "rb"
        threshold = absolute / (graph.mean_weight * graph.strength.sum()) if use_strength else absolute
        community = solve_graph(graph, threshold, use_strength=use_strength, random_state=how.random_state)
        return label_objects(community, graph.pixels, shape, how.min_size)

    def _choose(self, how: _Cut) -> Resolution:
        """The resolution of best agreement, found on a few regions and stated for the whole graph."""
        mean_weight = self._graph_of(how.min_foreground).mean_weight
        if not mean_weight > 0:
            return Resolution(how.method, np.nan, np.nan, self.cutoff_distance, "auto")
        stacked = stack_regions(
            self.instances,
            n_regions=_REGIONS,
            side=_REGION_WINDOWS * self.instances.window_size,
            gap=int(np.ceil(self.cutoff_distance)),
            rng=np.random.default_rng(how.random_state),
        )
        if stacked is None:
            regions, windows = self, np.arange(len(self.instances.window_origin))
        else:
            instances, windows = stacked
            regions = Consensus(
                instances, self.cutoff_distance, self.min_edge, self.n_jobs, self.max_cache_bytes
            )
        agreement = SampleAgreement(regions.instances, windows)
        absolute, best = choose_resolution(lambda value: agreement(regions._labels(value, how)))
        resolved = resolve(AbsoluteResolution(absolute), how.method, mean_weight, self.cutoff_distance)
        return replace(resolved, chosen_by="auto", agreement=best)

    def _refuse_empty(self, resolved: Resolution, how: _Cut) -> None:
        """Raise if another resolution would give objects; otherwise the image has none."""
        fits = self._choose(how)
        if not self._labels(fits.absolute, how).any():
            return
        height, width = self.instances.image_shape
        raise ResolutionError(
            f"resolution={resolved.gamma:g} leaves no object of min_size={how.min_size} px: a published "
            f"γ is relative to the size of the graph, and on this image of {height} × {width} px it asks for "
            f"an average co-membership above {resolved.absolute:.3g}, of at most 1. Use resolution="
            f"{fits.gamma:.3g} here (absolute {fits.absolute:.3g}, which carries over to other images), or "
            'resolution="auto"',
            fits,
        )


def _canonical(instances: Instances) -> Instances:
    """The same instances in an order that does not depend on how the windows were numbered.

    Sums of floats depend on their order in the last digit, and a tie broken otherwise is another label image.
    """
    corner = instances.window_origin[instances.window]
    x, y = instances.boxes[:, 0], instances.boxes[:, 1]
    order = np.lexsort((x, y, instances.sample, corner[:, 1], corner[:, 0]))
    return replace(
        instances,
        membership=instances.membership[:, order],
        window=instances.window[order],
        sample=instances.sample[order],
        presence_prob=instances.presence_prob[order],
        boxes=instances.boxes[order],
        z_what=instances.z_what[order],
    )
