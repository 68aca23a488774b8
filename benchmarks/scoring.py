"""Scores that several benchmarks share."""

from __future__ import annotations

import copy
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import LabelledImages
from cellsegmenter.metrics import (
    Matching,
    count_error,
    counting_accuracy,
    match_objects,
    mean_average_precision,
)

__all__ = [
    "Found",
    "by_windows",
    "count_scores",
    "cpu_seconds",
    "find",
    "find_in_one_pass",
    "keep_row",
    "label_scores",
    "load_model",
    "outcomes",
]

_BATCH = 50  # images that are held in memory with all their masks
_THRESHOLDS = (0.5, 0.7)  # intersection over union


def load_model(path: Path | None) -> CellSegmenter:
    """The model of a file, or the one that ships; its random numbers are fixed."""
    segmenter = CellSegmenter.pretrained() if path is None else CellSegmenter.load(path)
    return segmenter.set_params(random_state=0)


def by_windows(segmenter: CellSegmenter) -> CellSegmenter:
    """The same fitted model, which slides windows as published."""
    return copy.copy(segmenter).set_params(recognition="windows")


def cpu_seconds() -> float:
    """CPU seconds of this process so far, and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in usage)


class Found(NamedTuple):
    """What a model finds in images that fit into a window."""

    counts: np.ndarray  # (n,)
    labels: np.ndarray  # (n, H, W)


def find(segmenter: CellSegmenter, images: np.ndarray, n_samples: int | None = None) -> Found:
    """The objects of the generative model's most probable posterior, or of one sample, of images (n, H, W)."""
    segmenter = by_windows(segmenter)
    counts, labels = [], []
    for start in range(0, len(images), _BATCH):
        posterior = segmenter.sample_posterior(images[start : start + _BATCH], n_samples=n_samples)
        counts.append(posterior.n_objects[:, 0])
        labels.append(posterior.labels[:, 0])
    return Found(np.concatenate(counts), np.concatenate(labels))


def find_in_one_pass(segmenter: CellSegmenter, images: np.ndarray) -> Found:
    """The objects that `predict` finds with the recognition network in images (n, H, W)."""
    labels = copy.copy(segmenter).set_params(recognition="one_pass").predict(images)
    return Found(labels.max(axis=(1, 2)), labels)


def count_scores(test: LabelledImages, found: Found) -> dict[str, float]:
    """Share of images counted right, mean error of the count with its sign and without, and AP@0.5 of the masks."""
    return {
        "counting_accuracy": round(counting_accuracy(test.count, found.counts), 4),
        "mean_count_error": round(float(np.mean(found.counts - test.count)), 4),
        "count_error": round(count_error(test.count, found.counts), 4),
        "ap50": round(mean_average_precision(list(test.labels), list(found.labels)), 4),
    }


def label_scores(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, float]:
    """AP at IoU 0.5 and 0.7, each as the mean over images and pooled, and the mean absolute error of the count."""
    scores: dict[str, float] = {}
    for threshold in _THRESHOLDS:
        matchings = _matchings(truth, predicted, threshold)
        name = f"ap{round(100 * threshold)}"
        scores[f"{name}_mean"] = round(float(np.mean([one.average_precision for one in matchings])), 4)
        true_positives, false_positives, false_negatives = _totals(matchings)
        every = true_positives + false_positives + false_negatives
        scores[f"{name}_pooled"] = round(true_positives / every, 4) if every else 1.0
    scores["count_error"] = round(
        count_error(*(np.array([getattr(one, n) for one in matchings]) for n in ("n_true", "n_predicted"))), 3
    )
    return scores


def outcomes(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, int]:
    """Objects of all images that are right, false or missed, at IoU 0.5."""
    return dict(zip(("tp", "fp", "fn"), _totals(_matchings(truth, predicted, 0.5)), strict=True))


def _matchings(
    truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray], threshold: float
) -> list[Matching]:
    pairs = zip(truth, predicted, strict=True)
    return [match_objects(true, found, threshold=threshold) for true, found in pairs]


def _totals(matchings: Sequence[Matching]) -> tuple[int, int, int]:
    """True positives, false positives and false negatives."""
    matched, predicted, true = (
        sum(numbers)
        for numbers in zip(*((len(one.iou), one.n_predicted, one.n_true) for one in matchings), strict=True)
    )
    return matched, predicted - matched, true - matched


def keep_row(path: Path, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    """Add a row to a JSON file of rows, in the place of an earlier one that was asked the same; and print it."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = rows if isinstance(rows, list) else []  # of an earlier version
    others = [row for row in rows if any(row.get(name) != value for name, value in asked.items())]
    row = asked | answer
    print(json.dumps(row), flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([*others, row], indent=1) + "\n")
