"""Does an object's confidence rank right objects above wrong ones, and can the number of objects be trusted?

    python benchmarks/confidence.py --data PATH/TO/dsb2018 [--model FILE]

On the 40 test images, where an object is right if it overlaps an annotated nucleus with IoU of at least 0.5.  Each way
of finding objects is measured: one pass, and sliding windows, which have no interval.  For one pass there are three
sets of objects:

- found: those of `predict`, with their confidence;
- low cut: those of a cut at a foreground of at least 0.1 instead of 0.5, with their confidence;
- candidates: what greedy suppression leaves of all candidates with a probability of at least 0.1, with that
  probability, before any sample is drawn.  Of two that overlap the more probable one has the pixel.

AUROC; expected calibration error (ECE) in ten bins of equally many objects; the share that is wrong among the surest
80 %; how many objects of some confidence are right.  Nothing is fitted here.  Of the number of objects: the share of
images whose annotated number lies in the 90 % interval of `ImageConsensus.count_interval`, and how wide that is.
Writes results/confidence.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from networks import painted
from scipy import sparse
from scipy.special import logit
from scoring import by_windows, load_model
from sklearn.metrics import roc_auc_score
from train_nuclei import WINDOWS_RESOLUTION

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import ImageCollection, load_dsb2018
from cellsegmenter.image_posterior import ImagePosterior
from cellsegmenter.recognition.sampling import OVERLAP, most_probable
from cellsegmenter.recognition.suppression import overlapping_pairs

RESULTS = Path(__file__).parent / "results" / "confidence.json"
LOWEST = 0.1
N_BINS, SUREST = 10, 0.8
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of what is counted as one confidence
LEVEL = 0.9


class Judged(NamedTuple):
    """Objects of one image."""

    confidence: np.ndarray  # (n,) in 0..1
    right: np.ndarray  # (n,) bool


def is_right(truth: np.ndarray, labels: np.ndarray, n_objects: int) -> np.ndarray:
    """(n,) whether each object overlaps an annotated one with IoU of at least 0.5."""
    shape = (n_objects + 1, int(truth.max()) + 1)
    overlap = sparse.coo_array((np.ones(labels.size), (labels.ravel(), truth.ravel())), shape=shape).toarray()
    union = overlap.sum(1)[:, None] + overlap.sum(0) - overlap
    return (overlap / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0) >= 0.5


def judged_cut(segmentation: Any, truth: np.ndarray) -> Judged:
    """The objects of a segmentation."""
    right = is_right(truth, np.asarray(segmentation.labels), len(segmentation))
    return Judged(np.asarray(segmentation.confidence, np.float64), right)


def judged_candidates(posterior: ImagePosterior, truth: np.ndarray) -> Judged:
    """The candidates that suppression leaves, down to a low probability."""
    stars, prob = posterior.shapes.stars, np.clip(posterior.probability, 1e-9, 1 - 1e-9)
    best = most_probable(logit(prob) - logit(LOWEST), overlapping_pairs(stars, OVERLAP))
    kept = np.flatnonzero(best.present)
    kept = kept[np.argsort(prob[kept], kind="stable")]
    return Judged(prob[kept], is_right(truth, painted(stars.take(kept), posterior.image_shape), len(kept)))


def quality(judged: Sequence[Judged]) -> dict[str, Any]:
    """How well confidences rank and say how many are right, over the objects of all images."""
    confidence, right = (np.concatenate(values) for values in zip(*judged, strict=True))
    order = np.argsort(-confidence, kind="stable")
    bins = np.array_split(order, N_BINS)
    gaps = [len(one) * abs(confidence[one].mean() - right[one].mean()) for one in bins if len(one)]
    surest = order[: round(SUREST * len(order))]
    return {
        "objects": len(right),
        "right": round(float(right.mean()), 3),
        "auroc": round(float(roc_auc_score(right, confidence)), 3),
        "ece": round(sum(gaps) / len(right), 3),
        "wrong_among_surest": round(1 - float(right[surest].mean()), 3),
        "by_confidence": by_confidence(right, confidence),
    }


def by_confidence(right: np.ndarray, confidence: np.ndarray) -> list[dict[str, float]]:
    """How many objects have a confidence between two edges, their mean confidence, and what share is right."""
    place = np.clip(np.searchsorted(EDGES, confidence, side="right") - 1, 0, len(EDGES) - 2)
    bins = [place == i for i in range(len(EDGES) - 1)]
    return [
        {
            "from": low,
            "to": high,
            "objects": int(here.sum()),
            "confidence": round(float(confidence[here].mean()), 3),
            "right": round(float(right[here].mean()), 3),
        }
        for low, high, here in zip(EDGES[:-1], EDGES[1:], bins, strict=True)
        if here.any()
    ]


def of_counts(counts: Sequence[int], intervals: Sequence[tuple[int, int]]) -> dict[str, float]:
    """How often intervals hold the annotated number of objects, and how wide they are."""
    true, (low, high) = np.array(counts), np.array(intervals).T
    return {
        "level": LEVEL,
        "holds_the_truth": round(float(np.mean((low <= true) & (true <= high))), 3),
        "too_low": round(float(np.mean(high < true)), 3),
        "too_high": round(float(np.mean(true < low)), 3),
        "mean_width": round(float(np.mean(high - low)), 2),
        "mean_count": round(float(true.mean()), 2),
    }


def one_pass(segmenter: CellSegmenter, test: ImageCollection) -> dict[str, Any]:
    """All that is measured of the recognition network's objects."""
    sets: dict[str, list[Judged]] = {"found": [], "low_cut": [], "candidates": []}
    counts, intervals = [], []
    for image, truth in zip(test.images, test.labels, strict=True):
        consensus = segmenter.consensus(image)
        sets["found"].append(judged_cut(consensus.cut(), truth))
        sets["low_cut"].append(judged_cut(consensus.cut(min_foreground=LOWEST), truth))
        # Samples are not looked at.
        sets["candidates"].append(judged_candidates(segmenter.sample_posterior(image, n_samples=None), truth))
        counts.append(len(np.unique(truth[truth > 0])))
        intervals.append(consensus.count_interval(LEVEL))
    return {name: quality(judged) for name, judged in sets.items()} | {"count": of_counts(counts, intervals)}


def sliding_windows(segmenter: CellSegmenter, test: ImageCollection) -> dict[str, Any]:
    """How good the confidences of the published way are."""
    cuts = (segmenter.consensus(image).cut(WINDOWS_RESOLUTION) for image in test.images)
    return {"found": quality([judged_cut(cut, truth) for cut, truth in zip(cuts, test.labels, strict=True)])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--images", type=int, help="at most; for trying this out")
    options = parser.parse_args()
    segmenter = load_model(options.model)
    test = ImageCollection(*(part[: options.images] for part in load_dsb2018(options.data, split="test")))
    result: dict[str, Any] = {"images": len(test.images)}
    if segmenter.recognition_ is not None:
        result["one_pass"] = one_pass(segmenter, test)
    result["windows"] = sliding_windows(by_windows(segmenter), test)
    print(json.dumps(result, indent=2))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
