"""Across a large image every place is normalised by what is around it; where nothing is, by the whole image."""

import numpy as np
import pytest
from reference import block_map_by_pixels

from cellsegmenter.datasets import make_nuclei
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.normalize import LOCAL_DIAMETERS, image_statistics, local_statistics, normalize_image
from cellsegmenter.preparation import prepare_image


@pytest.fixture(scope="module")
def nuclei():
    """One image (256, 256) of bright nuclei, about 16 px wide, on background 100."""
    rng = np.random.default_rng(0)
    image = make_nuclei(1, size=256, random_state=0).images[0].astype(np.float64)
    return 100 + 2000 * normalize_image(image, method="linear").clip(0) + rng.normal(0, 3, image.shape)


def test_an_image_of_one_block_is_normalised_as_a_whole(nuclei):
    for ours, of_all in zip(
        local_statistics(nuclei[None], diameter=12)[...], image_statistics(nuclei[None]), strict=True
    ):
        np.testing.assert_allclose(ours, np.broadcast_to(of_all, ours.shape), rtol=1e-6)


def test_the_maps_are_what_their_formula_says():
    image = np.random.default_rng(0).gamma(2, 20, (2, 37, 70))
    image[:, :, 40:] *= 9
    block = 4 * 5
    whole = image_statistics(image).scale[:, 0, 0]

    def log_scale(pixels, channel):
        return np.log(max(image_statistics(pixels).scale, whole[channel] / 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellsegmenter.normalize.LOCAL_DIAMETERS", 4)
        local = local_statistics(image, diameter=5)
    assert local.background.levels.shape == (2, 2, 4)
    rows, columns = [0, 18, 37], [0, 17, 35, 52, 70]
    for c, i, j in np.ndindex(2, 2, 4):
        near = [
            image_statistics(image[c, rows[k] : rows[k + 1], columns[m] : columns[m + 1]]).background
            for k in range(2)
            for m in range(max(j - 1, 0), min(j + 2, 4))
        ]
        assert local.background.levels[c, i, j] == pytest.approx(min(near))
    np.testing.assert_allclose(
        local[...].scale, np.exp(block_map_by_pixels(image, log_scale, block)), rtol=1e-5
    )


def test_a_dim_part_of_a_large_image_is_seen_like_a_bright_one(nuclei):
    dim = 40 + (nuclei - 100) / 3
    image = np.concatenate([nuclei, nuclei, dim, dim], axis=1)[None]
    seen = prepare_image(image, diameter=256 / LOCAL_DIAMETERS)[...][0]
    left, right = seen[:, :256], seen[:, -256:]
    assert np.percentile(right, 99) == pytest.approx(np.percentile(left, 99), rel=0.1)
    by_the_whole = normalize_image(image)[0, :, -256:]
    assert np.percentile(by_the_whole, 99) < 0.75 * np.percentile(left, 99)


def test_where_nothing_is_texture_stays_small(nuclei):
    rng = np.random.default_rng(1)
    empty = 100 + rng.normal(0, 3, nuclei.shape)
    empty[100:110, 100:110] += (
        60  # 3 % of the nuclei's brightness: what a block of its own would make an object
    )
    image = np.concatenate([nuclei, empty], axis=1)[None]
    prepared = prepare_image(image, diameter=256 / LOCAL_DIAMETERS, intensity="linear")
    assert prepared.statistics[..., -1:].scale.min() == pytest.approx(
        image_statistics(image).scale.item() / 3
    )
    assert prepared[:, :, -100:].max() < 0.1
    assert normalize_image(empty, method="linear")[100:110, 100:110].mean() > 0.5


def test_the_diameter_is_that_of_dim_parts_too(nuclei):
    small = np.tile(nuclei, (9, 5))
    large = np.tile(40 + (np.kron(nuclei, np.ones((2, 2))) - 100) / 40, (5, 3))[: len(small)]
    image = np.concatenate([small, large], axis=1)
    assert estimate_diameter(image) > 1.1 * estimate_diameter(nuclei)
