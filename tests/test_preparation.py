"""Rescaling piece by piece is rescaling as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from cellsegmenter import preparation
from cellsegmenter.preparation import ScaledImage, prepare_image


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
