"""`cellseg predict` on a large image: seconds, megapixels per second, peak memory, and AP@0.5.

    python benchmarks/mosaic.py --data PATH/TO/mosaic [--model FILE]

Runs the command line in a process of its own; writes results/mosaic.json.  The image is put together from images
of the collection that the model was trained on, so the score says how well a large image is stitched, and
nothing of images never seen.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tifffile

from cellsegmenter.metrics import average_precision

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif and labels.tif")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
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
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mosaic.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
