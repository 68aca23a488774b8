"""`cellseg predict` on a large image: seconds, megapixels per second, peak memory, and AP@0.5.

    python benchmarks/mosaic.py --data PATH/TO/mosaic [--model FILE] [--panels]

Runs the command line in a process of its own; writes results/mosaic.json.  The image is put together from images
of the collection that the model was trained on, so the score says how well a large image is stitched, and
nothing of images never seen.  With --panels also AP when each of its panels is segmented alone, with a diameter of
its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from cellsegmenter import CellSegmenter
from cellsegmenter.metrics import average_precision

RESULTS = Path(__file__).parent / "results"


def panels_alone(options: argparse.Namespace) -> np.ndarray:
    """The labels of the image, each panel segmented as an image of its own."""
    image = tifffile.imread(options.data / "image.tif")
    with (options.data / "tiles.csv").open() as file:
        corners = [(int(row["y0"]), int(row["x0"])) for row in csv.DictReader(file)]
    # Panels are of one size, so the second of a row or column begins where the first ends.
    height, width = (min(set(starts) - {0}) for starts in zip(*corners, strict=True))
    segmenter = CellSegmenter.load(options.model) if options.model else CellSegmenter.pretrained()
    segmenter.set_params(random_state=0)
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
    parser.add_argument("--panels", action="store_true", help="segment each panel alone, too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "labels.tif"
        command = [str(Path(sys.executable).with_name("cellseg")), "predict", str(options.data / "image.tif")]
        command += ["-o", str(output), "--table", str(Path(folder) / "cells.csv")]
        if options.model:
            command += ["--model", str(options.model)]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        labels = tifffile.imread(output)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2  # KiB on Linux
    truth = tifffile.imread(options.data / "labels.tif")
    result = {
        "megapixels": round(labels.size / 1e6, 2),
        "seconds": round(seconds, 1),
        "megapixels_per_second": round(labels.size / 1e6 / seconds, 3),
        "peak_memory_gib": round(peak, 2),
        "objects": int(labels.max()),
        "annotated": int(truth.max()),
        "ap50": round(average_precision(truth, labels), 4),
    }
    if options.panels:
        result["ap50_panels_alone"] = round(average_precision(truth, panels_alone(options)), 4)
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mosaic.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
