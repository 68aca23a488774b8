"""Connected components of the graph across tiles, from Π alone, and who solves which of them.

Two pixels can have an edge only if some instance covers both, so the components of the bipartite graph pixel -
instance bound those of the pixel graph.  Each tile finds its own; an instance with pixels in several tiles ties
theirs together.  Not a single edge is needed for it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from cellsegmenter.consensus.contraction import CELL
from cellsegmenter.consensus.membership import load_pixels
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.windows import Tiling

__all__ = ["Components", "Share", "find_components", "local_components", "shares"]


class Components(NamedTuple):
    """The components of a whole image, c of them."""

    tile_start: np.ndarray  # (n_tiles + 1,) int: where the local components of each tile begin
    number: np.ndarray  # (all local components,) int: the component of the image that each is part of
    size: np.ndarray  # (c,) int64 px
    first: np.ndarray  # (c,) int64: flat index of the first pixel
    low: np.ndarray  # (c, 2) int64: first row and column
    high: np.ndarray  # (c, 2) int64: last row and column

    @property
    def n_pixels(self) -> int:
        """Vertices of the graph."""
        return int(self.size.sum())


class Share(NamedTuple):
    """The part of the graph that one task solves: whole components, and squares of very large ones."""

    tiles: tuple[int, ...]  # whose pixels it needs
    # for each of these tiles: component of its local components, -1: not needed
    number: tuple[np.ndarray, ...]
    squares: np.ndarray  # (k, 5): component; first row and column, and where the next square begins, px


def find_components(
    store: Store, tiling: Tiling, *, min_weight: float, prefix: str, n_jobs: int | None
) -> Components:
    """Components of the graph over pixels whose Π, in 255ths, sums up to at least `min_weight`."""
    tasks = [
        Task(f"{prefix}-{t}", _summary, (f"pixels-{t}",), (t, min_weight, tiling.image_shape[1]))
        for t in range(len(tiling))
    ]
    run_tasks(store, tasks, n_jobs)
    found = [store.load(task.name) for task in tasks]
    for task in tasks:
        store.discard(task.name)
    start = np.cumsum([0, *(len(record["size"]) for record in found)])
    instance = np.concatenate([record["instance"] for record in found])
    node = np.concatenate([record["component"] + s for record, s in zip(found, start, strict=False)])
    _, instance = np.unique(instance, return_inverse=True)
    n_nodes, n_instances = int(start[-1]), int(instance.max(initial=-1)) + 1
    links = sparse.coo_array(
        (np.ones(len(node), np.int8), (node, instance + n_nodes)), shape=(n_nodes + n_instances,) * 2
    )
    number = csgraph.connected_components(links, directed=False)[1][:n_nodes]
    n = int(number.max(initial=-1)) + 1

    def merged(name: str, reduce: np.ufunc, initial: int) -> np.ndarray:
        values = np.concatenate([record[name] for record in found])
        result = np.full((n, *values.shape[1:]), initial, dtype=np.int64)
        reduce.at(result, number, values)
        return result

    most = np.iinfo(np.int64).max
    return Components(
        start, number,
        merged("size", np.add, 0), merged("first", np.minimum, most),
        merged("low", np.minimum, most), merged("high", np.maximum, -1),
    )  # fmt: skip


def local_components(membership: sparse.csr_array, min_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """The vertices in a tile, as rows of its Π (ascending), and the local component of each."""
    foreground = membership.sum(axis=1)
    vertices = np.flatnonzero((foreground >= min_weight) & (foreground > 0))
    chosen = membership[vertices]
    n_pixels, n_instances = chosen.shape
    indptr = np.concatenate([chosen.indptr, np.full(n_instances, chosen.indptr[-1])])
    bipartite = sparse.csr_array(
        (chosen.data, chosen.indices + n_pixels, indptr), shape=(n_pixels + n_instances,) * 2
    )
    component = csgraph.connected_components(bipartite, directed=False)[1][:n_pixels]
    return vertices, np.unique(component, return_inverse=True)[1].astype(np.int32)


def _summary(store: Store, tile: int, min_weight: float, width: int) -> Record:
    """Extent of the local components of a tile, and the instances that tie them to those of other tiles."""
    rows = load_pixels(store, tile)
    vertices, component = local_components(rows.membership, min_weight)
    flat = rows.flat(vertices, width)
    n = int(component.max(initial=-1)) + 1
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, component, flat)
    position = np.stack(np.divmod(flat, width), axis=1)
    low, high = np.full((n, 2), np.iinfo(np.int64).max), np.full((n, 2), -1)
    np.minimum.at(low, component, position)
    np.maximum.at(high, component, position)
    chosen = rows.membership[vertices]
    owner = np.repeat(component, np.diff(chosen.indptr))
    # All vertices under an instance are in one component, so any of them tells it.
    of_instance = np.full(len(rows.instance), -1, dtype=np.int64)
    of_instance[chosen.indices] = owner
    ties = np.flatnonzero(rows.crosses & (of_instance >= 0))
    return {
        "size": np.bincount(component, minlength=n),
        "first": first,
        "low": low,
        "high": high,
        "instance": rows.instance[ties],
        "component": of_instance[ties],
    }


def shares(components: Components, tiling: Tiling, *, halo: int, largest: int) -> dict[int, Share]:
    """What the task of each tile solves.

    Components belong to the tile of their first pixel.  Those of more than `largest` pixels are cut into squares
    with a halo, at places that do not depend on the tiles, and a square belongs to the tile of its first pixel.

    Parameters
    ----------
    components : Components
    tiling : Tiling
    halo : int
        px, a multiple of `CELL`.
    largest : int
        A square and its halo have about this many pixels.
    """
    width = tiling.image_shape[1]
    is_large = components.size > largest
    owner = tiling.tile_of(np.stack(np.divmod(components.first, width), axis=1))
    owner[is_large] = -1
    needed: defaultdict[int, defaultdict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    members: defaultdict[int, dict[int, np.ndarray]] = defaultdict(dict)  # of large components, by tile
    for tile in range(len(tiling)):
        number = components.number[components.tile_start[tile] : components.tile_start[tile + 1]]
        owners = owner[number]
        for task in np.unique(owners[owners >= 0]):
            needed[int(task)][tile].append(np.where(owners == task, number, -1))
        for component in np.unique(number[is_large[number]]):
            members[int(component)][tile] = np.where(number == component, component, -1)
    squares: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for component in np.flatnonzero(is_large):
        for task, square, tiles in _squares(components, int(component), tiling, halo, largest):
            squares[task].append(square)
            for tile in tiles:
                if tile in members[int(component)]:
                    needed[task][tile].append(members[int(component)][tile])
    return {
        task: Share(
            tuple(sorted(by_tile)),
            tuple(np.maximum.reduce(by_tile[tile]) for tile in sorted(by_tile)),
            np.array(squares[task], dtype=float).reshape(-1, 5),
        )
        for task, by_tile in sorted(needed.items())
    }


def _squares(
    components: Components, component: int, tiling: Tiling, halo: int, largest: int
) -> list[tuple[int, np.ndarray, list[int]]]:
    """The squares that cover a component: task, (component, box), and the tiles that it and its halo touch."""
    # Whole cells, so that pixels are merged alike wherever they are seen.
    side = CELL * round(max(np.sqrt(largest) - 2 * halo, 2 * halo, CELL) / CELL)
    low, high = components.low[component], components.high[component]
    first, last = (low // side).astype(int), (high // side).astype(int)
    found = []
    for i in range(first[0], last[0] + 1):
        for j in range(first[1], last[1] + 1):
            corner, end = np.array([i, j]) * side, np.array([i + 1, j + 1]) * side
            task = int(tiling.tile_of(np.ceil(np.maximum(corner, low)))[0])
            tiles = tiling.overlapping(corner[0] - halo, end[0] + halo, corner[1] - halo, end[1] + halo)
            found.append((task, np.array([component, *corner, *end]), tiles))
    return found
