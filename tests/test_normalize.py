import numpy as np
import pytest
import torch

from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.normalize import image_statistics, linear_intensity, normalize_image

METHODS = ["log", "linear"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_clean_images_span_zero_to_one(method, dtype):
    image = np.full((64, 64), 20, dtype)
    image[10:20, 10:30] = 220
    normal = normalize_image(image, method=method)
    assert normal.dtype == np.float32
    assert np.unique(normal) == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_constant_images_become_zero(method):
    for image in (np.zeros((9, 9), np.uint8), np.full((2, 9, 9), 7.5)):
        assert not normalize_image(image, method=method).any()


@pytest.mark.parametrize("method", METHODS)
def test_mere_noise_stays_small(method):
    rng = np.random.default_rng(0)
    for image in (
        rng.normal(100, 10, (200, 200)),
        rng.poisson(5, (200, 200)),
        rng.integers(7, 10, (200, 200)),
    ):
        assert normalize_image(image, method=method).std() < 0.25


def test_background_is_found_under_dense_tissue():
    image = np.random.default_rng(0).normal(10, 1, (100, 100))
    image[:, :80] += 200  # 80 % foreground
    normal = normalize_image(image)
    assert np.median(normal[:, 80:]) == pytest.approx(0, abs=0.01)
    assert normal[:, :80].mean() == pytest.approx(1, abs=0.01)


def test_unchanged_by_gain_and_offset():
    image = load_nuclei()[0]
    np.testing.assert_allclose(
        normalize_image(image), normalize_image(image.astype(float) * 257.0 + 1000), atol=1e-5
    )


def test_log_lifts_dim_objects_and_keeps_the_order():
    image = make_nuclei(1, size=128, count=(8, 8), random_state=0).images[0]
    log, linear = (normalize_image(image, method=method) for method in METHODS)
    order = np.argsort(linear.ravel())
    assert (np.diff(log.ravel()[order]) >= -1e-6).all()
    dim = (linear > 0.1) & (linear < 0.9)
    assert (log[dim] > linear[dim]).all()


@pytest.mark.parametrize("method", METHODS)
def test_normalised_intensities_come_back_linear(method):
    image = np.random.default_rng(0).gamma(2, 30, (2, 40, 50))
    normal = torch.from_numpy(normalize_image(image, method=method))
    np.testing.assert_allclose(
        linear_intensity(normal, method), normalize_image(image, method="linear"), rtol=1e-5, atol=1e-6
    )


def test_a_hot_pixel_or_a_single_small_object_changes_little():
    image = load_nuclei()[0].astype(np.uint16)
    expected = image_statistics(image)
    image[3, 3] = 65535
    assert image_statistics(image) == pytest.approx(expected, rel=0.02)
    lonely = np.zeros((500, 500))
    lonely[7:12, 7:12] = 3.0
    assert normalize_image(lonely).max() == pytest.approx(1)


def test_channels_are_independent_and_crops_use_the_whole_image():
    first, second = load_nuclei()[0], make_nuclei(1, random_state=0).images[0]
    both = np.stack([first.astype(float), second])
    normal = normalize_image(both)
    np.testing.assert_allclose(normal[0], normalize_image(first), atol=1e-6)
    np.testing.assert_allclose(normal[1], normalize_image(second), atol=1e-5)
    statistics = image_statistics(both)
    assert statistics.scale.shape == (2, 1, 1)
    crop = normalize_image(both[:, 5:20, 30:60], statistics=statistics)
    np.testing.assert_array_equal(crop, normal[:, 5:20, 30:60])


def test_large_images_are_sampled(tmp_path):
    tile = load_nuclei()[0]
    large = np.memmap(tmp_path / "large.raw", np.uint8, "w+", shape=(2560, 2560))
    large[:] = np.tile(tile, (10, 10))
    assert image_statistics(large) == pytest.approx(image_statistics(tile), rel=0.15)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method='sqrt' is unknown"):
        normalize_image(np.zeros((3, 3)), method="sqrt")
