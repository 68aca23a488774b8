"""Scores of label images against the truth: counts, and objects matched by their overlap.

Two objects match if their intersection over union (IoU) reaches the threshold.  Above 0.5 an object can match
at most one other; at lower thresholds, and at exactly 0.5, the assignment with the most matches is taken, and
among those the one with the largest total IoU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

__all__ = [
    "Matching",
    "average_precision",
    "count_error",
    "counting_accuracy",
    "match_objects",
    "mean_average_precision",
    "mean_matched_iou",
    "pooled_average_precision",
]

TOLERANCE = 1e-9  # an IoU that differs from the threshold by rounding only still reaches it


class Matching(NamedTuple):
    """Which objects of two label images are the same."""

    true: np.ndarray  # (n,) labels of the matched true objects
    predicted: np.ndarray  # (n,) labels of the predicted objects they match
    iou: np.ndarray  # (n,) float64
    n_true: int  # objects in the truth
    n_predicted: int

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN); 1 where both images are empty."""
        union = self.n_true + self.n_predicted - len(self.iou)
        return len(self.iou) / union if union else 1.0


def match_objects(labels_true: np.ndarray, labels_pred: np.ndarray, *, threshold: float = 0.5) -> Matching:
    """One-to-one matching of the objects in two label images by their IoU.

    Parameters
    ----------
    labels_true, labels_pred : ndarray of int, of the same shape
        0 is background; labels need not be consecutive.
    threshold : float in (0, 1]
        Least IoU of a match.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        If the shapes differ or the threshold is out of range.
    """
    labels_true, labels_pred = np.asarray(labels_true), np.asarray(labels_pred)
    if labels_true.shape != labels_pred.shape:
        raise ValueError(f"labels_true has shape {labels_true.shape} and labels_pred {labels_pred.shape}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} is not in (0, 1]")
    true_ids, pred_ids, iou = _overlaps(labels_true, labels_pred)
    close = iou.data >= threshold - TOLERANCE
    rows, columns, values = iou.row[close], iou.col[close], iou.data[close]
    chosen = _assign(rows, columns, values)
    return Matching(
        true_ids[rows[chosen]], pred_ids[columns[chosen]], values[chosen], len(true_ids), len(pred_ids)
    )


def average_precision(labels_true: np.ndarray, labels_pred: np.ndarray, *, threshold: float = 0.5) -> float:
    """AP = TP / (TP + FP + FN) of one image; 1 if both are empty.

    Parameters and errors as in `match_objects`.
    """
    return match_objects(labels_true, labels_pred, threshold=threshold).average_precision


def mean_average_precision(
    labels_true: Iterable[np.ndarray], labels_pred: Iterable[np.ndarray], *, threshold: float = 0.5
) -> float:
    """Mean over images of `average_precision`: every image has the same weight."""
    matchings = _match_all(labels_true, labels_pred, threshold)
    return float(np.mean([matching.average_precision for matching in matchings]))


def pooled_average_precision(
    labels_true: Iterable[np.ndarray], labels_pred: Iterable[np.ndarray], *, threshold: float = 0.5
) -> float:
    """AP of the objects of all images together: every object has the same weight."""
    matchings = _match_all(labels_true, labels_pred, threshold)
    matched = sum(len(matching.iou) for matching in matchings)
    union = sum(matching.n_true + matching.n_predicted for matching in matchings) - matched
    return matched / union if union else 1.0


def mean_matched_iou(
    labels_true: Iterable[np.ndarray], labels_pred: Iterable[np.ndarray], *, threshold: float = 0.5
) -> float:
    """Mean IoU of all matched objects of all images; nan if nothing matches."""
    matchings = _match_all(labels_true, labels_pred, threshold)
    matched = np.concatenate([matching.iou for matching in matchings])
    return float(matched.mean()) if len(matched) else float("nan")


def counting_accuracy(count_true: np.ndarray, count_pred: np.ndarray) -> float:
    """Fraction of the images whose number of objects is exactly right; both (n_images,)."""
    return float(np.mean(np.asarray(count_true) == np.asarray(count_pred)))


def count_error(count_true: np.ndarray, count_pred: np.ndarray) -> float:
    """Mean absolute error of the number of objects; both (n_images,)."""
    return float(np.mean(np.abs(np.subtract(count_true, count_pred, dtype=np.int64))))


def _match_all(
    labels_true: Iterable[np.ndarray], labels_pred: Iterable[np.ndarray], threshold: float
) -> list[Matching]:
    """The matching of every pair of images; refuses none at all and lists of different lengths."""
    pairs = zip(labels_true, labels_pred, strict=True)
    matchings = [match_objects(true, predicted, threshold=threshold) for true, predicted in pairs]
    if not matchings:
        raise ValueError("there are no images to score")
    return matchings


def _overlaps(labels_true: np.ndarray, labels_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray, coo_array]:
    """The labels of both images, ascending, and the IoU of those pairs of objects that touch."""
    true_ids, true_index = np.unique(labels_true, return_inverse=True)
    pred_ids, pred_index = np.unique(labels_pred, return_inverse=True)
    pixels = coo_array(
        (np.ones(labels_true.size), (true_index.ravel(), pred_index.ravel())),
        shape=(len(true_ids), len(pred_ids)),
    ).tocsr()  # adds up the pixels of each pair
    area_true, area_pred = pixels.sum(axis=1), pixels.sum(axis=0)
    common = pixels[true_ids != 0][:, pred_ids != 0].tocoo()
    area_true, area_pred = area_true[true_ids != 0], area_pred[pred_ids != 0]
    union = area_true[common.row] + area_pred[common.col] - common.data
    iou = coo_array((common.data / union, (common.row, common.col)), shape=common.shape)
    return true_ids[true_ids != 0], pred_ids[pred_ids != 0], iou


def _assign(rows: np.ndarray, columns: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Indices of a one-to-one choice of the pairs (row, column): the most pairs, then the largest IoU.

    Pairs without a rival are chosen at once, so that the assignment problem proper stays small.
    """
    rival = (np.bincount(rows)[rows] > 1) | (np.bincount(columns)[columns] > 1)
    contested = np.flatnonzero(rival)
    if len(contested) == 0:
        return np.arange(len(rows))
    row_ids, row = np.unique(rows[contested], return_inverse=True)
    column_ids, column = np.unique(columns[contested], return_inverse=True)
    gain = np.zeros((len(row_ids), len(column_ids)))
    gain[row, column] = 1 + iou[contested] / (2 * len(row_ids))  # all IoU together weigh less than one pair
    pair = np.full(gain.shape, -1)
    pair[row, column] = contested
    won = pair[linear_sum_assignment(gain, maximize=True)]
    return np.sort(np.concatenate([np.flatnonzero(~rival), won[won >= 0]]))
