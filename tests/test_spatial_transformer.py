"""Crop and paste are the bilinear sampling of `grid_sample`, and each other's inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import crop_by_grid_sample, paste_by_grid_sample, random_boxes
from torch import Tensor

from cellsegmenter.model.spatial_transformer import crop, paste, paste_sum
from cellsegmenter.types import Boxes

seeds = st.integers(0, 2**32 - 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def box(x: float, y: float, width: float, height: float) -> Boxes:
    """One box in one window."""
    return Boxes(*(torch.tensor([[side]]) for side in (x, y, width, height)))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, raster=st.integers(2, 12), height=st.integers(6, 20), width=st.integers(6, 20))
def test_crop_equals_grid_sample(seed, raster, height, width):
    boxes = random_boxes((2, 3), max(height, width), seed)
    feature_map = noise(2, 4, height, width, seed=seed)
    expected = crop_by_grid_sample(feature_map, boxes, raster)
    np.testing.assert_allclose(crop(feature_map, boxes, raster), expected, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, raster=st.integers(2, 12), height=st.integers(6, 20), width=st.integers(6, 20))
def test_paste_equals_grid_sample(seed, raster, height, width):
    boxes = random_boxes((2, 3), max(height, width), seed)
    values = noise(2, 3, 4, raster, raster, seed=seed)
    expected = paste_by_grid_sample(values, boxes, (height, width))
    np.testing.assert_allclose(paste(values, boxes, (height, width)), expected, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, raster=st.integers(2, 12), height=st.integers(6, 20), width=st.integers(6, 20))
def test_paste_sum_is_the_sum_of_paste(seed, raster, height, width):
    boxes = random_boxes((2, 5), max(height, width), seed)
    values = noise(2, 5, 3, raster, raster, seed=seed)
    summed = paste_sum(values, boxes, (height, width))
    np.testing.assert_allclose(summed, paste(values, boxes, (height, width)).sum(1), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_nothing_is_pasted_outside_the_box(seed):
    boxes = random_boxes((2, 3), 24, seed)
    canvas = paste(1 + noise(2, 3, 1, 8, 8, seed=seed), boxes, (24, 24)).squeeze(2)
    pixel = torch.arange(24) + 0.5
    outside_x = (pixel - boxes.x.unsqueeze(-1)).abs() > boxes.width.unsqueeze(-1) / 2
    outside_y = (pixel - boxes.y.unsqueeze(-1)).abs() > boxes.height.unsqueeze(-1) / 2
    outside = outside_y.unsqueeze(-1) | outside_x.unsqueeze(-2)
    assert (canvas[outside] == 0).all()
    assert (canvas[~outside] > 0).all()


@pytest.mark.parametrize("times", [1, 3])
def test_crop_undoes_paste_exactly_where_samples_fall_on_pixels(times):
    raster = noise(1, 1, 2, 6, 6)
    boxes = box(2 + 3 * times, 4 + 3 * times, 6 * times, 6 * times)
    np.testing.assert_allclose(crop(paste(raster, boxes, (30, 30)).squeeze(1), boxes, 6), raster, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    x=st.floats(14, 18),
    y=st.floats(14, 18),
    width=st.floats(10, 28),
    height=st.floats(10, 28),
    slope=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_crop_undoes_paste_of_a_smooth_raster(x, y, width, height, slope):
    coordinate = torch.linspace(-1, 1, 10)
    raster = 2 + slope[0] * coordinate[:, None] + slope[1] * coordinate[None, :].square()
    boxes = box(x, y, width, height)
    back = crop(paste(raster.expand(1, 1, 1, 10, 10), boxes, (32, 32)).squeeze(1), boxes, 10)[0, 0, 0]
    inner = slice(2, -2)  # half a sample fades at the box's edge
    np.testing.assert_allclose(back[inner, inner], raster[inner, inner], atol=0.05)


def test_paste_undoes_crop_of_a_smooth_canvas():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    canvas = torch.sin(x / 8) + torch.cos(y / 6)
    boxes = box(15.3, 16.8, 18.0, 14.0)
    back = paste(crop(canvas[None, None], boxes, 28), boxes, (32, 32))[0, 0, 0]
    inside = slice(11, 23), slice(8, 23)
    np.testing.assert_allclose(back[inside], canvas[inside], atol=0.02)


def test_rows_are_y_and_columns_are_x():
    """An upright bar in the left of a wide, low box lies in the left of the canvas' part under the box."""
    raster = torch.zeros(1, 1, 1, 8, 8)
    raster[..., :2] = 1
    canvas = paste(raster, box(x=20.0, y=6.0, width=16.0, height=4.0), (12, 32))[0, 0, 0]
    rows, columns = canvas.nonzero().T
    assert (rows.min(), rows.max()) == (4, 7)
    assert columns.min() == 12
    assert columns.max() < 18


def test_a_box_learns_from_where_it_pastes():
    """Moving the box towards a target moves what it pastes: the gradient points there."""
    x = torch.tensor([[12.0]], requires_grad=True)
    y = side = torch.tensor([[16.0]])
    weight = 1 - (torch.arange(8) - 3.5).abs() / 4
    raster = (weight[:, None] * weight[None, :]).expand(1, 1, 1, 8, 8)
    target = paste(raster, box(15.0, 16.0, 16.0, 16.0), (32, 32))
    (paste(raster, Boxes(x, y, side, side), (32, 32)) - target).square().sum().backward()
    assert x.grad.item() < 0
