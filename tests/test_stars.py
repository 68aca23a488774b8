"""Star-shaped outlines against marched rays and masks of many small pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import march
from scipy import ndimage
from skimage.draw import polygon
from skimage.measure import points_in_poly

from cellsegmenter.recognition.stars import (
    N_RAYS,
    RAYS,
    Stars,
    areas,
    contains,
    intersection_over_minimum,
    ray_lengths,
    vertices,
)

FINE = 16  # pixels of a mask to one px


def wobbly(n: int, seed: int = 0, *, radius=(3.0, 9.0), spread: float = 8.0) -> Stars:
    """Smooth stars, elongated and dented, whose centres lie in a square of `spread` px."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
    radii = rng.uniform(*radius, (n, 1)) * np.ones(N_RAYS)
    for frequency in (1, 2, 3):
        phase = rng.uniform(0, 2 * np.pi, (n, 1))
        radii *= 1 + rng.uniform(0, 0.2, (n, 1)) * np.cos(frequency * angle + phase)
    return Stars(rng.uniform(0, spread, (n, 2)).astype(np.float32), radii.astype(np.float32))


def masks(stars: Stars) -> np.ndarray:
    """(n, h, w) bool masks of all stars on one canvas of fine pixels."""
    corner = vertices(stars).astype(np.float64)
    low = corner.min(axis=(0, 1))
    shape = np.ceil(FINE * (corner.max(axis=(0, 1)) - low)).astype(int) + 1
    canvas = np.zeros((len(corner), *shape), bool)
    for mask, outline in zip(canvas, corner, strict=True):
        mask[polygon(*(FINE * (outline - low) - 0.5).T, shape=shape)] = True
    return canvas


def test_rays_turn_from_columns_to_rows():
    np.testing.assert_allclose(RAYS[0], [0, 1], atol=1e-6)
    np.testing.assert_allclose(RAYS[N_RAYS // 4], [1, 0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(RAYS, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_rays_are_as_long_as_those_that_march(seed, step):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((23, 31)), 2)
    labels = np.digitize(noise, [-0.1, 0.0, 0.1]) - 1  # -1 and 0 are no objects; neighbours touch
    assert set(np.unique(labels)) == {-1, 0, 1, 2}
    lengths = ray_lengths(labels, step)
    assert lengths.shape == (N_RAYS, -(-23 // step), -(-31 // step))
    assert lengths.dtype == np.float32
    for i, j in np.ndindex(lengths.shape[1:]):
        row, column = i * step, j * step
        expected = march(labels, row, column, step=0.5) if labels[row, column] > 0 else np.zeros(N_RAYS)
        np.testing.assert_allclose(lengths[:, i, j], expected, atol=1e-5)


def test_rays_end_where_the_image_does():
    lengths = ray_lengths(np.ones((7, 11), int))
    right, down, left, up = lengths[:: N_RAYS // 4, 2, 3]
    # A ray ends within a quarter of a px of the border.
    np.testing.assert_allclose([right, down, left, up], [7.5, 4.5, 3.5, 2.5], atol=0.26)
    assert ray_lengths(np.zeros((3, 4), int)).shape == (N_RAYS, 3, 4)
    assert not ray_lengths(np.zeros((3, 4), int)).any()


def test_areas_and_boxes_are_those_of_masks():
    stars = wobbly(20, seed=1)
    canvas = masks(stars)
    np.testing.assert_allclose(areas(stars), canvas.sum(axis=(1, 2)) / FINE**2, rtol=0.01)
    low = vertices(stars).min(axis=(0, 1))
    for box, mask in zip(stars.boxes, canvas, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        shown = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / FINE
        np.testing.assert_allclose(box - np.tile(low, 2), shown, atol=0.15)


def test_points_are_inside_as_in_polygons():
    stars = wobbly(12, seed=2)
    index = np.array([0, 3, 3, 11, 7])
    rng = np.random.default_rng(0)
    point = (stars.centre[index, None] + rng.uniform(-14, 14, (5, 2000, 2))).astype(np.float32)
    inside = contains(stars, index, point)
    expected = [points_in_poly(some, vertices(stars)[star]) for some, star in zip(point, index, strict=True)]
    assert 0.02 < np.mean(expected) < 0.6
    assert np.mean(inside != expected) < 1e-3  # float32, on an outline


def test_a_star_contains_its_centre_and_what_is_just_within_its_outline():
    stars = wobbly(8, seed=3)
    everyone = np.arange(8)
    assert contains(stars, everyone, stars.centre[:, None]).all()
    ends = stars.radii[..., None] * RAYS
    assert contains(stars, everyone, stars.centre[:, None] + 0.99 * ends).all()
    assert not contains(stars, everyone, stars.centre[:, None] + 1.01 * ends).any()


@pytest.mark.parametrize("radius", [(3.0, 9.0), (1.0, 20.0)])
def test_intersections_are_those_of_masks(radius):
    stars = wobbly(24, seed=4, radius=radius, spread=14)
    canvas = masks(stars).reshape(24, -1)
    first, second = np.triu_indices(24, 1)
    size = canvas.sum(axis=1)
    common = canvas.astype(np.float32) @ canvas.T.astype(np.float32)
    expected = (common / np.minimum(size[:, None], size))[first, second]
    shares = intersection_over_minimum(stars, first, second)
    assert np.mean((expected > 0.1) & (expected < 0.9)) > 0.3
    np.testing.assert_allclose(shares, expected, atol=0.06)
    assert np.abs(shares - expected).mean() < 0.012
    # Which of a pair comes first is no matter.
    np.testing.assert_array_equal(intersection_over_minimum(stars, second, first), shares)


def test_intersections_of_many_pairs_are_made_in_parts(monkeypatch):
    stars = wobbly(30, seed=5)
    pairs = np.triu_indices(30, 1)
    whole = intersection_over_minimum(stars, *pairs)
    monkeypatch.setattr("cellsegmenter.recognition.stars._PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(intersection_over_minimum(stars, *pairs), whole)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    factor=st.floats(0.1, 20),
    shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_a_star_is_scaled_by_scaling_its_numbers(seed, factor, shift):
    stars = wobbly(6, seed)
    scaled = Stars(np.float32(factor) * stars.centre + np.float32(shift), np.float32(factor) * stars.radii)
    np.testing.assert_allclose(areas(scaled), factor**2 * areas(stars), rtol=1e-4)
    pairs = np.triu_indices(6, 1)
    # A point of the integral on an outline may fall to either side.
    np.testing.assert_allclose(
        intersection_over_minimum(scaled, *pairs), intersection_over_minimum(stars, *pairs), atol=0.03
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 0.98))
def test_what_lies_within_shares_all_and_what_lies_apart_nothing(seed, factor):
    star = wobbly(1, seed)
    within = Stars(star.centre, np.float32(factor) * star.radii)
    apart = Stars(star.centre + 2 * star.radii.max(), star.radii)
    stars = Stars(*(np.concatenate(parts) for parts in zip(star, within, apart, strict=True)))
    shares = intersection_over_minimum(stars, np.array([0, 0, 1]), np.array([1, 2, 2]))
    np.testing.assert_allclose(shares, [1, 0, 0], atol=1e-6)
