"""Rescaling piece by piece is rescaling as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import discs_on_grey, rescaled_by_weights
from skimage.transform import resize

from cellsegmenter import preparation
from cellsegmenter.preparation import ScaledImage, prepare_image
from cellsegmenter.region import Region


@settings(deadline=None, max_examples=30)
@given(
    old=st.tuples(st.integers(2, 60), st.integers(2, 60)), factor=st.floats(0.2, 3), seed=st.integers(0, 99)
)
def test_a_scaled_image_is_what_scikit_image_gives(old, factor, seed):
    image = np.random.default_rng(seed).random((2, *old)).astype(np.float32)
    new = tuple(max(1, round(side * factor)) for side in old)
    scaled = ScaledImage.of(image, new)
    smaller = any(a < b for a, b in zip(new, old, strict=True))
    expected = resize(image, (2, *new), order=1, mode="reflect", anti_aliasing=smaller, preserve_range=True)
    assert scaled.shape == expected.shape
    np.testing.assert_allclose(scaled[...], expected, atol=2e-6)


@pytest.mark.parametrize("scale", [0.37, 1.6])
def test_slices_of_a_large_scaled_image_equal_those_of_the_whole_to_the_last_bit(scale, monkeypatch):
    image = np.random.default_rng(0).random((1, 210, 190)).astype(np.float32)
    whole = prepare_image(image, scale=scale, diameter=16)
    monkeypatch.setattr(preparation, "_IN_MEMORY", 0)
    lazy = prepare_image(image, scale=scale, diameter=16)
    assert isinstance(lazy.source, ScaledImage)
    for ours, theirs in zip(lazy.levels, whole.levels, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pixels = whole[...]
    for rows, columns in (
        (slice(3, 41), slice(0, 17)),
        (slice(50, 51), slice(9, 60)),
        (slice(0, 77), slice(69, 70)),
    ):
        np.testing.assert_array_equal(lazy[:, rows, columns], pixels[:, rows, columns])


# --- pixels without data --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    old=st.tuples(st.integers(2, 25), st.integers(2, 25)),
    factor=st.floats(0.25, 2.5),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_a_rescaled_pixel_is_the_weighted_mean_of_those_with_data(old, factor, share, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((2, *old)).astype(np.float32)
    image[:, rng.random(old) < share] = np.nan
    scaled = ScaledImage.of(image, tuple(max(1, round(side * factor)) for side in old))
    weights = scaled.rows.toarray(), scaled.columns.toarray()
    found = scaled[...]
    for plane, of_it in zip(image, found, strict=True):
        expected = rescaled_by_weights(plane, *weights, least_known=0.5)
        # Where just half of the weight is known, the last bit decides.
        known = rescaled_by_weights(np.where(np.isnan(plane), 0, 1), *weights, least_known=0)
        clear = np.abs(known - 0.5) > 1e-9
        np.testing.assert_allclose(of_it[clear], expected[clear], rtol=1e-5, atol=1e-6)


def test_a_constant_image_stays_constant_beside_what_has_no_data():
    image = np.full((1, 50, 60), 7, np.float32)
    image[:, 10:30, 20:45] = np.nan
    for factor in (0.4, 1.7):
        scaled = ScaledImage.of(image, (round(50 * factor), round(60 * factor)))[...]
        np.testing.assert_allclose(scaled[~np.isnan(scaled)], 7, rtol=1e-6)
        assert np.isnan(scaled).mean() == pytest.approx(20 * 25 / 3000, abs=0.03)


def prepared(image: np.ndarray, scale: float = 1.0):
    """With one block of statistics, so that they are the same everywhere."""
    return prepare_image(image, scale=scale, diameter=16)


def test_pixels_without_data_go_on_by_reflection_and_then_as_zero():
    image = discs_on_grey((120, 140), n_discs=25)[None]
    holes = image.copy()
    holes[:, :, 90:] = np.nan
    seen = prepared(holes)
    pixels = seen[...]
    assert np.isfinite(pixels).all()
    # 16 px of the reflection that repeats the last pixel, as at the edge of an image.
    np.testing.assert_array_equal(pixels[:, :, 90:105], pixels[:, :, 88:73:-1])
    assert not pixels[:, :, 106:].any()
    np.testing.assert_array_equal(seen.known(Region(0, 0, 120, 140)), ~np.isnan(holes[0]))
    np.testing.assert_array_equal(seen.known(Region(20, 80, 30, 50)), ~np.isnan(holes[0, 20:50, 80:130]))


def test_an_image_with_all_its_data_is_not_continued(monkeypatch):
    monkeypatch.setattr(preparation.PreparedImage, "_continued", lambda *_: pytest.fail("it is complete"))
    seen = prepared(discs_on_grey((60, 70), n_discs=5)[None])
    assert np.isfinite(seen[...]).all()
    assert seen.known(Region(0, 0, 60, 70)).all()


def test_nothing_is_known_of_an_image_without_data():
    seen = prepared(np.full((2, 40, 50), np.nan, np.float32), scale=1.5)
    assert not seen[...].any()
    assert not seen.known(Region(0, 0, 60, 75)).any()


@pytest.mark.parametrize("scale", [1.0, 0.6, 1.4])
def test_slices_of_an_image_with_holes_equal_those_of_the_whole(scale):
    image = discs_on_grey((150, 160), n_discs=25)[None]
    holes = np.random.default_rng(0).integers(0, 130, (6, 2))
    for row, column in holes:
        image[:, row : row + 25, column : column + 9] = np.nan
    image[:, 100:] = np.nan
    seen = prepared(image, scale)
    pixels = seen[...]
    height, width = seen.shape[1:]
    rng = np.random.default_rng(1)
    for _ in range(20):
        top, left = rng.integers(0, height - 1), rng.integers(0, width - 1)
        place = np.s_[:, top : top + rng.integers(1, 40), left : left + rng.integers(1, 40)]
        np.testing.assert_array_equal(seen[place], pixels[place])


def test_what_is_in_a_hole_changes_nothing():
    image = discs_on_grey((120, 140), n_discs=25)[None]
    hole = np.zeros(image.shape, bool)
    hole[:, 30:60, 50:90] = True
    for scale in (1.0, 0.7):
        seen = prepared(np.where(hole, np.nan, image), scale)
        whole = prepared(image, scale)
        known = seen.known(Region(0, 0, *seen.shape[1:]))
        assert known.mean() == pytest.approx(1 - hole.mean(), abs=0.03)
        far = np.ones_like(known)
        far[round(20 * scale) : round(70 * scale), round(40 * scale) : round(100 * scale)] = False
        np.testing.assert_allclose(seen[...][:, far], whole[...][:, far], atol=0.1)
