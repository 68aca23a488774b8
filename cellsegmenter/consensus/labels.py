"""From communities of pixels to a label image, tile by tile (Sec. 4).

A community is one object per connected part (8-neighbourhood) of at least the minimum size; smaller parts are
background.  A cell is one body: when a community comes in two, its halves hang together only through instances
whose box spans both, and two large halves are far likelier two cells than one.  Crumbs below the minimum size are
mixing probabilities that leaked, and are dropped like any other small object.

Each tile is labelled together with the ring of pixels around it; parts of two tiles that hold the same pixel are
one.  So an object that crosses tiles is whole, and its number depends on nothing but its first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from skimage import measure

from cellsegmenter.consensus.resolution import Resolution
from cellsegmenter.store import Image, Record, Store, Task, run_tasks
from cellsegmenter.windows import Tiling

__all__ = ["Segmentation", "TileParts", "label_canvas", "label_tiles", "tile_labels"]

_NOBODY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Segmentation:
    """Objects of one image; row i of the arrays is the object with label i + 1."""

    labels: Image  # (height, width) int32: 0 background, 1..n ordered by first pixel, row-major
    resolution: Resolution
    confidence: np.ndarray  # (n,) float32 in 0..1: how often and how well it was seen, see `confidence`
    z_what: np.ndarray  # (n, D) float32: mean latent code of the instances that are the object
    # (height, width) float32: in how much of its visits a pixel was covered by objects
    foreground_prob: Image
    # Holds the number of objects with a probability of 0.9; None with sliding windows.
    count_interval: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.confidence)


class TileParts(NamedTuple):
    """The objects of an image as parts in tiles."""

    start: np.ndarray  # (n_tiles + 1,) int: where the parts of each tile begin
    label: np.ndarray  # (all parts,) int32: the object that each is part of; 0 for none
    size: np.ndarray  # (n_objects,) int64 px


def label_canvas(community: np.ndarray, min_size: int) -> np.ndarray:
    """The label image of a small image of communities.

    Parameters
    ----------
    community : (height, width) int array
        0 for none.
    min_size : int
        px.

    Returns
    -------
    (height, width) int32 array; 1..n in the order of the first pixel in row-major order.
    """
    parts = measure.label(community, background=0, connectivity=2)
    large = np.bincount(parts.ravel()) >= min_size
    large[0] = False
    return number_by_first_pixel(np.where(large[parts], parts, 0).ravel()).reshape(parts.shape)


def number_by_first_pixel(flat: np.ndarray) -> np.ndarray:
    """The same objects numbered 1..n in the order of their first pixel; 0 stays 0."""
    foreground = np.flatnonzero(flat)
    values, first = np.unique(flat[foreground], return_index=True)
    number = np.zeros(int(flat.max(initial=0)) + 1, dtype=np.int32)
    number[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return number[flat]


def label_tiles(
    store: Store,
    tiling: Tiling,
    solved: dict[int, tuple[int, ...]],
    *,
    prefix: str,
    min_size: int,
    n_jobs: int | None,
) -> TileParts:
    """Number the objects of an image, and make a record of the parts in each tile.

    Parameters
    ----------
    store : Store
        Holds `{prefix}-communities-{task}`: pixels and their communities.
    tiling : Tiling
    solved : dict
        The tiles that the pixels of each of these tasks are in.
    prefix : str
        Parts become the records `{prefix}-parts-{tile}`.
    min_size : int
        px.
    n_jobs : int or None
        For joblib.
    """
    tasks = []
    for tile in range(len(tiling)):
        top, bottom, left, right = tiling.box(tile)
        near = set(tiling.overlapping(top - 1, bottom + 1, left - 1, right + 1))
        needs = tuple(f"{prefix}-communities-{task}" for task, tiles in solved.items() if near & set(tiles))
        tasks.append(Task(f"{prefix}-parts-{tile}", _parts, needs, (tiling, tile, needs)))
    run_tasks(store, tasks, n_jobs)
    found = [store.load(task.name, "size", "first", "ring_pixel", "ring_part") for task in tasks]
    start = np.cumsum([0, *(len(record["size"]) for record in found)])
    size = np.concatenate([record["size"] for record in found])
    first = np.concatenate([record["first"] for record in found])
    shared = np.unique(np.concatenate([record["ring_pixel"] for record in found]), return_inverse=True)[1]
    part = np.concatenate([record["ring_part"] + s for record, s in zip(found, start, strict=False)])
    n = int(start[-1])
    n_nodes = n + int(shared.max(initial=-1)) + 1
    links = sparse.coo_array((np.ones(len(part), np.int8), (part, shared + n)), shape=(n_nodes, n_nodes))
    whole = csgraph.connected_components(links, directed=False)[1][:n]
    n_objects = int(whole.max(initial=-1)) + 1
    total = np.bincount(whole, weights=size, minlength=n_objects).astype(np.int64)
    begins = np.full(n_objects, _NOBODY)
    np.minimum.at(begins, whole, first)
    order = np.argsort(begins)
    order = order[total[order] >= min_size]
    label = np.zeros(n_objects, dtype=np.int32)
    label[order] = np.arange(1, len(order) + 1)
    return TileParts(start, label[whole], total[order])


def _parts(store: Store, tiling: Tiling, tile: int, solved: tuple[str, ...]) -> Record:
    """Connected parts of communities in a tile, 1, 2, ..., with those that reach into the ring around it."""
    width = tiling.image_shape[1]
    top, bottom, left, right = tiling.box(tile)
    inner = (slice(1, bottom - top + 1), slice(1, right - left + 1))  # of a canvas with the ring
    canvas = np.full((bottom - top + 2, right - left + 2), _NOBODY)
    for name in solved:
        record = store.load(name)
        row, column = np.divmod(record["pixel"], width)
        row, column = row - (top - 1), column - (left - 1)
        here = (row >= 0) & (row < canvas.shape[0]) & (column >= 0) & (column < canvas.shape[1])
        # Where two squares of a large component claim a pixel, the community that begins first has it.
        np.minimum.at(canvas, (row[here], column[here]), record["community"][here])
    part = measure.label(canvas, background=_NOBODY, connectivity=2)
    n = int(part.max())
    ring = np.ones(canvas.shape, dtype=bool)
    ring[2:-2, 2:-2] = False  # the pixels around the tile, and its own beside them
    ring &= part > 0
    row, column = np.nonzero(ring)
    own = part[inner].ravel()
    first = np.full(n + 1, _NOBODY)
    occupied = np.flatnonzero(own)
    down, along = np.divmod(occupied, right - left)
    np.minimum.at(first, own[occupied], (down + top) * width + along + left)
    return {
        "part": part[inner].astype(np.int32),
        "size": np.bincount(own, minlength=n + 1)[1:],
        "first": first[1:],
        "ring_pixel": (row.astype(np.int64) + top - 1) * (width + 2) + column + left,  # in the padded image
        "ring_part": part[ring] - 1,
    }


def tile_labels(store: Store, prefix: str, tile: int, label: np.ndarray) -> np.ndarray:
    """(height, width) int32 labels of a tile, from the label (n,) of each of its parts."""
    part = store.load(f"{prefix}-parts-{tile}", "part")["part"]
    return np.concatenate([[0], label]).astype(np.int32)[part]
