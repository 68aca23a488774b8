"""What goes wrong on nuclei, on every fifth training image: what is missed, what another diameter or γ would change.

    python benchmarks/nuclei_errors.py --data PATH/TO/dsb2018 [--model FILE] [--recognition windows]

The held-out images stay out of it, as what is learnt here may choose the next recipe.  Writes
results/nuclei_errors.json with

- the annotated objects that no found one matches, and the found ones that match none, by kind;
- AP with 0.8, 1 and 1.25 times the estimated diameter, and of the three for each image with that at which the model is
  surest, and with the best by its annotation;
- for the densest images the γ that "auto" takes, its AP, and the AP of fixed ones.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scoring import label_scores, load_model
from skimage.segmentation import relabel_sequential
from train_nuclei import RESOLUTION, WINDOWS_RESOLUTION

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import load_dsb2018
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.metrics import average_precision, match_objects

RESULTS = Path(__file__).parent / "results" / "nuclei_errors.json"
FACTORS = (0.8, 1.0, 1.25)
GAMMAS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
DENSEST = 6


def _shared_pixels(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pixels that each two labels share, background included."""
    shared = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(shared, (rows.ravel(), columns.ravel()), 1)
    return shared


def _kinds_missed(shared: np.ndarray, matched: np.ndarray) -> Counter[str]:
    """Why each annotated object (row) is missed that is not among the matched labels."""
    area = shared.sum(1)
    covered = shared[:, 1:] / area[:, None]  # of an annotated object, by each found one
    holds = (covered[1:] > 0.5).sum(0)  # annotated objects that are mostly in a found one
    kinds: Counter[str] = Counter()
    for row in np.setdiff1d(np.arange(1, len(shared)), matched):
        most = covered[row].max(initial=0)
        if area[row] < np.median(area[1:]) / 3:
            kinds["a crumb, below a third of the median area"] += 1
        elif most < 0.2:
            kinds["not seen"] += 1
        elif most < 0.5:
            kinds["cut"] += 1
        elif holds[covered[row].argmax()] > 1:
            kinds["shares a mask"] += 1
        else:
            kinds["its outline is too far off"] += 1
    return kinds


def _kinds_false(shared: np.ndarray, matched: np.ndarray) -> Counter[str]:
    """What each found object (column) is that is not among the matched labels."""
    area, found = shared.sum(1), shared.sum(0)
    kinds: Counter[str] = Counter()
    for column in np.setdiff1d(np.arange(1, shared.shape[1]), matched):
        inside = shared[1:, column]
        if shared[0, column] > 0.8 * found[column]:
            kinds["nothing is there"] += 1
        elif (inside / area[1:] > 0.5).sum() > 1:
            kinds["more than one"] += 1
        elif inside.max(initial=0) > 0.6 * found[column]:
            kinds["part of one"] += 1
        else:
            kinds["its outline is too far off"] += 1
    return kinds


def kinds_of_errors(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, Any]:
    """Matched, missed and false objects at IoU 0.5; the last two by kind."""
    n_matched, missed, false = 0, Counter[str](), Counter[str]()
    for true, found in zip(truth, predicted, strict=True):
        matching = match_objects(true, found)
        n_matched += len(matching.iou)
        shared = _shared_pixels(true, found)
        missed += _kinds_missed(shared, matching.true)
        false += _kinds_false(shared, matching.predicted)
    return {
        "matched": n_matched,
        "missed": dict(missed.most_common()),
        "false": dict(false.most_common()),
    }


def by_diameter(
    segmenter: CellSegmenter, images: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Scores with several multiples of the estimated diameter, and with each image's surest, or best, of them."""
    estimates = [estimate_diameter(image[None]) for image in images]
    found = {
        factor: [
            segmenter.consensus(image, diameter=factor * diameter).cut()
            for image, diameter in zip(images, estimates, strict=True)
        ]
        for factor in FACTORS
    }
    chosen = {
        "surest of these, by the mean confidence": lambda i, one: one.confidence.mean() if len(one) else 0.0,
        "best of these, by the annotation": lambda i, one: average_precision(truth[i], one.labels),
    }
    scores = {str(factor): label_scores(truth, [one.labels for one in its]) for factor, its in found.items()}
    for name, merit in chosen.items():
        taken = [
            max((its[i] for its in found.values()), key=partial(merit, i)).labels for i in range(len(images))
        ]
        scores[name] = label_scores(truth, taken)
    return scores


def by_gamma(segmenter: CellSegmenter, image: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The γ_abs that "auto" takes in one image, and AP with it and with fixed ones."""
    consensus = segmenter.consensus(image)
    automatic = consensus.cut("auto")
    return {
        "annotated": len(np.unique(truth)) - 1,
        "auto": round(automatic.resolution.absolute, 3),
        "ap50_auto": round(average_precision(truth, automatic.labels), 4),
        "ap50": {
            str(gamma): round(average_precision(truth, consensus.cut(AbsoluteResolution(gamma)).labels), 4)
            for gamma in GAMMAS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--recognition", default="auto", choices=("auto", "one_pass", "windows"))
    parser.add_argument("--images", type=int, help="at most; for trying this out")
    options = parser.parse_args()

    train = load_dsb2018(options.data, split="train")
    images = train.images[3::5][: options.images]
    truth = [relabel_sequential(labels)[0] for labels in train.labels[3::5][: options.images]]
    segmenter = load_model(options.model).set_params(recognition=options.recognition)
    one_pass = options.recognition != "windows" and segmenter.recognition_ is not None
    segmenter.set_params(resolution=RESOLUTION if one_pass else WINDOWS_RESOLUTION)
    densest = sorted(range(len(images)), key=lambda i: -truth[i].max())[:DENSEST]
    results = {
        "images": len(images),
        "annotated": int(sum(labels.max() for labels in truth)),
        "errors": kinds_of_errors(truth, segmenter.predict(images)),
        "by_diameter": by_diameter(segmenter, images, truth),
        "by_gamma_densest": [by_gamma(segmenter, images[i], truth[i]) for i in densest],
    }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
