"""Π on its way through a store: by instance as inference finds it, then by pixel as the graph needs it.

Inference works through tiles of windows, and what it finds in one tile reaches into the next (`found-3`).  Here
the rows of Π are gathered by tiles of pixels (`pixels-3`): all that any window says about them.  Instances keep
a number that is unique in the image, their tile of windows and their place in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.types import CERTAIN, Instances
from cellsegmenter.windows import Tiling

__all__ = [
    "PixelRows",
    "canonical",
    "foreground_prob",
    "found_record",
    "gather_pixels",
    "instances_of_record",
    "join_instances",
    "load_pixels",
    "split_instances",
    "split_number",
]

_TILE_SHIFT = 32  # bits: an instance's number is its tile of windows and, below these, its place


class PixelRows(NamedTuple):
    """Π for all pixels of one tile."""

    membership: sparse.csr_array  # (pixels of the tile, m) int32, in 255ths; row-major within the tile
    instance: np.ndarray  # (m,) int64: unique numbers of the instances, ascending
    crosses: np.ndarray  # (m,) bool: whether the instance has pixels in other tiles too
    box: tuple[
        int, int, int, int
    ]  # of the tile: first row, one past the last, first column, one past the last

    def flat(self, row: np.ndarray, width: int) -> np.ndarray:
        """The flat pixels of the image (of that width) that rows of the membership are about."""
        top, _, left, right = self.box
        down, along = np.divmod(row, right - left)
        return (down + top).astype(np.int64) * width + along + left


def found_record(instances: Instances) -> Record:
    """Instances as arrays, to be stored."""
    membership = instances.membership
    return {
        "pixel": membership.indices,
        "weight": membership.data,
        "n_pixels": np.diff(membership.indptr),
        "mass": membership.sum(axis=0, dtype=np.int64),
        "window": instances.window,
        "sample": instances.sample,
        "presence_prob": instances.presence_prob,
        "boxes": instances.boxes,
        "z_what": instances.z_what,
        "window_origin": instances.window_origin,
        "shape": np.array(
            [*instances.image_shape, instances.n_visits, instances.window_size, instances.n_samples]
        ),
    }


def instances_of_record(record: Record) -> Instances:
    """The inverse of `found_record`."""
    height, width, n_visits, window_size, n_samples = (int(n) for n in record["shape"])
    n_pixels = record["n_pixels"]
    indptr = np.concatenate([[0], np.cumsum(n_pixels)])
    return Instances(
        membership=sparse.csc_array(
            (record["weight"], record["pixel"], indptr), shape=(height * width, len(n_pixels))
        ),
        image_shape=(height, width),
        n_visits=n_visits,
        window_size=window_size,
        n_samples=n_samples,
        window=record["window"],
        sample=record["sample"],
        presence_prob=record["presence_prob"],
        boxes=record["boxes"],
        z_what=record["z_what"],
        window_origin=record["window_origin"],
    )


def join_instances(parts: list[Instances]) -> Instances:
    """What several tiles of windows hold, as one."""
    offsets = np.cumsum([0, *(len(part.window_origin) for part in parts)])
    windows = [part.window + offset for part, offset in zip(parts, offsets, strict=False)]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return replace(
        parts[0],
        membership=sparse.csc_array(sparse.hstack([part.membership for part in parts], format="csc")),
        window=np.concatenate(windows),
        sample=joined("sample"),
        presence_prob=joined("presence_prob"),
        boxes=joined("boxes"),
        z_what=joined("z_what"),
        window_origin=joined("window_origin"),
    )


def split_instances(instances: Instances, tiling: Tiling) -> list[Instances]:
    """The instances of the windows of each tile."""
    tile = tiling.tile_of(instances.window_origin)
    place = np.empty(len(tile), dtype=np.int32)
    parts = []
    for number in range(len(tiling)):
        windows = np.flatnonzero(tile == number)
        place[windows] = np.arange(len(windows))
        part = _take(instances, np.flatnonzero(tile[instances.window] == number))
        parts.append(replace(part, window=place[part.window], window_origin=instances.window_origin[windows]))
    return parts


def canonical(instances: Instances) -> Instances:
    """The same instances in an order that does not depend on how windows were numbered: ties are broken by it."""
    corner = instances.window_origin[instances.window]
    x, y = instances.boxes[:, 0], instances.boxes[:, 1]
    return _take(instances, np.lexsort((x, y, instances.sample, corner[:, 1], corner[:, 0])))


def _take(instances: Instances, index: np.ndarray) -> Instances:
    return replace(
        instances,
        membership=instances.membership[:, index],
        **{
            name: getattr(instances, name)[index]
            for name in ("window", "sample", "presence_prob", "boxes", "z_what")
        },
    )


def gather_pixels(store: Store, tiling: Tiling, n_jobs: int | None = 1) -> None:
    """Make `pixels-t` for every tile from all `found-t`."""
    tasks = []
    for tile in range(len(tiling)):
        sources = tiling.sources(tile)
        needs = tuple(f"found-{source}" for source in sources)
        tasks.append(Task(f"pixels-{tile}", _gather, needs, (tiling, tile, sources)))
    run_tasks(store, tasks, n_jobs)


def _gather(store: Store, tiling: Tiling, tile: int, sources: list[int]) -> Record:
    top, bottom, left, right = tiling.box(tile)
    rows, columns, weights, instances, crosses = [], [], [], [], []
    n_columns = 0
    for source in sources:
        found = store.load(f"found-{source}", "pixel", "weight", "n_pixels")
        row, column = np.divmod(found["pixel"], tiling.image_shape[1])
        inside = np.flatnonzero((row >= top) & (row < bottom) & (column >= left) & (column < right))
        n_pixels = found["n_pixels"]
        owner = np.repeat(np.arange(len(n_pixels), dtype=np.int32), n_pixels)[inside]
        n_inside = np.bincount(owner, minlength=len(n_pixels))
        here = np.flatnonzero(n_inside)
        place = np.zeros(len(n_pixels), dtype=np.int32)
        place[here] = np.arange(n_columns, n_columns + len(here))
        n_columns += len(here)
        rows.append(((row[inside] - top) * (right - left) + column[inside] - left).astype(np.int32))
        columns.append(place[owner])
        weights.append(found["weight"][inside])
        instances.append((np.int64(source) << _TILE_SHIFT) + here)
        crosses.append(n_inside[here] < n_pixels[here])
    where = (np.concatenate(rows), np.concatenate(columns))
    shape = ((bottom - top) * (right - left), n_columns)
    membership = sparse.csr_array((np.concatenate(weights), where), shape=shape)
    return {
        "indptr": membership.indptr.astype(np.int32),
        "column": membership.indices.astype(np.int32),
        "weight": membership.data,
        "instance": np.concatenate(instances),
        "crosses": np.concatenate(crosses),
        "box": np.array([top, bottom, left, right]),
    }


def load_pixels(store: Store, tile: int) -> PixelRows:
    """The rows of Π of a tile of pixels, as whole numbers that sums cannot overflow."""
    record = store.load(f"pixels-{tile}")
    top, bottom, left, right = (int(edge) for edge in record["box"])
    shape = ((bottom - top) * (right - left), len(record["instance"]))
    weights = record["weight"].astype(np.int32)
    membership = sparse.csr_array((weights, record["column"], record["indptr"]), shape=shape)
    return PixelRows(membership, record["instance"], record["crosses"], (top, bottom, left, right))


def split_number(instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tile of windows and place in it, of instances by their unique number."""
    return instance >> _TILE_SHIFT, instance & (2**_TILE_SHIFT - 1)


def foreground_prob(membership: sparse.csr_array, n_visits: int) -> np.ndarray:
    """(n,) float32 probability that a pixel is covered by an object: in how much of its visits it was."""
    return (membership.sum(axis=1) / (CERTAIN * max(n_visits, 1))).astype(np.float32)
