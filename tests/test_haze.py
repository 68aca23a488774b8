"""Light that varies slowly is taken off, and what stands on it keeps its height."""

import numpy as np
import pytest
from reference import haze_by_pixels

from cellsegmenter import preparation
from cellsegmenter.block_map import BlockMap
from cellsegmenter.haze import estimate_haze
from cellsegmenter.normalize import image_statistics
from cellsegmenter.preparation import ScaledImage, prepare_image

BACKGROUND, HEIGHT = 20.0, 60.0


def even(image, *background):
    """The map of an image whose background is the same everywhere, a number for each channel."""
    return BlockMap(np.array(background, np.float32)[:, None, None], image.shape[-2:])


class Read:
    """An array-like that remembers which rows were read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, []

    def __getitem__(self, key):
        self.rows.append(range(*key[1].indices(self.shape[1])))
        return self.array[key]


def discs(shape, diameter, spacing):
    """Bool (H, W): discs on a lattice."""
    row, column = (np.arange(side) % spacing - spacing / 2 for side in shape)
    return row[:, None] ** 2 + column**2 < (diameter / 2) ** 2


@pytest.mark.parametrize("shape", [(9, 31), (40, 25)])
def test_haze_is_what_its_formula_says(shape):
    image = np.random.default_rng(0).gamma(2, 20, (2, *shape)).astype(np.float32)
    haze = estimate_haze(image, even(image, 10, 25), diameter=3)
    assert haze.levels.any()
    np.testing.assert_allclose(haze[...], haze_by_pixels(image, np.array([10, 25]), 12), atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_every_slice_shows_the_same_to_the_last_bit(scale, monkeypatch):
    image = np.random.default_rng(0).gamma(2, 20, (2, 150, 210)) + np.linspace(0, 200, 210)
    image = image.astype(np.float32)
    whole = prepare_image(image, scale=scale, diameter=8)
    monkeypatch.setattr(preparation, "_IN_MEMORY", 0)
    lazy = prepare_image(image, scale=scale, diameter=8)
    assert isinstance(lazy.source, ScaledImage if scale != 1 else np.ndarray)
    np.testing.assert_array_equal(lazy.haze.levels, whole.haze.levels)
    assert lazy.haze.levels.any()
    haze, pixels = whole.haze[...], whole[...]
    assert haze.dtype == np.float32
    for key in (
        np.s_[:, 3:41, 7:8],
        np.s_[1:, 50:51, 9:60],
        np.s_[..., 20:90, :],
        np.s_[:1],
        np.s_[:, :, 99:],
    ):
        np.testing.assert_array_equal(lazy.haze[key], haze[key])
        np.testing.assert_array_equal(lazy[key], pixels[key])


def test_an_image_is_read_once_and_in_bands():
    image = Read(np.zeros((1, 2000, 70), np.float32))
    estimate_haze(image, even(image, 0), diameter=16)
    np.testing.assert_array_equal(np.concatenate(image.rows), np.arange(2000))
    assert max(map(len, image.rows)) <= 520


def test_an_image_that_becomes_small_is_read_in_bands():
    image = Read(np.random.default_rng(0).gamma(2, 20, (1, 4000, 50)))
    prepared = prepare_image(image, scale=0.1, diameter=16)
    np.testing.assert_array_equal(np.unique(np.concatenate(image.rows)), np.arange(4000))
    # Squares of 128 px at working scale, by which noise is judged, are the longest that is read at once.
    assert max(map(len, image.rows)) <= 1400
    np.testing.assert_array_equal(prepared.source, ScaledImage.of(image, (400, 5))[...])


@pytest.mark.parametrize("noise", [0, 4])
def test_an_even_image_has_no_haze(noise):
    image = np.random.default_rng(0).normal(BACKGROUND, noise, (1, 300, 200)) + HEIGHT * discs(
        (300, 200), 16, 40
    )
    image = image.astype(np.float32)
    haze = estimate_haze(image, even(image, *image_statistics(image).background.ravel()), diameter=16)
    assert np.abs(haze[...]).max() == 0


def test_a_bright_plateau_is_taken_off_and_objects_on_it_keep_their_height():
    plateau = np.zeros((400, 600))
    plateau[:, 300:] = 90.0
    objects = discs(plateau.shape, 16, 32)
    image = (BACKGROUND + plateau + HEIGHT * objects).astype(np.float32)[None]
    prepared = prepare_image(image, diameter=16, intensity="linear")
    clear = prepared[...] * prepared.statistics[...].scale
    for away_from_the_step in (np.s_[:, :220], np.s_[:, 380:]):
        np.testing.assert_allclose(clear[0][away_from_the_step], HEIGHT * objects[away_from_the_step], atol=1)


def test_channels_have_their_own_haze():
    image = np.full((2, 200, 200), BACKGROUND, np.float32)
    image[1, :, 120:] += 50
    haze = prepare_image(image, diameter=16).haze[...]
    assert not haze[0].any()
    np.testing.assert_allclose(haze[1, :, 170:], 50, atol=1e-3)


@pytest.mark.parametrize("diameter", [16, 120])
def test_blocks_go_with_the_size_of_objects(diameter):
    shape = (13 * diameter, 12 * diameter)
    objects = discs(shape, diameter, 2 * diameter)
    image = (BACKGROUND + HEIGHT * objects).astype(np.float32)[None]
    clear = prepare_image(image, diameter=diameter)
    assert not clear.haze[...].any()
    if diameter > 16:
        assert prepare_image(image, diameter=16).haze[...].any()


def test_the_estimator_says_how_large_objects_are(segmenter, scenes, monkeypatch):
    asked = []

    def estimate(image, background, diameter):
        asked.append(diameter)
        return estimate_haze(image, background, diameter)

    monkeypatch.setattr(preparation, "estimate_haze", estimate)
    images = scenes[0][:2]
    segmenter.predict(images[0])
    segmenter.sample_posterior(images[0][:48, :48])
    segmenter.set_params(n_steps=1, batch_size=2).fit(images[0])
    assert asked == [segmenter.working_diameter_] * 3
