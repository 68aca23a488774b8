import itertools

import numpy as np
import pytest

from cellsegmenter import metrics


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


def _best_matching(true, predicted, threshold):
    """Number of pairs and total IoU of the best one-to-one matching, by trying all."""
    a, b = np.unique(true[true > 0]), np.unique(predicted[predicted > 0])
    best = (0, 0.0)
    slots = [*b, *[None] * len(a)]
    for choice in itertools.permutations(slots, len(a)):
        values = [_iou(true == i, predicted == j) for i, j in zip(a, choice, strict=True) if j is not None]
        values = [value for value in values if value >= threshold]
        best = max(best, (len(values), sum(values)))
    return best


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_matching_equals_exhaustive_search(threshold):
    rng = np.random.default_rng(0)
    for _ in range(30):
        true = np.repeat(np.sort(rng.integers(0, 4, size=8)), 3)
        predicted = np.repeat(np.sort(rng.integers(0, 4, size=12)), 2)
        matching = metrics.match_objects(true, predicted, threshold=threshold)
        n_pairs, total = _best_matching(true, predicted, threshold)
        assert len(matching.iou) == n_pairs
        assert matching.iou.sum() == pytest.approx(total)
        assert len(set(matching.true)) == len(set(matching.predicted)) == n_pairs
        for i, j, iou in zip(matching.true, matching.predicted, matching.iou, strict=True):
            assert iou == pytest.approx(_iou(true == i, predicted == j))


def test_average_precision_by_hand():
    true = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3]])
    predicted = np.array([[7, 7, 7, 0, 0, 5, 9, 9, 0]])  # 7 ~ 1 (3/4); 5 ~ 2 (1/2); 9 and 3 alone
    assert metrics.average_precision(true, predicted, threshold=0.5) == pytest.approx(2 / 4)
    assert metrics.average_precision(true, predicted, threshold=0.6) == pytest.approx(1 / 5)
    assert metrics.average_precision(true, true) == 1.0
    matching = metrics.match_objects(true, predicted, threshold=0.5)
    assert dict(zip(matching.true, matching.predicted, strict=True)) == {1: 7, 2: 5}


def test_an_object_split_into_equal_halves_matches_once_at_one_half():
    assert metrics.average_precision(np.array([1, 1]), np.array([1, 2])) == pytest.approx(1 / 2)


def test_empty_images():
    empty, one = np.zeros((4, 4), int), np.eye(4, dtype=int)
    assert metrics.average_precision(empty, empty) == 1.0
    assert metrics.average_precision(one, empty) == 0.0
    assert metrics.average_precision(empty, one) == 0.0
    assert metrics.pooled_average_precision([empty], [empty]) == 1.0
    assert np.isnan(metrics.mean_matched_iou([one], [empty]))


def test_mean_weighs_images_and_pooled_weighs_objects():
    true = [np.arange(1, 10), np.array([1])]
    predicted = [np.arange(1, 10), np.array([0])]
    assert metrics.mean_average_precision(true, predicted) == pytest.approx(0.5)
    assert metrics.pooled_average_precision(true, predicted) == pytest.approx(0.9)
    assert metrics.mean_matched_iou(true, predicted) == 1.0


def test_counts():
    assert metrics.counting_accuracy([2, 3, 4], [2, 3, 6]) == pytest.approx(2 / 3)
    assert metrics.count_error(np.array([2, 3], np.uint8), np.array([3, 2], np.uint8)) == 1.0


def test_refusals():
    with pytest.raises(ValueError, match="shape"):
        metrics.average_precision(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="threshold=0"):
        metrics.match_objects(np.zeros(2), np.zeros(2), threshold=0)
    with pytest.raises(ValueError, match="no images"):
        metrics.mean_average_precision([], [])
