"""Scores that several benchmarks share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import LabelledImages
from cellsegmenter.metrics import (
    count_error,
    counting_accuracy,
    mean_average_precision,
    pooled_average_precision,
)

__all__ = ["Found", "count_scores", "find", "keep_row", "label_scores"]

_BATCH = 50  # images that are held in memory with all their masks


class Found(NamedTuple):
    """What a model finds in images that fit into a window."""

    counts: np.ndarray  # (n,)
    labels: np.ndarray  # (n, H, W)


def find(segmenter: CellSegmenter, images: np.ndarray, n_samples: int | None = None) -> Found:
    """The objects of the most probable posterior, or of one sample, of images (n, H, W)."""
    counts, labels = [], []
    for start in range(0, len(images), _BATCH):
        posterior = segmenter.sample_posterior(images[start : start + _BATCH], n_samples=n_samples)
        counts.append(posterior.n_objects[:, 0])
        labels.append(posterior.labels[:, 0])
    return Found(np.concatenate(counts), np.concatenate(labels))


def count_scores(test: LabelledImages, found: Found) -> dict[str, float]:
    """Share of images counted right, mean error of the count with its sign and without, and AP@0.5 of the masks."""
    return {
        "counting_accuracy": round(counting_accuracy(test.count, found.counts), 4),
        "mean_count_error": round(float(np.mean(found.counts - test.count)), 4),
        "count_error": round(count_error(test.count, found.counts), 4),
        "ap50": round(mean_average_precision(list(test.labels), list(found.labels)), 4),
    }


def label_scores(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> dict[str, float]:
    """AP@0.5 as the mean over images and pooled, and the mean absolute error of the count."""
    count_true = np.array([len(np.unique(labels[labels > 0])) for labels in truth])
    count_pred = np.array([int(labels.max()) for labels in predicted])
    return {
        "ap50_mean": round(mean_average_precision(truth, predicted), 4),
        "ap50_pooled": round(pooled_average_precision(truth, predicted), 4),
        "count_error": round(count_error(count_true, count_pred), 3),
    }


def keep_row(path: Path, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    """Add a row to a JSON file of rows, in the place of an earlier one that was asked the same; and print it."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    others = [row for row in rows if any(row.get(name) != value for name, value in asked.items())]
    row = asked | answer
    print(json.dumps(row), flush=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([*others, row], indent=1) + "\n")
