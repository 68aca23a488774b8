"""Real nuclei: AP on the 40 held-out images of BBBC038, of both ways of the model, beside baseline and ceiling.

    python benchmarks/nuclei.py --data PATH/TO/dsb2018 [--model FILE] [--labels] [--overlays FOLDER]

Rows: Otsu's threshold and a watershed, whose seeds' distance is chosen on the training images; the model by sliding
windows; the model in one pass, the product.  With --labels also the ceiling: the same recognition network, trained by
the same steps with all human labels of the training images.  Its threshold is chosen on 57 of them (every fifth from
the fourth), by a network that did not see these; then it is trained anew on all.

Prints the table and writes results/nuclei.json.  CPU seconds are those of segmenting, one thread.  With --overlays also
one PNG per image with the outlines of the annotation and of the prediction, the worst images first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from scoring import by_windows, cpu_seconds, label_scores, load_model
from train_nuclei import WINDOWS_RESOLUTION
from watershed import MIN_DISTANCES, score, watershed_segment

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import ImageCollection, load_dsb2018
from cellsegmenter.io import write_overlay
from cellsegmenter.metrics import average_precision
from cellsegmenter.recognition.fitted import FittedModel

RESULTS = Path(__file__).parent / "results" / "nuclei.json"

Labels = list[np.ndarray]


def measure(test: ImageCollection, segment: Callable[[], Labels]) -> tuple[Labels, dict[str, Any]]:
    """The label images of some way to segment the test images, and its scores and costs."""
    started = cpu_seconds()
    labels = segment()
    spent = cpu_seconds() - started
    megapixels = sum(image.size for image in test.images) / 1e6
    return labels, label_scores(test.labels, labels) | {
        "cpu_seconds_per_megapixel": round(spent / megapixels, 3)
    }


def ceiling(
    segmenter: CellSegmenter, train: ImageCollection, n_steps: int, seed: int
) -> tuple[FittedModel, dict[str, Any]]:
    """The network that human labels train, and how its threshold was chosen."""
    images = [networks.prepared(segmenter, image) for image in train.images]
    pairs = zip(images, train.labels, strict=True)
    labelled = [networks.at_working_scale(image, labels) for image, labels in pairs]
    model = networks.wake_model(segmenter)
    chosen = networks.choosing_images(len(images))
    partly = networks.train_network(model, [[labelled[i] for i in np.flatnonzero(~chosen)]], n_steps, seed)
    aside = np.flatnonzero(chosen)
    truth = [train.labels[i] for i in aside]
    found = networks.labels_above(
        networks.wake_model(segmenter, partly), [images[i] for i in aside], networks.THRESHOLDS
    )
    threshold, best = networks.best_threshold(truth, found)
    network = networks.train_network(model, [labelled], n_steps, seed)
    how = {"threshold": threshold, "steps": n_steps, "choosing_images": label_scores(truth, best)}
    return networks.wake_model(segmenter, network), how


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--labels", action="store_true", help="train the ceiling, too")
    parser.add_argument("--label-steps", type=int, default=1400, help="of the ceiling's training")
    parser.add_argument("--seed", type=int, default=0, help="of the ceiling's training")
    parser.add_argument("--overlays", type=Path, help="folder for one PNG per image, worst first")
    parser.add_argument("--images", type=int, help="of each part at most; for trying this out")
    options = parser.parse_args()
    torch.set_num_threads(1)

    train, test = (
        first(load_dsb2018(options.data, split=part), options.images) for part in ("train", "test")
    )
    segmenter = load_model(options.model)
    distance = max(MIN_DISTANCES, key=lambda d: score(train, d)["ap50_mean"])
    results: dict[str, Any] = {}
    _, results["otsu_watershed"] = measure(
        test, lambda: [watershed_segment(image, distance) for image in test.images]
    )
    windows = by_windows(segmenter)
    predicted, results["windows"] = measure(test, lambda: windows.predict(test.images, WINDOWS_RESOLUTION))
    if segmenter.recognition_ is not None:
        predicted, results["one_pass"] = measure(test, lambda: segmenter.predict(test.images))
    if options.labels:
        model, how = ceiling(segmenter, train, options.label_steps, options.seed)
        threshold = how["threshold"]

        def segment() -> Labels:
            images = [networks.prepared(segmenter, image) for image in test.images]
            return networks.labels_above(model, images, [threshold])[threshold]

        results["human_labels"] = measure(test, segment)[1] | how
    print(json.dumps(results, indent=2))
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {"human_labels": before["human_labels"]} if "human_labels" in before else {}
    RESULTS.write_text(json.dumps(kept | results, indent=2) + "\n")
    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
        scores = [average_precision(t, p) for t, p in zip(test.labels, predicted, strict=True)]
        for rank, i in enumerate(np.argsort(scores)):
            stem = f"{rank:02d}_{scores[i]:.2f}_{test.names[i][:8]}"
            write_overlay(options.overlays / f"{stem}_predicted.png", test.images[i], predicted[i])
            write_overlay(options.overlays / f"{stem}_annotated.png", test.images[i], test.labels[i])


def first(collection: ImageCollection, n_images: int | None) -> ImageCollection:
    """The first images of a collection; all by default."""
    return ImageCollection(*(part[:n_images] for part in collection))


if __name__ == "__main__":
    main()
