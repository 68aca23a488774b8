"""Real nuclei: AP at IoU 0.5 on the 40 held-out images of BBBC038, beside the classical baseline.

    python benchmarks/nuclei.py --data PATH/TO/dsb2018 [--model FILE] [--overlays FOLDER]

Prints both rows of the table and writes results/nuclei.json.  With --overlays also one PNG per image with the
outlines of the annotation and of the prediction, the worst images first.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scoring import label_scores
from watershed import MIN_DISTANCES, score, watershed_segment

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_dsb2018
from cellsegmenter.io import write_overlay
from cellsegmenter.metrics import average_precision

RESULTS = Path(__file__).parent / "results" / "nuclei.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--overlays", type=Path, help="folder for one PNG per image, worst first")
    options = parser.parse_args()

    train, test = load_dsb2018(options.data, split="train"), load_dsb2018(options.data, split="test")
    distance = max(MIN_DISTANCES, key=lambda d: score(train, d)["ap50_mean"])
    classical = [watershed_segment(image, distance) for image in test.images]
    segmenter = CellSegmenter.load(options.model) if options.model else CellSegmenter.pretrained()
    segmenter.set_params(random_state=0)
    started = time.perf_counter()
    predicted = segmenter.predict(test.images)
    seconds = time.perf_counter() - started
    megapixels = sum(image.size for image in test.images) / 1e6
    results = {
        "otsu_watershed": label_scores(test.labels, classical),
        "cellsegmenter": label_scores(test.labels, predicted)
        | {"seconds": round(seconds, 1), "megapixels_per_second": round(megapixels / seconds, 3)},
    }
    print(json.dumps(results, indent=2))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
        scores = [average_precision(t, p) for t, p in zip(test.labels, predicted, strict=True)]
        for rank, i in enumerate(np.argsort(scores)):
            stem = f"{rank:02d}_{scores[i]:.2f}_{test.names[i][:8]}"
            write_overlay(options.overlays / f"{stem}_predicted.png", test.images[i], predicted[i])
            write_overlay(options.overlays / f"{stem}_annotated.png", test.images[i], test.labels[i])


if __name__ == "__main__":
    main()
