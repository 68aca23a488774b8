"""Noisy images are blurred as much as their objects need, and clear ones not at all."""

import numpy as np
import pytest

from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.denoise import blur_against_noise
from cellsegmenter.preparation import prepare_image


def noisy(noise_over_signal):
    made = make_nuclei(1, size=256, count=(25, 25), diameter=24, brightness=(0.5, 1), random_state=0)
    image, inside = made.images[0], made.labels[0] > 0
    signal = image[inside].mean() - image[~inside].mean()
    noise = np.random.default_rng(0).normal(0, noise_over_signal * signal, image.shape)
    return (image + noise).astype(np.float32)[None]


def test_clear_images_are_left_alone():
    image, _ = load_nuclei()
    assert blur_against_noise(image[None].astype(np.float32)) == 0
    assert blur_against_noise(noisy(0.05)) == 0


@pytest.mark.parametrize(("noise", "expected"), [(0.25, 0.7), (0.5, 1.4), (1.0, 2.0)])
def test_the_blur_is_what_the_noise_needs(noise, expected):
    assert blur_against_noise(noisy(noise)) == pytest.approx(expected, rel=0.25)


def test_mere_noise_is_not_blurred():
    image = np.random.default_rng(0).normal(100, 10, (1, 200, 200)).astype(np.float32)
    assert blur_against_noise(image) == 0


def test_constant_images_and_missing_data():
    assert blur_against_noise(np.zeros((1, 50, 50), np.float32)) == 0
    assert blur_against_noise(np.full((1, 50, 50), np.nan, np.float32)) == 0
    image = noisy(0.5)
    image[:, :60] = np.nan
    assert blur_against_noise(image) == pytest.approx(1.4, rel=0.25)


def test_prepared_pixels_have_less_noise():
    prepared = prepare_image(noisy(0.5), diameter=24)
    quiet = prepared.source[:, :, :] if not isinstance(prepared.source, np.ndarray) else prepared.source
    raw = noisy(0.5)
    steps = [np.median(np.abs(np.diff(image, axis=2))) for image in (quiet, raw)]
    assert steps[0] < 0.3 * steps[1]
