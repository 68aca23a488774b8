"""Pixels into which something else than a camera wrote a value have no data; what a camera saw is never one of them."""

import numpy as np
import pytest
from reference import discs_on_grey
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.filters import threshold_otsu
from skimage.transform import rotate

from cellsegmenter.fills import find_fills

SHAPE = (256, 256)


def without_data(image: np.ndarray, step: int = 1) -> np.ndarray:
    """(H, W) bool: the pixels of an image (H, W) or (C, H, W) that are fills."""
    image = np.asarray(image, np.float32)
    image = image[None] if image.ndim == 2 else image
    masks = [
        fill.mask(image, [(0, side) for side in image.shape[1:]])
        for fill in find_fills(image[:, ::step, ::step], step)
    ]
    return np.any([np.zeros(image.shape[1:], bool), *masks], axis=0)


def margin() -> np.ndarray:
    return np.pad(np.zeros((216, 226), bool), ((20, 20), (30, 0)), constant_values=True)


def missing_tiles() -> np.ndarray:
    missing = np.zeros(SHAPE, bool)
    missing[64:128, :64] = missing[128:192, 128:] = True
    return missing


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return discs_on_grey(SHAPE)


@pytest.mark.parametrize("value", [0, 37, 65535])
@pytest.mark.parametrize("places", [margin, missing_tiles])
def test_margins_and_missing_tiles(image, places, value):
    truth = places()
    filled = np.where(truth, value, image)
    np.testing.assert_array_equal(without_data(filled), truth)
    # In an overview it is not to be seen where exactly they end.
    found = without_data(filled, step=2)
    assert found[truth].all()
    assert not found[~binary_dilation(truth, iterations=2)].any()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("angle", [7, 30])
def test_the_corners_of_a_rotated_image(image, angle, order):
    turned = rotate(image.astype(float), angle, order=order, cval=0)
    share = rotate(np.ones(SHAPE), angle, order=order, cval=0)
    found = without_data(turned)
    assert found[share == 0].all()
    # What interpolation mixed with the corners goes with them, but for some pixels at the very edge of the image.
    assert np.count_nonzero(~found & (share < 1)) <= 24
    assert not found[~binary_dilation(share == 0, iterations=3)].any()


@pytest.mark.parametrize("value", [0, 65535])
def test_scale_bars(image, value):
    bars = np.zeros(SHAPE, bool)
    bars[236:241, 180:240] = bars[20:60, 10:13] = True
    np.testing.assert_array_equal(without_data(np.where(bars, value, image)), bars)


def test_of_several_channels_all_have_the_value():
    image = np.stack([discs_on_grey(SHAPE), discs_on_grey(SHAPE, seed=1)])
    truth = margin()
    np.testing.assert_array_equal(without_data(np.where(truth, 0, image)), truth)
    values = np.array([0, 9])[:, None, None]
    np.testing.assert_array_equal(without_data(np.where(truth, values, image)), truth)
    image[0, truth] = 0
    assert not without_data(image).any()


def test_what_has_no_data_already_is_left_out(image):
    truth = missing_tiles()
    holes = np.where(margin(), np.nan, np.where(truth, 0, image))
    np.testing.assert_array_equal(without_data(holes), truth & ~margin())
    assert find_fills(np.full((1, 40, 40), np.nan, np.float32), 1) == []


def test_a_piece_of_an_image_has_the_same_fills_as_the_whole(image):
    filled = np.where(missing_tiles(), 0, image)[None]
    (fill,) = find_fills(filled, 1)
    whole = fill.mask(filled, [(0, 256), (0, 256)])
    part = fill.mask(filled[:, 50:140, 3:99], [(50, 140), (3, 99)])
    np.testing.assert_array_equal(part, whole[50:140, 3:99])
    # Rows and columns beyond the image are those at its edge.
    padded = np.pad(filled, [(0, 0), (4, 4), (4, 4)], mode="edge")
    np.testing.assert_array_equal(fill.mask(padded, [(-4, 260), (-4, 260)]), np.pad(whole, 4, mode="edge"))


# --- what a camera saw --------------------------------------------------------------------------------


def background_at_zero(image: np.ndarray) -> np.ndarray:
    """As a camera without offset shows it."""
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return np.maximum(np.rint(image - 240 + noise), 0)


def cut_at_otsu(image: np.ndarray) -> np.ndarray:
    return np.where(image < threshold_otsu(image), 0, image)


def background_taken_off(image: np.ndarray) -> np.ndarray:
    return np.maximum(image - 230, 0)


def saturated(image: np.ndarray) -> np.ndarray:
    """All objects are white, and their edges as sharp as a microscope shows them."""
    return np.minimum(image, 255)


def some_saturated(image: np.ndarray) -> np.ndarray:
    return np.minimum(image, 550)


def mask(image: np.ndarray) -> np.ndarray:
    return (image > threshold_otsu(image)).astype(float)


def drawn_discs(image: np.ndarray) -> np.ndarray:
    """Discs of one grey value on another."""
    return np.where(mask(image), 200.0, 50.0)


def few_counts(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).poisson(np.maximum(image - 190, 0) / 200)


def smooth(image: np.ndarray) -> np.ndarray:
    return np.rint(gaussian_filter(image, 2) / 4)


def empty(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 5, SHAPE).round()


def constant(image: np.ndarray) -> np.ndarray:
    return np.full(SHAPE, 7.0)


def in_the_dark(image: np.ndarray) -> np.ndarray:
    """A few objects, and not one count elsewhere."""
    return np.where(
        gaussian_filter(np.float64(discs_on_grey(SHAPE, n_discs=5, noise=0)), 2) > 205, image - 190, 0
    )


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    "seen",
    [
        np.copy,
        background_at_zero,
        cut_at_otsu,
        background_taken_off,
        saturated,
        some_saturated,
        mask,
        drawn_discs,
        few_counts,
        smooth,
        empty,
        constant,
        in_the_dark,
    ],
)
def test_what_a_camera_saw_is_no_fill(image, seen, step):
    assert not without_data(seen(image), step).any()
    assert not without_data(-seen(image), step).any()
