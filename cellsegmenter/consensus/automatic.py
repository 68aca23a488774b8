"""The resolution at which the consensus agrees best with the single posterior samples, from a few regions (S9)."""

from __future__ import annotations

import numpy as np

from cellsegmenter.consensus.agreement import SampleAgreement
from cellsegmenter.consensus.communities import solve_graph
from cellsegmenter.consensus.graph import EdgeRule
from cellsegmenter.consensus.labels import label_canvas
from cellsegmenter.consensus.membership import canonical, found_record, instances_of_record, join_instances
from cellsegmenter.consensus.regions import draw_squares, stack_regions
from cellsegmenter.consensus.resolution import Method, Solver, choose_resolution
from cellsegmenter.consensus.work import GraphWork, all_boxes
from cellsegmenter.store import MemoryStore, Store
from cellsegmenter.types import Instances
from cellsegmenter.windows import Tiling

__all__ = ["best_resolution", "spread_agreement"]

# How many squares are looked at, and their side in windows: 100,000 px for 80-px windows.
_REGIONS = 4
_REGION_WINDOWS = 2
_N_WINDOWS = 24  # to compare with in a sweep


def best_resolution(
    store: Store,
    tiling: Tiling,
    rule: EdgeRule,
    *,
    method: Method,
    min_size: int,
    min_foreground: float,
    random_state: int,
    solver: Solver = "igraph",
) -> tuple[float, float]:
    """γ_abs of the best agreement, and the agreement.

    Parameters are those of `Consensus.cut`; the store holds the instances of the image.
    """
    # Whole strides, so that the windows of all squares stand on one lattice.
    gap = rule.visits.stride * int(np.ceil(rule.cutoff_distance / rule.visits.stride))
    instances, windows = _regions(store, tiling, gap, np.random.default_rng(random_state))
    agreement = SampleAgreement(instances, windows)
    small = MemoryStore({"found-0": found_record(instances)})
    height, width = instances.image_shape
    alone = Tiling((height, width), np.array([0, height]), np.array([0, width]), instances.window_size)
    work = GraphWork(small, alone, rule, min_foreground, n_jobs=1)
    graph = work.pieces()

    def labels(absolute: float) -> np.ndarray:
        canvas = np.zeros(height * width, dtype=np.int64)
        objective = work.objective(absolute, method, solver)
        for pieces in graph:
            pixel, community = solve_graph(pieces, objective, random_state=random_state)
            canvas[pixel] = community + 1
        return label_canvas(canvas.reshape(height, width), min_size)

    return choose_resolution(lambda absolute: agreement(labels(absolute)))


def spread_agreement(store: Store, tiling: Tiling) -> SampleAgreement:
    """The agreement with the samples of windows evenly spread over an image, complete ones if there are any."""
    found = [instances_of_record(store.load(f"found-{tile}")) for tile in range(len(tiling))]
    instances = canonical(join_instances(found))
    corner = instances.window_origin
    complete = np.all((corner >= 0) & (corner + instances.window_size <= tiling.image_shape), axis=1)
    candidates = np.flatnonzero(complete) if complete.any() else np.arange(len(corner))
    spread = np.unique(np.linspace(0, len(candidates) - 1, _N_WINDOWS).astype(int))
    return SampleAgreement(instances, candidates[spread])


def _regions(
    store: Store, tiling: Tiling, gap: int, rng: np.random.Generator
) -> tuple[Instances, np.ndarray]:
    """A few squares of the image, or all of a small one, and the windows that lie in them."""
    side = _REGION_WINDOWS * tiling.window_size
    boxes = all_boxes(store, tiling)
    corners = draw_squares(boxes, tiling.image_shape, n_regions=_REGIONS, side=side, rng=rng)
    tiles = set(range(len(tiling)))
    if corners is not None:
        near = [tiling.overlapping(row, row + side, column, column + side) for row, column in corners]
        tiles = {source for touched in near for tile in touched for source in tiling.sources(tile)}
    found = [instances_of_record(store.load(f"found-{tile}")) for tile in sorted(tiles)]
    instances = canonical(join_instances(found))
    if corners is None:
        return instances, np.arange(len(instances.window_origin))
    return stack_regions(instances, corners, side=side, gap=gap)
