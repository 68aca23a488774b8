"""The consensus of posterior samples that are made of the same candidate shapes (Sec. 4).

shapes → cells, the pixels that lie in the same shapes → co-membership of cells → communities at a resolution → labels

Two pixels are linked by the share of samples that put both into one object.  The pixels of a cell are alike, so the
graph of all pixels is solved on cells that weigh as much as their pixels.  No pair of pixels is left out.
Pixels are visited tile by tile; the whole image only has lists of cells, of their parts and of objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.arrangement import Arrangement, arrange, label_parts, paint
from cellsegmenter.consensus.cell_graph import CellGraph, cell_graph, co_membership
from cellsegmenter.consensus.labels import Segmentation
from cellsegmenter.consensus.resolution import (
    AbsoluteResolution,
    Method,
    Resolution,
    ResolutionError,
    Solver,
    choose_resolution,
    resolve,
)
from cellsegmenter.consensus.visible import (
    Visible,
    agreement_with_samples,
    code_shape,
    match_share,
    merge_alike,
    visible_parts,
)
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.store import Image, Store, short_hash
from cellsegmenter.validation import check_choice, check_number
from cellsegmenter.windows import TILE_SIZE, make_tiling

__all__ = ["ShapeConsensus", "ShapePosterior"]


class ShapePosterior(NamedTuple):
    """Candidate shapes of an image, and posterior samples that turn each of them on or off."""

    stars: Stars  # n candidates, px of the image
    order: np.ndarray  # (n,) int rank: where two shapes that are on overlap, the lower rank has the pixel
    present: np.ndarray  # (n, S) bool: which are on in each sample
    presence_prob: np.ndarray  # (n,) how probably each is on: what its share of the samples tends to
    z_what: np.ndarray  # (n, D) float32 latent codes


class ShapeConsensus:
    """Cuts the co-membership graph of shapes at any resolution.

    Parameters
    ----------
    posterior : ShapePosterior
    image_shape : (height, width) in px
    store : Store
        Receives all that grows with the image.  One store is for one posterior and one tile size.
    known : array-like (height, width) of bool, optional
        Where there are data; objects end where they do.  Read when sliced.
    tile_size : int
        px; decides how the work is divided, and nothing of the result.
    n_jobs : int or None
        For joblib.
    progress : bool
        Show bars.

    Raises
    ------
    ValueError
        If the arrays of the posterior differ in length, or there are shapes but no samples.
    """

    def __init__(
        self,
        posterior: ShapePosterior,
        image_shape: tuple[int, int],
        store: Store,
        *,
        known: Any = None,
        tile_size: int = TILE_SIZE,
        n_jobs: int | None = 1,
        progress: bool = False,
    ) -> None:
        _check_posterior(posterior)
        self.posterior = posterior
        self.image_shape = (int(image_shape[0]), int(image_shape[1]))
        self.store = store
        self.known = known
        self.n_jobs = n_jobs
        self.progress = progress
        self._tiling = make_tiling(self.image_shape, window_size=1, stride=1, tile_size=tile_size)
        self._graph: CellGraph | None = None
        self._foreground: Image | None = None

    def n_objects(self, min_size: int) -> np.ndarray:
        """(S,) int array: objects of each sample, of which at least `min_size` px are visible."""
        large = self._visible.cells @ self._arrangement.size >= max(1, min_size)
        return self._visible.samples @ large.astype(np.int64)

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
        """Segment the image at a resolution; a second cut only solves the graph and writes labels.

        Parameters
        ----------
        resolution : "auto", float or AbsoluteResolution
            "auto" takes the resolution at which the consensus agrees best with the samples.  A number is a γ as
            published, relative to the graph of this image; a higher one gives more and smaller objects.  An
            `AbsoluteResolution` carries over from other images.
        method : "cpm" or "rb"
            Constant Potts model or Reichardt-Bornholdt.
        min_size : int
            px; smaller objects become background.
        min_foreground : float
            Pixels take part if at least this share of the samples covers them.
        random_state : int
            Seeds the solver.
        solver : "igraph" or "leidenalg"
            Both are the Leiden algorithm and agree up to ties.  leidenalg is the published one, and some ten times
            slower.

        Returns
        -------
        Segmentation
            Without objects, if there are no shapes.  The cut-off distance of its resolution is infinite, because
            pixels are linked at any distance.

        Raises
        ------
        ResolutionError
            If a published-style γ leaves no object where another value gives some; ``suggestion`` holds the
            resolution that fits.
        """
        check_choice("solver", solver, ("igraph", "leidenalg"))
        how = replace(_checked(method, min_size, min_foreground, random_state), solver=solver)
        if isinstance(resolution, str) and resolution == "auto":
            resolved = self._automatic(how)
        else:
            resolved = resolve(resolution, method, self._graph_of(how).mean_weight, np.inf)
        segmentation = self._segment(resolved, how)
        if resolved.chosen_by == "gamma" and not len(segmentation):
            fitting = self._segment(self._automatic(how), how)
            if len(fitting):
                raise ResolutionError.of_empty(resolved, fitting.resolution, self.image_shape)
        return segmentation

    def automatic_resolution(
        self,
        *,
        method: Method = "cpm",
        min_size: int = 20,
        min_foreground: float = 0.5,
        random_state: int = 0,
    ) -> Resolution:
        """The resolution that `cut` takes for "auto", without a cut; parameters are those of `cut`."""
        return self._automatic(_checked(method, min_size, min_foreground, random_state))

    def sample_agreement(self) -> Callable[[Image], float]:
        """How well label images (height, width) agree with the samples, 0..1 (NMI)."""
        return self._agreement_of_image

    def foreground(self) -> Image:
        """(height, width) float32: the share of samples in which a pixel is covered."""
        if self._foreground is None:
            covered = self._visible.cells.T @ self._visible.times / max(self._visible.n_samples, 1)
            of_part = covered[self._arrangement.part_cell].astype(np.float32)
            self._foreground = self._write("foreground", of_part)
        return self._foreground

    @property
    def _arrangement(self) -> Arrangement:
        return self._cells[0]

    @property
    def _visible(self) -> Visible:
        return self._cells[1]

    @cached_property
    def _cells(self) -> tuple[Arrangement, Visible]:
        """The cells that some sample tells apart."""
        arrangement, covering = arrange(
            self.store,
            self._tiling,
            self.posterior.stars,
            np.any(self.posterior.present, axis=1),
            n_jobs=self.n_jobs,
            progress="cells" if self.progress else None,
        )
        visible = visible_parts(covering, self.posterior.order, self.posterior.present)
        visible, number = merge_alike(visible)
        return arrangement.merged(number), visible

    @cached_property
    def _co_membership(self) -> sparse.csr_array:
        return co_membership(self._visible)

    def _graph_of(self, how: _Cut) -> CellGraph:
        """The graph of the pixels that are foreground often enough; the last one is kept."""
        if self._graph is None or self._graph.min_foreground != how.min_foreground:
            n_samples = self._visible.n_samples
            size, together = self._arrangement.size, self._co_membership
            self._graph = cell_graph(size, together, n_samples, how.min_foreground)
        return self._graph

    def _automatic(self, how: _Cut) -> Resolution:
        """The resolution of best agreement; found once."""
        graph = self._graph_of(how)
        if not len(graph.cells):
            return Resolution(how.method, np.nan, np.nan, np.inf, "auto")
        name = f"cut-{short_hash('auto', how)}-resolution"
        if not self.store.has(name):
            best = choose_resolution(lambda absolute: self._agreement_at(absolute, how))
            self.store.save(name, {"best": np.array(best)})
        absolute, agreement = self.store.load(name)["best"].tolist()
        return Resolution(how.method, absolute, np.nan, np.inf, "auto", agreement)

    def _agreement_at(self, absolute: float, how: _Cut) -> float:
        label = self._part_labels(absolute, how)
        labels = self._pixels_of_labels(label)
        label_size = labels.sum(axis=0)
        label_size[0] += np.prod(self.image_shape) - label_size.sum()
        return agreement_with_samples(self._visible, self._arrangement.size, labels, label_size)

    def _agreement_of_image(self, labels: Image) -> float:
        """The agreement of a label image with the samples."""
        if tuple(labels.shape) != self.image_shape:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; this image has {self.image_shape}")
        arrangement = self._arrangement
        tiles = []
        for tile, place in self._tiles():
            cell_of = np.concatenate([[0], arrangement.in_tile(tile, arrangement.part_cell) + 1])
            part = paint(self.store, self._tiling, tile, np.arange(1, len(cell_of)))
            part, label, pixels = _count_pairs(part, labels[place])
            tiles.append(np.stack([cell_of[part], label, pixels]))
        cell, label, pixels = np.concatenate(tiles, axis=1)
        shape = (len(arrangement.size) + 1, int(label.max()) + 1)
        with_uncovered = sparse.csr_array((pixels, (cell, label)), shape=shape)
        return agreement_with_samples(
            self._visible, arrangement.size, with_uncovered[1:], with_uncovered.sum(axis=0)
        )

    def _segment(self, resolved: Resolution, how: _Cut) -> Segmentation:
        """Cut at γ_abs, and complete what the resolution says of the published γ."""
        name = f"cut-{short_hash(resolved.absolute, how)}"
        if resolved.chosen_by != "gamma":
            mean_weight = self._graph_of(how).mean_weight
            gamma = resolved.absolute / mean_weight if mean_weight > 0 else np.nan
            resolved = replace(resolved, gamma=gamma)
        labels = self.store.image(f"{name}-labels")
        if labels is None or not self.store.has(f"{name}-objects"):
            label = self._part_labels(resolved.absolute, how)
            labels = self._write(f"{name}-labels", label)
            self.store.save(f"{name}-objects", self._object_table(label))
        objects = self.store.load(f"{name}-objects")
        return Segmentation(labels, resolved, objects["confidence"], objects["z_what"], self.foreground())

    def _part_labels(self, absolute: float, how: _Cut) -> np.ndarray:
        """(n_parts,) int32 label of each part of a cell, of the cut at γ_abs."""
        community = np.full(len(self._arrangement.size), -1)
        if np.isfinite(absolute):
            graph = self._graph_of(how)
            community[graph.cells] = graph.communities(absolute, how.method, how.random_state, how.solver)
        return label_parts(self._arrangement, community, how.min_size)

    def _pixels_of_labels(self, label: np.ndarray) -> sparse.csr_array:
        """(n_cells, n_labels) int64 pixels of each cell with each label, given the label of each part."""
        arrangement = self._arrangement
        shape = (len(arrangement.size), int(label.max(initial=0)) + 1)
        return sparse.csr_array((arrangement.part_size, (arrangement.part_cell, label)), shape=shape)

    def _object_table(self, label: np.ndarray) -> dict[str, np.ndarray]:
        """Confidence and latent code of each object, given the label of each part."""
        objects = self._pixels_of_labels(label)[:, 1:]
        confidence = match_share(self._visible, self._arrangement.size, objects, self.posterior.presence_prob)
        z_what = self.posterior.z_what[code_shape(self._visible, objects)]
        return {"confidence": confidence.astype(np.float32), "z_what": z_what.astype(np.float32)}

    def _write(self, name: str, values: np.ndarray) -> Image:
        """An image of the value (n_parts,) of each part."""
        image = self.store.new_image(name, self.image_shape, values.dtype)
        for tile, place in self._tiles():
            painted = paint(self.store, self._tiling, tile, self._arrangement.in_tile(tile, values))
            image[place] = painted if self.known is None else painted * self.known[place]
        return image

    def _tiles(self) -> list[tuple[int, Any]]:
        """The tiles, and the slices of the image that they are."""
        boxes = [self._tiling.box(tile) for tile in range(len(self._tiling))]
        return [(tile, np.s_[box[0] : box[1], box[2] : box[3]]) for tile, box in enumerate(boxes)]


@dataclass(frozen=True)
class _Cut:
    """How to cut, apart from the resolution; see `ShapeConsensus.cut`."""

    method: Method
    min_size: int
    min_foreground: float
    random_state: int
    solver: Solver = "igraph"


def _checked(method: Method, min_size: int, min_foreground: float, random_state: int) -> _Cut:
    check_choice("method", method, ("cpm", "rb"))
    check_number("min_size", min_size, low=1, integer=True)
    check_number("min_foreground", min_foreground, low=0, high=1)
    return _Cut(method, int(min_size), float(min_foreground), random_state)


def _count_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs of values of two images, and in how many pixels each occurs."""
    shape = (int(first.max()) + 1, int(second.max()) + 1)
    ones = np.ones(first.size, np.int64)
    counts = sparse.coo_array(sparse.csr_array((ones, (first.ravel(), second.ravel())), shape=shape))
    return *counts.coords, counts.data


def _check_posterior(posterior: ShapePosterior) -> None:
    lengths = [len(posterior.stars.centre), *(len(part) for part in posterior[1:])]
    if len(set(lengths)) > 1:
        raise ValueError(
            "stars, order, present, presence_prob and z_what must be of the same number of candidates, but have "
            f"{', '.join(map(str, lengths))}"
        )
    if lengths[0] and not posterior.present.shape[1]:
        raise ValueError(
            "present has no samples; give an array (candidates, samples) with at least one sample"
        )
