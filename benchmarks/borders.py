"""Objects cut in straight lines along the borders of tiles: ours, and tiles predicted apart and put side by side.

    python benchmarks/borders.py --data PATH/TO/mosaic [--model FILE] [--recognition windows]

A cut is a stretch of a border, of at least 5 px, along which an object faces another one.  Neighbours also touch along
lines where no border is, so the same is counted along as many other lines: what is above that is due to the borders.
Of sliding windows, borders of our tiles are edges of windows too, so one set of other lines has edges of windows, the
other none.  In one pass there are no windows, but the networks see blocks of 1024 px, whose borders are among ours.

The image is a region of the mosaic, repeated, at the model's scale.  Writes a row of results/borders.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from scoring import keep_row, load_model
from skimage.transform import rescale
from train_nuclei import RESOLUTION

from cellsegmenter.consensus import Consensus, ShapeConsensus, build_consensus
from cellsegmenter.consensus.membership import instances_of_record, join_instances
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.scales import scale_of
from cellsegmenter.store import MemoryStore
from cellsegmenter.windows import Tiling, make_tiling

RESULTS = Path(__file__).parent / "results" / "borders.json"
SHORTEST = 5  # px of a cut
STRIDE = 20  # px between windows of the built-in model
REGION = (slice(1040, 2080), slice(1392, 2784))  # four images of the mosaic


def cuts_along(before: np.ndarray, after: np.ndarray) -> int:
    """Stretches where the same two objects face each other, given the labels (n,) on both sides of a line."""
    pair = np.stack([before, after])
    changes = np.flatnonzero(np.any(np.diff(pair, axis=1, prepend=-1) != 0, axis=0))
    length = np.diff(np.append(changes, len(before)))
    first, second = pair[:, changes]
    return int(np.sum((first != second) & (first > 0) & (second > 0) & (length >= SHORTEST)))


def count_cuts(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> int:
    """Cuts along lines above these rows and left of these columns."""
    across = sum(cuts_along(labels[row - 1], labels[row]) for row in rows)
    return across + sum(cuts_along(labels[:, column - 1], labels[:, column]) for column in columns)


def boxes(tiling: Tiling) -> Iterator[tuple[slice, slice]]:
    for tile in range(len(tiling)):
        top, bottom, left, right = tiling.box(tile)
        yield slice(top, bottom), slice(left, right)


def in_tiles(whole: Consensus | ShapeConsensus, tile_size: int) -> tuple[Consensus | ShapeConsensus, Tiling]:
    """The same graph, worked on in other tiles."""
    if isinstance(whole, ShapeConsensus):
        store = MemoryStore()
        tiled = ShapeConsensus(whole.posterior, whole.image_shape, store, tile_size=tile_size)
        return tiled, make_tiling(whole.image_shape, window_size=1, stride=1, tile_size=tile_size)
    records = [whole.store.load(f"found-{tile}") for tile in range(len(whole.tiling))]
    found = join_instances([instances_of_record(record) for record in records])
    consensus = build_consensus(found, cutoff_distance=whole.cutoff_distance, tile_size=tile_size)
    return consensus, consensus.tiling


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--recognition", default="one_pass", choices=("one_pass", "windows"))
    parser.add_argument("--tile-size", type=int, default=256, help="px at the model's scale")
    parser.add_argument("--repeats", type=int, default=2, help="of the region, along each axis")
    options = parser.parse_args()

    region = tifffile.imread(options.data / "image.tif")[REGION]
    image = np.tile(region, (options.repeats, options.repeats)).astype(np.float32)
    segmenter = load_model(options.model)
    image = rescale(image, scale_of(estimate_diameter(region[None]), segmenter.working_diameter_), order=1)
    segmenter.set_params(diameter=None, recognition=options.recognition)

    whole = segmenter.consensus(image).graph
    undivided = np.asarray(whole.cut(RESOLUTION).labels)
    tiled, tiling = in_tiles(whole, options.tile_size)
    ours = np.asarray(tiled.cut(RESOLUTION).labels)
    apart = np.zeros(image.shape, dtype=np.int64)
    for box in boxes(tiling):
        labels = np.asarray(segmenter.consensus(image[box]).graph.cut(RESOLUTION).labels)
        apart[box] = np.where(labels > 0, labels + apart.max(), 0)

    rows, columns = tiling.rows, tiling.columns
    result = {
        "shape": list(image.shape),
        "tiles": len(tiling),
        "pixels_that_differ_from_undivided": int(np.sum(ours != undivided)),
    }
    for name, labels in (("ours", ours), ("tiles_apart", apart)):
        result[name] = {"objects": len(np.unique(labels)) - 1} | {
            where: count_cuts(labels, rows[1:-1] - shift, columns[1:-1] - shift)
            for where, shift in (
                ("at_borders", 0),
                ("at_other_windows", 3 * STRIDE),
                ("elsewhere", 3 * STRIDE + 5),
            )
        }
    keep_row(RESULTS, {"recognition": options.recognition, "tile_size": options.tile_size}, result)


if __name__ == "__main__":
    main()
