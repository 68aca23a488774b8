"""`cellseg predict` on a large image: seconds, megapixels per second, peak memory, and AP.

    python benchmarks/mosaic.py --data PATH/TO/mosaic [--model FILE] [--recognition windows] [--jobs 2] [--panels]

Runs the command line in a process of its own; writes a row of results/mosaic.json.  The image is put together from
images of the collection that the model was trained on, so the score says how well a large image is stitched, and
nothing of images never seen.  All of it is seen at one scale.  With --panels also AP when each of its panels is
segmented alone, with a diameter of its own.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from commands import run_cellseg
from scoring import keep_row, load_model

from cellsegmenter.metrics import average_precision

RESULTS = Path(__file__).parent / "results" / "mosaic.json"


def panels_alone(options: argparse.Namespace) -> np.ndarray:
    """The labels of the image, each panel segmented as an image of its own."""
    image = tifffile.imread(options.data / "image.tif")
    with (options.data / "tiles.csv").open() as file:
        corners = [(int(row["y0"]), int(row["x0"])) for row in csv.DictReader(file)]
    # Panels are of one size, so the second of a row or column begins where the first ends.
    height, width = (min(set(starts) - {0}) for starts in zip(*corners, strict=True))
    segmenter = load_model(options.model).set_params(recognition=options.recognition)
    together = np.zeros(image.shape, np.int32)
    for top, left in corners:
        panel = np.s_[top : top + height, left : left + width]
        labels = segmenter.predict(image[panel])
        together[panel] = np.where(labels > 0, labels + together.max(), 0)
    return together


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif and labels.tif")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--recognition", default="auto", choices=("auto", "one_pass", "windows"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--panels", action="store_true", help="segment each panel alone, too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.tif"
        command = ["predict", options.data / "image.tif", "-q", "-o", output]
        command += ["--table", Path(folder) / "cells.csv", "--seed", 0]
        command += ["--recognition", options.recognition, "--jobs", options.jobs]
        if options.model:
            command += ["--model", options.model]
        cost = run_cellseg(*command)
        labels = tifffile.imread(output)
    truth = tifffile.imread(options.data / "labels.tif")
    megapixels = labels.size / 1e6
    result = {
        "megapixels": round(megapixels, 2),
        "seconds": round(cost.wall_seconds, 1),
        "cpu_seconds": round(cost.cpu_seconds, 1),
        "megapixels_per_second": round(megapixels / cost.wall_seconds, 3),
        "peak_memory_gib": round(cost.peak_mib / 1024, 2),
        "objects": int(labels.max()),
        "annotated": int(truth.max()),
        "ap50": round(average_precision(truth, labels), 4),
        "ap70": round(average_precision(truth, labels, threshold=0.7), 4),
    }
    if options.panels:
        result["ap50_panels_alone"] = round(average_precision(truth, panels_alone(options)), 4)
    keep_row(RESULTS, {"recognition": options.recognition, "jobs": options.jobs}, result)


if __name__ == "__main__":
    main()
