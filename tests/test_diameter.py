import numpy as np
import pytest

from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.diameter import estimate_diameter


@pytest.mark.parametrize("diameter", [10, 20, 40])
def test_synthetic_nuclei(diameter):
    size = 12 * diameter
    made = make_nuclei(1, size=size, count=(25, 25), diameter=diameter, brightness=(0.4, 1), random_state=0)
    areas = np.bincount(made.labels.ravel())[1:]
    truth = np.mean(2 * np.sqrt(areas / np.pi))
    assert estimate_diameter(made.images[0]) == pytest.approx(truth, rel=0.15)


def test_real_nuclei_in_any_units_and_beside_an_empty_channel():
    image, labels = load_nuclei()
    truth = np.mean(2 * np.sqrt(np.bincount(labels.ravel())[1:] / np.pi))
    estimate = estimate_diameter(image)
    assert estimate == pytest.approx(truth, rel=0.1)
    assert estimate_diameter(image * 100.0 + 300) == pytest.approx(estimate, rel=0.01)
    assert estimate_diameter(np.stack([np.zeros_like(image), image])) == pytest.approx(estimate, rel=0.02)


def test_nuclei_in_a_haze_are_measured_and_not_the_haze():
    made = make_nuclei(1, size=512, count=(120, 120), diameter=14, brightness=(0.8, 1), random_state=0)
    y, x = np.mgrid[:512, :512] - 256
    haze = 0.5 * np.exp(-((np.hypot(y, x) / 160) ** 4))  # an embryo, half as bright as they are
    truth = np.mean(2 * np.sqrt(np.bincount(made.labels[0].ravel())[1:] / np.pi))
    assert estimate_diameter(made.images[0] + haze) == pytest.approx(truth, rel=0.1)  # 27 % off with the haze


def test_large_images_are_judged_by_tiles():
    image = load_nuclei()[0]
    large = np.tile(image, (9, 9))
    assert estimate_diameter(large) == pytest.approx(estimate_diameter(image), rel=0.1)


def test_few_nuclei_in_much_background():
    y, x = np.mgrid[:1200, :1200]
    image = np.random.default_rng(0).normal(100, 20, (1200, 1200))
    for centre in (300, 600, 900):
        image[np.hypot(y - centre, x - centre) < 5] += 300
    assert estimate_diameter(image) == pytest.approx(10, rel=0.1)  # Otsu's threshold halves the noise


def test_nothing_to_be_found():
    rng = np.random.default_rng(0)
    for image in (np.zeros((90, 90)), rng.normal(100, 10, (200, 200)), rng.poisson(5, (200, 200))):
        assert np.isnan(estimate_diameter(image))


def test_a_single_speck_is_no_object():
    image = np.zeros((90, 90))
    image[40:42, 40:42] = 1
    assert np.isnan(estimate_diameter(image))
