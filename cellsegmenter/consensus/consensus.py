"""The front of the consensus stage: posterior samples in, segmentations at any resolution out (Sec. 4).

instances → foreground pixels → edges → communities at a resolution → labels, confidence, latent codes

All of it is done tile by tile from records in a store, which is memory for a small image and a folder for a large
one; nothing but short lists of components and objects is ever held for the whole image.  The result does not
depend on the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cellsegmenter.consensus.agreement import SampleAgreement
from cellsegmenter.consensus.automatic import best_resolution, spread_agreement
from cellsegmenter.consensus.contraction import MERGE_TOLERANCE
from cellsegmenter.consensus.edges import MIN_EDGE, Visits, visits_of
from cellsegmenter.consensus.graph import EdgeRule
from cellsegmenter.consensus.labels import Segmentation, TileParts, label_tiles, tile_labels
from cellsegmenter.consensus.membership import (
    foreground_prob,
    found_record,
    gather_pixels,
    load_pixels,
    split_instances,
)
from cellsegmenter.consensus.objects import object_table
from cellsegmenter.consensus.resolution import (
    AbsoluteResolution,
    Method,
    Resolution,
    ResolutionError,
    Solver,
    resolve,
)
from cellsegmenter.consensus.work import GraphWork
from cellsegmenter.store import Image, MemoryStore, Store, short_hash
from cellsegmenter.types import Instances
from cellsegmenter.windows import TILE_SIZE, Tiling, make_tiling

__all__ = ["Consensus", "build_consensus"]


def build_consensus(
    instances: Instances,
    *,
    cutoff_distance: float,
    min_edge: float = MIN_EDGE,
    merge_tolerance: float = MERGE_TOLERANCE,
    n_jobs: int | None = 1,
    tile_size: int = TILE_SIZE,
) -> Consensus:
    """Prepare the consensus of all posterior samples and windows of one image, in memory.

    Parameters
    ----------
    instances : Instances
    cutoff_distance : float
        Pixels at least this many px apart have no edge (d_c of S9): a fraction of the object size.
    min_edge : float
        Average co-membership weights below this are no edges (E_min of S9).
    merge_tolerance : float
        Neighbouring pixels whose rows of Π differ by no more than this fraction are solved as one; 0 solves every
        pixel alone, as published, and takes several times as long in dense tissue.  See `contraction`.
    n_jobs : int or None
        Processes for joblib; ``joblib.parallel_config`` decides what they are.
    tile_size : int
        px; decides how the work is divided, and nothing of the result.

    Returns
    -------
    Consensus
        Nothing is computed yet: edges are built by the first cut.
    """
    tiling = make_tiling(instances.image_shape, instances.window_size, instances.window_size, tile_size)
    store = MemoryStore()
    for tile, part in enumerate(split_instances(instances, tiling)):
        store.save(f"found-{tile}", found_record(part))
    return Consensus(
        store,
        tiling,
        visits=visits_of(instances),
        cutoff_distance=cutoff_distance,
        min_edge=min_edge,
        merge_tolerance=merge_tolerance,
        n_jobs=n_jobs,
    )


@dataclass(frozen=True)
class _Cut:
    """How to cut, apart from the resolution; see `Consensus.cut`."""

    method: Method
    min_size: int
    min_foreground: float
    random_state: int
    solver: Solver = "igraph"

    def __post_init__(self) -> None:
        if self.solver not in ("igraph", "leidenalg"):
            raise ValueError(f'solver={self.solver!r} is not known; use "igraph" or "leidenalg"')
        if self.method not in ("cpm", "rb"):
            raise ValueError(f'method={self.method!r} is not known; use "cpm" or "rb"')
        if self.min_size < 1:
            raise ValueError(f"min_size={self.min_size!r} must be at least 1 px")
        if not 0 <= self.min_foreground <= 1:
            raise ValueError(
                f"min_foreground={self.min_foreground!r} is a probability; use a value between 0 and 1"
            )


class Consensus:
    """Cuts the co-membership graph of one image.

    Parameters
    ----------
    store : Store
        Holds `found-t`, the instances in the windows of each tile; see `found_record`.
    tiling : Tiling
    visits : Visits
    cutoff_distance, min_edge, merge_tolerance : float
        See `build_consensus`.
    n_jobs : int or None
        For joblib.
    progress : bool
        Show bars.
    """

    def __init__(
        self,
        store: Store,
        tiling: Tiling,
        *,
        visits: Visits,
        cutoff_distance: float,
        min_edge: float = MIN_EDGE,
        merge_tolerance: float = MERGE_TOLERANCE,
        n_jobs: int | None = 1,
        progress: bool = False,
    ) -> None:
        if not cutoff_distance > 1:
            raise ValueError(
                f"cutoff_distance={cutoff_distance!r} leaves no two pixels within reach; use a fraction of the "
                "object size in px, for example half of it"
            )
        if not 0 < min_edge < 1:
            raise ValueError(f"min_edge={min_edge!r} must lie between 0 and 1, for example 0.01")
        if not 0 <= merge_tolerance < 1:
            raise ValueError(
                f"merge_tolerance={merge_tolerance!r} must be at least 0 (merge nothing) and below 1; "
                f"use {MERGE_TOLERANCE}"
            )
        self.store = store
        self.tiling = tiling
        self.rule = EdgeRule(float(cutoff_distance), float(min_edge), visits, float(merge_tolerance))
        self.n_jobs = n_jobs
        self.progress = progress
        self._work: GraphWork | None = None
        self._foreground: Image | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.tiling.image_shape

    @property
    def cutoff_distance(self) -> float:
        return self.rule.cutoff_distance

    def cut(
        self,
        resolution: Literal["auto"] | float | AbsoluteResolution = "auto",
        *,
        method: Method = "cpm",
        min_size: int = 20,
        min_foreground: float = 0.5,
        random_state: int = 0,
        solver: Solver = "igraph",
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
        solver : "igraph" or "leidenalg"
            Both are the Leiden algorithm and agree up to ties.  leidenalg is the published one, and some ten times
            slower.

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
        how = _Cut(method, min_size, min_foreground, random_state, solver)
        if resolution == "auto":
            resolved = self._automatic(how)
        else:
            # Only a γ relative to the graph needs the weight of all of it before anything is solved.
            mean_weight = (
                np.nan if isinstance(resolution, AbsoluteResolution) else self._work_of(how).mean_weight
            )
            resolved = resolve(resolution, method, mean_weight, self.cutoff_distance)
        segmentation = self._segment(resolved, how)
        if resolved.chosen_by == "gamma" and not len(segmentation):
            self._refuse_empty(resolved, how)
        return segmentation

    def automatic_resolution(
        self,
        *,
        method: Method = "cpm",
        min_size: int = 20,
        min_foreground: float = 0.5,
        random_state: int = 0,
    ) -> Resolution:
        """The resolution that `cut` takes for "auto", without a cut; its published γ is nan.

        Parameters are those of `cut`.
        """
        return self._automatic(_Cut(method, min_size, min_foreground, random_state))

    def foreground(self) -> Image:
        """Per-pixel probability of being covered by an object, Σ Π / n_visits, (height, width) float32."""
        if self._foreground is not None:
            return self._foreground
        gather_pixels(self.store, self.tiling, self.n_jobs)
        image = self._foreground = self.store.new_image("foreground", self.image_shape, np.float32)
        for tile in range(len(self.tiling)):
            top, bottom, left, right = self.tiling.box(tile)
            prob = foreground_prob(load_pixels(self.store, tile).membership, self.rule.n_visits)
            image[top:bottom, left:right] = prob.reshape(bottom - top, right - left)
        return image

    def weight(self, min_foreground: float = 0.5) -> tuple[float, int]:
        """2W and n of the graph, to which a published γ is relative: the weights of all edges, counted from both ends,
        and the number of pixels.
        """
        work = self._work_of(_Cut("cpm", 1, min_foreground, 0))
        return (work.total_weight, work.n_pixels) if work.n_pixels else (0.0, 0)

    def sample_agreement(self) -> SampleAgreement:
        """How well label images (height, width) agree with single posterior samples; of images that fit in memory."""
        return spread_agreement(self.store, self.tiling)

    def _work_of(self, how: _Cut) -> GraphWork:
        """The graph over the pixels that are foreground often enough; the last one is kept."""
        if self._work is None or self._work.min_foreground != how.min_foreground:
            self._work = GraphWork(
                self.store,
                self.tiling,
                self.rule,
                how.min_foreground,
                n_jobs=self.n_jobs,
                progress=self.progress,
            )
        return self._work

    def _segment(self, resolved: Resolution, how: _Cut) -> Segmentation:
        """Cut at γ_abs, and complete what the resolution says of the published γ."""
        work = self._work_of(how)
        name = f"cut-{short_hash(resolved.absolute, how)}"
        finished = self._finished(name, resolved)
        if finished is not None:
            return finished
        solved: dict[int, tuple[int, ...]] = {}
        if np.isfinite(resolved.absolute):
            objective = work.objective(resolved.absolute, how.method, how.solver)
            work.solve(name, objective, how.random_state)
            solved = {task: share.tiles for task, share in work.shares.items()}
        if resolved.chosen_by != "gamma":
            weight = work.mean_weight
            resolved = replace(resolved, gamma=resolved.absolute / weight if weight > 0 else np.nan)
        parts = label_tiles(
            self.store, self.tiling, solved, prefix=name, min_size=how.min_size, n_jobs=self.n_jobs
        )
        confidence, z_what = object_table(
            self.store, self.tiling, parts, prefix=name, visits=self.rule.visits, n_jobs=self.n_jobs
        )
        labels = self._write_labels(name, parts)
        objects = {"confidence": confidence, "z_what": z_what, "gamma": np.array(resolved.gamma)}
        self.store.save(f"{name}-objects", objects)
        for prefix, numbers in (("communities", solved), ("parts", range(len(self.tiling)))):
            for number in numbers:
                self.store.discard(f"{name}-{prefix}-{number}")
        return Segmentation(labels, resolved, confidence, z_what, self.foreground())

    def _finished(self, name: str, resolved: Resolution) -> Segmentation | None:
        """The segmentation, if the store has kept it from another cut like this."""
        labels = self.store.image(f"{name}-labels")
        if labels is None or not self.store.has(f"{name}-objects"):
            return None
        objects = self.store.load(f"{name}-objects")
        resolved = replace(resolved, gamma=float(objects["gamma"]))
        return Segmentation(labels, resolved, objects["confidence"], objects["z_what"], self.foreground())

    def _write_labels(self, name: str, parts: TileParts) -> Image:
        labels = self.store.new_image(f"{name}-labels", self.image_shape, np.int32)
        for tile in range(len(self.tiling)):
            top, bottom, left, right = self.tiling.box(tile)
            label = parts.label[parts.start[tile] : parts.start[tile + 1]]
            labels[top:bottom, left:right] = tile_labels(self.store, name, tile, label)
        return labels

    def _automatic(self, how: _Cut) -> Resolution:
        """The resolution of best agreement; found once."""
        if not self._work_of(how).n_pixels:
            return Resolution(how.method, np.nan, np.nan, self.cutoff_distance, "auto")
        name = f"cut-{short_hash('auto', how)}-resolution"
        if not self.store.has(name):
            best = best_resolution(
                self.store,
                self.tiling,
                self.rule,
                method=how.method,
                min_size=how.min_size,
                min_foreground=how.min_foreground,
                random_state=how.random_state,
                solver=how.solver,
            )
            self.store.save(name, {"best": np.array(best)})
        absolute, agreement = self.store.load(name)["best"].tolist()
        return Resolution(how.method, absolute, np.nan, self.cutoff_distance, "auto", agreement)

    def _refuse_empty(self, resolved: Resolution, how: _Cut) -> None:
        """Raise if another resolution would give objects; otherwise the image has none."""
        fitting = self._segment(self._automatic(how), how)
        if not len(fitting):
            return
        raise ResolutionError.of_empty(resolved, fitting.resolution, self.image_shape)
