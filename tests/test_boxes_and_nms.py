"""Boxes stay where the paper puts them, overlaps are areas, and parallel suppression is greedy suppression."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import greedy_suppression, mean_in_box, overlap_of_two, random_boxes

from cellsegmenter.model.boxes import BoxCode, intersection_over_minimum, intersection_over_union
from cellsegmenter.model.nms import non_maximum_suppression, select_best
from cellsegmenter.model.proposals import shared_coins
from cellsegmenter.model.residual import box_mean, residual_rank
from cellsegmenter.types import Boxes

seeds = st.integers(0, 2**32 - 1)


def rows(boxes: Boxes) -> list[tuple[float, ...]]:
    """Boxes (N,) as a list of (x, y, width, height)."""
    return [tuple(row) for row in torch.stack(boxes, -1).tolist()]


def scene(seed: int, n_boxes: int, canvas: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, G), some of them tied, and overlaps (2, G, G) of two windows with random boxes."""
    boxes = random_boxes((2, n_boxes), canvas, seed)
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 2 * n_boxes, (2, n_boxes), generator=generator) / n_boxes
    return score, intersection_over_minimum(boxes, boxes)


# Box codes (Suppl. S2)


def test_box_code_follows_the_formula():
    code = BoxCode((6.0, 20.0), spacing=8, reach=0.5, initial_side=10.0)
    torch.manual_seed(0)
    torch.nn.init.normal_(code.bias)
    torch.nn.init.normal_(code.weight)
    v = torch.randn(1, 6, 4)
    boxes = code(v, (2, 3))
    for point, box in enumerate(rows(Boxes(*(side[0] for side in boxes)))):
        t = torch.sigmoid(code.bias + code.weight @ v[0, point]).tolist()
        row, column = divmod(point, 3)
        expected = 8 * (column + t[0]), 8 * (row + t[1]), 6 + 14 * t[2], 6 + 14 * t[3]
        assert box == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(seed=seeds, spread=st.floats(0, 100), reach=st.sampled_from([0.5, 1.0]))
def test_boxes_keep_their_sizes_and_stay_near_their_cell(seed, spread, reach):
    code = BoxCode((6.0, 20.0), spacing=8, reach=reach, initial_side=10.0)
    v = spread * torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(seed))
    boxes = code(v, (3, 4))
    cell = torch.arange(12)
    for side in (boxes.width, boxes.height):
        assert side.min() >= 6 - 1e-4
        assert side.max() <= 20 + 1e-4
    assert ((boxes.x / 8 - (cell % 4 + 0.5)).abs() <= reach + 1e-5).all()
    assert ((boxes.y / 8 - (cell // 4 + 0.5)).abs() <= reach + 1e-5).all()


def test_boxes_start_in_the_middle_of_their_cell_with_the_initial_side():
    boxes = BoxCode((6.0, 20.0), spacing=8, reach=1.0, initial_side=10.0)(torch.zeros(1, 4, 4), (2, 2))
    np.testing.assert_allclose(boxes.x.detach(), [[4, 12, 4, 12]], rtol=1e-5)
    np.testing.assert_allclose(boxes.y.detach(), [[4, 4, 12, 12]], rtol=1e-5)
    np.testing.assert_allclose(boxes.width.detach(), 10, rtol=1e-5)
    np.testing.assert_allclose(boxes.height.detach(), 10, rtol=1e-5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_cells_that_draw_the_same_box_share_the_coin_of_the_most_probable(seed):
    boxes = random_boxes((2, 12), 32, seed)
    prob, uniform = torch.rand(2, 2, 12, generator=torch.Generator().manual_seed(seed))
    coins = shared_coins(uniform, prob, boxes)
    likeness = intersection_over_union(boxes, boxes)
    for window in range(len(prob)):
        for cell in range(12):
            twins = [j for j in range(12) if likeness[window, cell, j] > 0.5]
            leader = max(twins, key=lambda j: float(prob[window, j]))
            assert coins[window, cell] == uniform[window, leader]


def test_take_follows_each_windows_own_index():
    boxes = random_boxes((2, 5), 32)
    taken = boxes.take(torch.tensor([[4, 0], [1, 1]]))
    assert taken.y.tolist() == [[boxes.y[0, 4], boxes.y[0, 0]], [boxes.y[1, 1], boxes.y[1, 1]]]


# Overlaps


@pytest.mark.parametrize(
    ("function", "over"), [(intersection_over_minimum, "minimum"), (intersection_over_union, "union")]
)
def test_overlaps_equal_those_of_each_pair(function, over):
    a, b = random_boxes((7,), 20, seed=1), random_boxes((4,), 20, seed=2)
    expected = [[overlap_of_two(one, other, over=over) for other in rows(b)] for one in rows(a)]
    np.testing.assert_allclose(function(a, b), expected, atol=1e-5)
    assert np.count_nonzero(expected) > 5


@settings(deadline=None)
@given(seed=seeds)
def test_iou_never_exceeds_intersection_over_minimum(seed):
    boxes = random_boxes((12,), 24, seed)
    union, minimum = intersection_over_union(boxes, boxes), intersection_over_minimum(boxes, boxes)
    assert (union <= minimum + 1e-5).all()
    assert (minimum <= 1 + 1e-5).all()
    assert (union >= 0).all()
    assert torch.equal(minimum, minimum.mT)
    np.testing.assert_allclose(union.diagonal(), 1, rtol=1e-5)


def test_a_box_inside_another_overlaps_fully_over_the_minimum_only():
    large, small = (torch.tensor([side]) for side in (8.0, 4.0))
    centre = torch.tensor([10.0])
    outer, inner = Boxes(centre, centre, large, large), Boxes(centre, centre, small, small)
    assert intersection_over_minimum(outer, inner).item() == pytest.approx(1)
    assert intersection_over_union(outer, inner).item() == pytest.approx(0.25)


# Suppression (Eq. 10, Suppl. S5)


@settings(deadline=None)
@given(seed=seeds, n_boxes=st.integers(1, 30), threshold=st.floats(0, 1))
def test_parallel_suppression_is_greedy_suppression(seed, n_boxes, threshold):
    score, overlap = scene(seed, n_boxes)
    kept = non_maximum_suppression(score, overlap, threshold)
    for b in range(2):
        greedy = greedy_suppression(score[b].numpy(), overlap[b].numpy(), threshold)
        assert np.flatnonzero(kept[b]).tolist() == sorted(greedy)


@settings(deadline=None)
@given(seed=seeds, threshold=st.floats(0, 1))
def test_no_two_kept_boxes_overlap_above_the_threshold(seed, threshold):
    score, overlap = scene(seed, 25)
    kept = non_maximum_suppression(score, overlap, threshold)
    pairs = (kept.unsqueeze(-1) & kept.unsqueeze(-2)) & ~torch.eye(25, dtype=torch.bool)
    assert (overlap[pairs] <= threshold).all()
    assert kept.any(-1).all()


@settings(deadline=None)
@given(seed=seeds, threshold=st.floats(0, 1))
def test_suppression_is_idempotent(seed, threshold):
    score, overlap = scene(seed, 25)
    for b in range(2):
        kept = (
            non_maximum_suppression(score[b : b + 1], overlap[b : b + 1], threshold)[0].nonzero().squeeze(1)
        )
        survivors = overlap[b][kept][:, kept].unsqueeze(0)
        assert non_maximum_suppression(score[b, kept].unsqueeze(0), survivors, threshold).all()


def test_a_long_chain_of_overlaps_alternates():
    """Each box blocks the next one only: the rounds have to run to the end of the chain."""
    n = 40
    overlap = torch.eye(n) + torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    kept = non_maximum_suppression(-torch.arange(n).float().unsqueeze(0), overlap.unsqueeze(0), 0.5)
    assert kept[0].tolist() == [True, False] * (n // 2)


@settings(deadline=None)
@given(seed=seeds, max_objects=st.integers(1, 40))
def test_the_best_slots_hold_no_suppressed_box(seed, max_objects):
    score, overlap = scene(seed, 25)
    score = score + torch.rand(score.shape, generator=torch.Generator().manual_seed(seed)) * 1e-3  # no ties
    selection = select_best(score, overlap, 0.3, max_objects)
    assert selection.grid_index.shape == (2, min(max_objects, 25))
    for b in range(2):
        greedy = greedy_suppression(score[b].numpy(), overlap[b].numpy(), 0.3)
        assert selection.grid_index[b][selection.valid[b]].tolist() == greedy[:max_objects]
        assert np.flatnonzero(~selection.suppressed[b]).tolist() == sorted(greedy)
        assert len(set(selection.grid_index[b].tolist())) == selection.grid_index.shape[1]


# Mean residual in boxes (the warm-up of Sec. 3)


def test_box_mean_equals_the_mean_of_the_pixels():
    boxes = random_boxes((1, 20), 16, seed=3)
    boxes = Boxes(*(side + 1e-3 for side in boxes))  # no edge exactly between two pixels
    field = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = [mean_in_box(field[0].numpy(), box) for box in rows(Boxes(*(side[0] for side in boxes)))]
    np.testing.assert_allclose(box_mean(field, boxes)[0], expected, rtol=1e-4)


def test_the_box_that_the_background_explains_worst_ranks_highest():
    side = torch.full((1, 3), 6.0)
    boxes = Boxes(torch.tensor([[4.0, 12.0, 12.0]]), torch.tensor([[4.0, 4.0, 12.0]]), side, side)
    image = torch.zeros(1, 1, 16, 16)
    image[..., :8, 8:] = 1
    image[..., 8:, 8:] = 0.5
    rank = residual_rank(image, torch.zeros_like(image), boxes)
    assert rank[0].tolist() == pytest.approx([1 / 3, 1, 2 / 3])
