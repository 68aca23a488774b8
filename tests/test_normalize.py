import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import discs_on_grey, object_signal_by_cells

from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.normalize import (
    BRIGHTEST,
    MOST_SIGNALS,
    background_and_noise,
    fill_unknown,
    image_statistics,
    linear_intensity,
    local_statistics,
    normalize_image,
    object_signal,
    tile_statistics,
)

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


# --- pixels without data --------------------------------------------------------------------------------


def holes_in(image: np.ndarray) -> np.ndarray:
    """A float copy of an image (H, W) without data in a half of it that is like the other."""
    half = np.array(image, np.float32)
    half[:, half.shape[1] // 2 :] = np.nan
    return half


def test_pixels_without_data_count_nowhere():
    half = load_nuclei()[0][:, :128]
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    holes = holes_in(image)
    assert image_statistics(holes) == pytest.approx(image_statistics(half), rel=1e-6)
    assert object_signal([holes], 10.0, 2.0) == pytest.approx(object_signal([half], 10.0, 2.0), rel=1e-6)
    (of_tile,), (expected,) = (tile_statistics([np.float32(tile)[None]]) for tile in (holes, half))
    np.testing.assert_allclose(of_tile, expected, rtol=1e-6)
    found, expected = (local_statistics(np.float32(x)[None], 40)[0:1, :9, :9] for x in (holes, half))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    normal = normalize_image(holes)
    np.testing.assert_array_equal(np.isnan(normal), np.isnan(holes))


def test_of_several_channels_each_has_its_own_data():
    image = np.stack([holes_in(load_nuclei()[0]), load_nuclei()[0].astype(np.float32)])
    of_both = image_statistics(image)
    for channel in (0, 1):
        alone = image_statistics(image[channel])
        assert of_both.background[channel] == pytest.approx(alone.background)
        assert of_both.scale[channel] == pytest.approx(alone.scale)


@pytest.mark.parametrize("diameter", [3, 40])
def test_an_image_without_any_data(diameter):
    nothing = np.full((2, 100, 120), np.nan, np.float32)
    statistics = local_statistics(nothing, diameter)
    assert not statistics.complete
    assert np.isfinite(statistics[:, 5:9, 3:8].background).all()
    assert (statistics[:, 5:9, 3:8].scale > 0).all()
    for found in (image_statistics(nothing), *tile_statistics([nothing, nothing])):
        assert np.isfinite(found.background).all()
        assert (found.scale > 0).all()
    assert object_signal(list(nothing), 0, 1) == np.inf


def test_a_block_without_data_takes_what_its_nearest_neighbour_has():
    image = np.tile(discs_on_grey((128, 128), n_discs=20), (3, 3))[None]
    image[:, :, 128:256] += 300
    image[:, :, 256:] += 900
    expected = local_statistics(image, 8)
    assert expected.complete
    assert expected.background.levels.shape == (1, 3, 3)
    holes = image.copy()
    holes[:, 128:256, 256:] = np.nan
    found = local_statistics(holes, 8)
    assert not found.complete
    np.testing.assert_allclose(found.background.levels, expected.background.levels, rtol=1e-6)
    known = np.ones((1, 3, 3), bool)
    known[0, 1, 2] = False
    np.testing.assert_allclose(found.log_scale.levels, expected.log_scale.levels, atol=0.02)
    np.testing.assert_allclose(found.log_scale.levels[known], expected.log_scale.levels[known], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_unknown_blocks_are_filled_from_the_nearest(seed):
    rng = np.random.default_rng(seed)
    levels = rng.random((2, 4, 5))
    levels[:, rng.random((4, 5)) < 0.6] = np.nan
    filled = fill_unknown(levels)
    known = np.argwhere(~np.isnan(levels[0]))
    for row, column in np.argwhere(np.isnan(levels[0])):
        distance = np.hypot(*(known - (row, column)).T)
        nearest = known[distance == distance.min()]  # of several that are as near, any will do
        assert filled[:, row, column].tolist() in levels[:, nearest[:, 0], nearest[:, 1]].T.tolist()
    was_known = ~np.isnan(levels)
    np.testing.assert_array_equal(filled[was_known], levels[was_known])
    np.testing.assert_array_equal(fill_unknown(filled), filled)
    assert (fill_unknown(np.full((2, 3, 3), np.nan)) == 1).all()


# --- debris, and the signal of an object ----------------------------------------------------------------


@pytest.mark.parametrize("brightness", [3000, 60_000])
def test_debris_does_not_hide_the_objects_beside_it(brightness):
    image = discs_on_grey((256, 256))
    dirty = image.copy()
    dirty[100:120, 40:60] = brightness  # far more than 0.2 % of the pixels
    found, expected = (local_statistics(x[None], 16)[:, 8:9, 8:9] for x in (dirty, image))
    assert found.background == pytest.approx(expected.background, rel=0.02)
    signals = [object_signal([x], 200.0, 8.0) for x in (dirty, image)]
    assert signals[0] == pytest.approx(signals[1], rel=0.05)
    assert expected.scale < found.scale
    assert found.scale == pytest.approx(MOST_SIGNALS * signals[0], rel=0.01)
    seen, clean = (
        normalize_image(x[None], statistics=of_it) for x, of_it in ((dirty, found), (image, expected))
    )
    beside = image > 400
    beside[90:130, 30:70] = False
    assert seen[0, beside].mean() > 0.5 * clean[0, beside].mean()  # whatever the debris' brightness


def test_no_pixel_is_brighter_than_a_bound():
    image = load_nuclei()[0].astype(np.float32)
    image[5, 5] = 1e9
    assert normalize_image(image, method="linear").max() == BRIGHTEST
    expected = np.log1p(BRIGHTEST / 0.15) / np.log1p(1 / 0.15)
    assert normalize_image(image, method="log").max() == pytest.approx(expected)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    n_planes=st.integers(1, 3),
    hole=st.booleans(),
)
def test_the_signal_of_an_object_is_that_of_its_cells(seed, shape, n_planes, hole):
    rng = np.random.default_rng(seed)
    planes = [discs_on_grey(shape, n_discs=int(rng.integers(0, 12)), seed=seed + i) for i in range(n_planes)]
    if hole:
        planes[0][: shape[0] // 2, shape[1] // 3 :] = np.nan
    expected = object_signal_by_cells(planes, 200.0, 8.0)
    assert object_signal(planes, 200.0, 8.0) == pytest.approx(expected, rel=1e-5)


def test_the_signal_does_not_depend_on_how_much_is_bright():
    signals = []
    for n_discs in (5, 30, 120):
        image = discs_on_grey((256, 256), n_discs=n_discs)
        signals.append(object_signal([image], *background_and_noise(image.ravel().astype(float))))
    assert max(signals) < 1.4 * min(signals)
    assert min(signals) > 300
    assert max(signals) < 600


def test_hot_pixels_and_hot_columns_are_no_objects():
    image = discs_on_grey((256, 256))
    expected = object_signal([image], 200, 8)
    hot = image.copy()
    hot[::9, 3::11] = 1e5
    hot[:, 77] = 1e5
    hot[50] = 1e5
    assert object_signal([hot], 200, 8) == pytest.approx(expected, rel=0.1)
    assert object_signal([np.where(image > -1, 200, 0)], 200, 8) == np.inf
