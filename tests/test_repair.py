"""What disturbs an image is found and taken out, and nothing else is changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import discs_on_grey
from scipy.ndimage import binary_dilation, gaussian_filter

from cellsegmenter import repair
from cellsegmenter.region import Region
from cellsegmenter.repair import KnownPixels, repair_image
from cellsegmenter.validation import check_images

SHAPE = (200, 230)
HOT = 9000.0


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """(1, 200, 230) float32: nothing disturbs it."""
    return discs_on_grey(SHAPE, n_discs=50)[None]


def ramp(down: float, across: float) -> np.ndarray:
    row, column = np.indices(SHAPE)
    return (down * row + across * column).astype(np.float32)


def disturbed() -> np.ndarray:
    """(2, 200, 230) float32 with everything at once."""
    image = np.stack([discs_on_grey(SHAPE, n_discs=50, seed=seed) for seed in (0, 1)]) + ramp(0.7, 0.4)
    rng = np.random.default_rng(0)
    image[:, rng.integers(0, 200, 30), rng.integers(0, 230, 30)] = HOT
    image[:, 100] = rng.normal(HOT, 50, (2, 230))
    image[:, :20] = 0
    image[:, 60:90, 150:180] = np.nan
    return image


def test_an_image_that_nothing_disturbs_is_left_as_it_is(image):
    repaired = repair_image(image)
    assert repaired.notes == ()
    assert (repaired.shape, repaired.ndim, repaired.dtype) == ((1, *SHAPE), 3, np.float32)
    np.testing.assert_array_equal(repaired[...], image)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float64])
def test_pixels_become_float32(dtype):
    pixels = np.random.default_rng(0).integers(0, 2, (1, 40, 50)).astype(dtype)
    (view,), _ = check_images(pixels)
    np.testing.assert_array_equal(repair_image(view)[...], pixels.astype(np.float32))


# --- places without data --------------------------------------------------------------------------------


def test_fills_become_nan(image):
    filled = image.copy()
    filled[:, :20] = 0
    repaired = repair_image(filled)
    assert repaired.notes == (
        f"{0.1 + 2 / 200:.1%} of the pixels are of exactly one value, in pieces: taken for no data",
    )
    assert np.isnan(repaired[:, :20]).all()
    np.testing.assert_array_equal(repaired[:, 20:], image[:, 20:])


def test_pixels_that_are_nan_or_masked_are_left_out(image):
    hole = np.zeros(SHAPE, bool)
    hole[50:90, 60:100] = True
    as_nan = np.where(hole, np.nan, image[0])
    words = (f"{hole.mean():.0%} of the pixels are NaN or masked, and left out",)
    for holes in (
        as_nan,
        np.ma.masked_array(image[0], hole),
        np.ma.masked_invalid(np.where(hole, np.inf, image[0])),
    ):
        (view,), _ = check_images(holes)
        repaired = repair_image(view)
        assert repaired.notes == words
        np.testing.assert_array_equal(repaired[...][0], as_nan)


def test_where_one_channel_has_no_data_none_has(image):
    both = np.concatenate([image, image[:, ::-1]])
    both[1, 30:40, 30:40] = np.nan
    lost = np.isnan(repair_image(both)[...])
    np.testing.assert_array_equal(lost[0], lost[1])
    assert lost[0].sum() == 100


def test_an_image_without_any_data():
    repaired = repair_image(np.full((1, 30, 40), np.nan, np.float32))
    assert repaired.notes == ("100% of the pixels are NaN or masked, and left out",)
    assert np.isnan(repaired[...]).all()


def test_what_is_known_of_a_region(image):
    holes = image.copy()
    holes[:, 50:90, 60:100] = np.nan
    known = KnownPixels(repair_image(holes), Region(40, 50, 100, 120))
    assert known[:, :].shape == (100, 120)
    np.testing.assert_array_equal(known[...], ~np.isnan(holes[0, 40:140, 50:170]))
    np.testing.assert_array_equal(known[5:30, 9:60], ~np.isnan(holes[0, 45:70, 59:110]))


# --- ramps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [(0, 1), (0.5, -0.7), (-2, -2), (3, 0)])
def test_ramps_are_taken_off(image, slope):
    repaired = repair_image(image + ramp(*slope))
    assert repaired.notes == ("the background rises like a ramp across the image, which is taken off",)
    np.testing.assert_allclose(repaired.slope, [slope], atol=0.05)
    difference = repaired[...] - image
    assert np.ptp(difference) < 12  # about the noise
    # Intensities stay about where they were: the ramp goes on from its lowest corner.
    assert abs(difference.mean() - ramp(*slope).min()) < 8


def test_each_channel_has_a_ramp_of_its_own(image):
    both = np.concatenate([image, image + ramp(0.5, 1)])
    repaired = repair_image(both)
    assert not repaired.slope[0].any()
    np.testing.assert_allclose(repaired.slope[1], (0.5, 1), atol=0.05)
    np.testing.assert_array_equal(repaired[0:1], image)


def test_a_ramp_is_found_beside_what_has_no_data(image):
    ramped = image + ramp(0.5, 1)
    ramped[:, :70] = np.nan
    ramped[:, :, 150:] = 0
    np.testing.assert_allclose(repair_image(ramped).slope, [(0.5, 1)], atol=0.1)


def step(rows, columns):
    return 300.0 * (columns < 115)


def corner(rows, columns):
    return 300.0 * ((columns < 115) & (rows < 100))


def tissue(rows, columns):
    return 300.0 * (np.hypot(rows - 60, columns - 60) < 80)


def vignette(rows, columns):
    return -1e-2 * ((rows - 100) ** 2 + (columns - 115) ** 2)


def haze(rows, columns):
    return 400 * np.exp(-(np.hypot(rows - 80, columns - 150) ** 2) / 2 / 50**2)


@pytest.mark.parametrize(
    "light",
    [
        pytest.param(step, marks=pytest.mark.xfail(strict=True, reason="a step is nearly a ramp")),
        corner,
        tissue,
        vignette,
        haze,
    ],
)
def test_what_rises_otherwise_is_no_ramp(image, light):
    lit = (image + light(*np.indices(SHAPE))).astype(np.float32)
    repaired = repair_image(lit)
    assert repaired.notes == ()
    np.testing.assert_array_equal(repaired[...], lit)


# --- hot pixels -----------------------------------------------------------------------------------------


def with_hot(image, places, value=HOT):
    hot = image.copy()
    hot[:, places] = value
    return hot


def test_hot_pixels_are_replaced_by_those_around_them(image):
    places = np.zeros(SHAPE, bool)
    rng = np.random.default_rng(0)
    places[rng.integers(0, SHAPE[0], 40), rng.integers(1, SHAPE[1] - 1, 40)] = True
    hot = with_hot(image, places)
    repaired = repair_image(hot)
    assert any("% of the pixels are hot, and replaced" in note for note in repaired.notes)
    pixels = repaired[...]
    np.testing.assert_array_equal(pixels[:, ~places], image[:, ~places])
    padded = np.pad(hot[0], 4, mode="edge")
    for row, column in np.argwhere(places):
        around = padded[row + 2 : row + 7, column + 2 : column + 7]
        assert pixels[0, row, column] == np.median(around)


@pytest.mark.parametrize("axis", [0, 1])
def test_hot_rows_and_columns_are_replaced(image, axis):
    """A detector's line, of pixels that differ."""
    places = np.zeros(SHAPE, bool)
    np.moveaxis(places, axis, 0)[70] = True
    values = np.random.default_rng(0).normal(HOT, 50, places.sum())
    hot = with_hot(image, places, values)
    pixels = repair_image(hot)[...]
    np.testing.assert_array_equal(pixels[:, ~places], image[:, ~places])
    assert pixels[:, places].max() < 900
    assert np.abs(pixels - image)[:, places].mean() < 60


def test_hot_blocks_of_two_by_two_pixels_are_replaced(image):
    places = np.zeros(SHAPE, bool)
    for row, column in np.random.default_rng(0).integers(5, 190, (10, 2)):
        places[row : row + 2, column : column + 2] = True
    pixels = repair_image(with_hot(image, places))[...]
    np.testing.assert_array_equal(pixels[:, ~places], image[:, ~places])
    assert pixels[:, places].max() < 900


@pytest.mark.parametrize("sigma", [1.0, 1.5])
@pytest.mark.parametrize("height", [300, 1000])
def test_spots_that_are_in_focus_stay(image, sigma, height):
    spots = np.zeros(SHAPE)
    spots[7::25, 9::23] = 1
    spots = height * 2 * np.pi * sigma**2 * gaussian_filter(spots, sigma)
    for spotted in (image + spots, discs_on_grey(SHAPE, n_discs=0)[None] + spots):
        spotted = np.rint(spotted).astype(np.float32)
        repaired = repair_image(spotted)
        assert not repaired.notes
        np.testing.assert_array_equal(repaired[...], spotted)


@pytest.mark.parametrize("radius", [3, 5, 20])
def test_objects_with_sharp_edges_and_corners_stay(radius):
    sharp = discs_on_grey(SHAPE, n_discs=round(5_000 / radius**2), radius=radius, blur=0.5)[None]
    sharp[:, 100:110, 50:60] += 500
    np.testing.assert_array_equal(repair_image(sharp)[...], sharp)


def test_mere_noise_has_no_hot_pixels():
    rng = np.random.default_rng(0)
    for noise in (rng.normal(100, 10, SHAPE), rng.poisson(0.3, SHAPE), rng.gamma(1, 20, SHAPE)):
        noise = noise[None].astype(np.float32)
        np.testing.assert_array_equal(repair_image(noise)[...], noise)


# --- slices, and what is read ---------------------------------------------------------------------------


def test_everything_at_once_is_said_and_taken_out():
    repaired = repair_image(disturbed())
    assert len(repaired.notes) == 4
    pixels = repaired[...]
    lost = np.zeros(SHAPE, bool)
    lost[:20] = lost[60:90, 150:180] = True
    np.testing.assert_array_equal(np.isnan(pixels), np.broadcast_to(lost, pixels.shape))
    assert np.nanmax(pixels) < 1000
    clean = np.stack([discs_on_grey(SHAPE, n_discs=50, seed=seed) for seed in (0, 1)])
    edge = binary_dilation(lost, iterations=3)
    assert np.median(np.abs(pixels - clean)[:, ~edge]) < 8


@settings(deadline=None, max_examples=40)
@given(
    rows=st.tuples(st.integers(0, 199), st.integers(1, 60)),
    columns=st.tuples(st.integers(0, 229), st.integers(1, 60)),
    channels=st.sampled_from([slice(None), slice(0, 1), slice(1, 2)]),
)
def test_slices_agree_with_the_whole(rows, columns, channels):
    repaired = repair_image(DISTURBED)
    (top, height), (left, width) = rows, columns
    place = channels, slice(top, min(top + height, 200)), slice(left, min(left + width, 230))
    np.testing.assert_array_equal(repaired[place], WHOLE[place])


DISTURBED = disturbed()
WHOLE = repair_image(DISTURBED)[...]


class Lazy:
    """An array (C, H, W) that notes what is read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, key):
        pixels = self.array[key]
        self.read.append(pixels.size)
        return pixels


def test_a_large_array_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(repair, "_OVERVIEW", 2**14)
    image = np.tile(discs_on_grey((225, 250), n_discs=40), (2, 4, 4)) + 0.3 * np.arange(
        1000, dtype=np.float32
    )
    image[:, :100] = 0
    lazy = Lazy(image)
    repaired = repair_image(lazy)
    assert max(lazy.read) <= 2 * max(2**14, (128 + 8) ** 2)
    assert sum(lazy.read) < image.size / 2
    np.testing.assert_allclose(repaired.slope, [(0, 0.3)] * 2, atol=0.05)
    lazy.read.clear()
    part = repaired[0:1, 90:120, 300:350]
    assert lazy.read == [2 * 38 * 58]
    assert np.isnan(part[:, :10]).all()
    # Of an overview it is not known where exactly the fill ends.
    assert not np.isnan(part[:, 13:]).any()
    np.testing.assert_array_equal(part, repaired[...][0:1, 90:120, 300:350])
