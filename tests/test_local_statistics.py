"""Across a large image every place is normalised by what is around it; where nothing is, by the whole image."""

import numpy as np
import pytest
from reference import block_map_by_pixels
from scipy import ndimage

from cellsegmenter import diameter
from cellsegmenter.block_map import BlockMap
from cellsegmenter.counting import count_objects
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.diameter import TILE, estimate_diameter, spread_tiles
from cellsegmenter.normalize import LOCAL_DIAMETERS, image_statistics, local_statistics, normalize_image
from cellsegmenter.preparation import prepare_image


@pytest.fixture(scope="module")
def nuclei():
    """One image (256, 256) of bright nuclei, about 16 px wide, on background 100."""
    rng = np.random.default_rng(0)
    image = make_nuclei(1, size=256, random_state=0).images[0].astype(np.float64)
    return 100 + 2000 * normalize_image(image, method="linear").clip(0) + rng.normal(0, 3, image.shape)


def test_in_other_blocks_a_map_has_what_it_shows_in_their_middles():
    levels = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    shown = BlockMap(levels, (40, 53))
    others = shown.in_blocks((5, 7))
    for i, j in np.ndindex(5, 7):
        np.testing.assert_array_equal(
            others[:, i, j], shown[...][:, int((i + 0.5) * 40 / 5), int((j + 0.5) * 53 / 7)]
        )


def test_an_image_of_one_block_is_normalised_as_a_whole(nuclei):
    for ours, of_all in zip(
        local_statistics(nuclei[None], diameter=12)[...], image_statistics(nuclei[None]), strict=True
    ):
        np.testing.assert_allclose(ours, np.broadcast_to(of_all, ours.shape), rtol=1e-6)


def test_the_maps_are_what_their_formula_says():
    image = np.random.default_rng(0).gamma(2, 20, (2, 37, 70))
    image[:, :, 40:] = 500 + 9 * image[:, :, 40:]
    image[:, :, :17] *= 0.01  # so little that the whole image decides
    block = 4 * 5
    rows, columns = [0, 18, 37], [0, 17, 35, 52, 70]
    above = image.copy()
    for c, i, j in np.ndindex(2, 2, 4):
        block_of_all = above[c, rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        block_of_all -= image_statistics(block_of_all).background
    whole = image_statistics(above).scale[:, 0, 0]

    def log_scale(pixels, channel):
        return np.log(max(image_statistics(pixels).scale, whole[channel] / 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellsegmenter.normalize.LOCAL_DIAMETERS", 4)
        local = local_statistics(image, diameter=5)
    assert local.background.levels.shape == (2, 2, 4)
    np.testing.assert_allclose(local.log_scale.levels[:, :, 0].T, np.log([whole / 3] * 2), rtol=1e-5)
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
    empty[100:110, 100:110] += 60  # 3 % of the nuclei's: what a block of its own would make an object
    image = np.concatenate([nuclei, empty], axis=1)[None]
    prepared = prepare_image(image, diameter=256 / LOCAL_DIAMETERS, intensity="linear")
    assert prepared.statistics[..., -1:].scale.min() == pytest.approx(
        image_statistics(image).scale.item() / 3, rel=1e-3
    )
    assert prepared[:, :, -100:].max() < 0.1
    assert normalize_image(empty, method="linear")[100:110, 100:110].mean() > 0.5


@pytest.mark.parametrize("gain", [0.001, 1000])
def test_beside_nothing_at_all_the_unit_of_intensity_does_not_matter(nuclei, gain):
    image = np.concatenate([nuclei - 99, np.zeros_like(nuclei)], axis=1)[None]
    seen, amplified = (
        prepare_image(pixels, diameter=256 / LOCAL_DIAMETERS)[...] for pixels in (image, gain * image)
    )
    assert seen.max() > 0.9
    np.testing.assert_allclose(amplified, seen, atol=1e-4)


def test_of_an_uneven_light_most_of_the_contrast_is_left(nuclei):
    even = np.tile(nuclei, (4, 4))
    nucleus = even > 1100

    def contrast(image):
        seen = prepare_image(image[None], diameter=256 / LOCAL_DIAMETERS, intensity="linear")[...][0]
        return seen[nucleus].mean() - seen[~nucleus].mean()

    assert contrast(even + np.linspace(0, 1000, 1024)) > 0.5 * contrast(even)


def test_the_diameter_is_that_of_dim_parts_too(nuclei, monkeypatch):
    monkeypatch.setattr(diameter, "TILES_PER_AXIS", 2)
    small = np.tile(nuclei, (5, 2))
    large = np.tile(40 + (np.kron(nuclei, np.ones((2, 2))) - 100) / 3, (3, 1))[: len(small)]
    image = np.concatenate([small, large], axis=1)
    assert estimate_diameter(image) > 1.1 * estimate_diameter(nuclei)


@pytest.fixture
def amid_texture(nuclei, monkeypatch):
    """Nuclei in one of four tiles of an image, and all around smooth blotches of a height."""
    monkeypatch.setattr(diameter, "TILES_PER_AXIS", 2)

    def image(height):
        rng = np.random.default_rng(1)
        blotches = ndimage.gaussian_filter(rng.normal(size=(1152, 1152)), 25).clip(0)
        pixels = 100 + height * blotches / blotches.max() + rng.normal(0, 3, blotches.shape)
        pixels[:TILE, :TILE] = np.tile(nuclei, (2, 2))
        return pixels

    return image


def test_faint_texture_is_not_counted(amid_texture):
    counts = [len(tile.areas) for tile in count_objects(amid_texture(40)[None])]
    assert counts[0] > 100
    assert counts[1:] == [0, 0, 0]


def test_faint_texture_does_not_change_the_diameter(nuclei, amid_texture):
    assert estimate_diameter(amid_texture(100)) == pytest.approx(estimate_diameter(nuclei), rel=0.1)


@pytest.mark.parametrize("shape", [(600, 8000), (2049, 2049), (8000, 1100)])
def test_the_tiles_of_a_large_image_do_not_overlap(shape):
    image = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diameter, "normalize_image", lambda tile, **_: tile)
        tiles = spread_tiles(image, method="linear")
    assert all(tile.shape == (TILE, TILE) for tile in tiles)
    pixels = np.concatenate([tile.ravel() for tile in tiles])
    assert len(np.unique(pixels)) == len(pixels)
