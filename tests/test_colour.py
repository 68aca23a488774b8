"""Channels of image files: several of them, and what is computed from red, green and blue."""

import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.color import hed2rgb, rgb2gray, rgb2hed

from cellsegmenter import io
from cellsegmenter.io import _layout

SIDE = 96


def tissue() -> np.ndarray:
    """Bright pink with round places of much haematoxylin, (H, W, 3) uint8."""
    rows, columns = np.indices((SIDE, SIDE))
    stains = np.zeros((SIDE, SIDE, 3))
    stains[..., 1] = 0.03  # eosin
    for row, column in ((20, 20), (50, 60), (75, 30)):
        stains[np.hypot(rows - row, columns - column) < 9, 0] = 0.15
    return np.round(255 * hed2rgb(stains)).astype(np.uint8)


def overlay() -> np.ndarray:
    """Fluorescence: blue discs on black."""
    rows, columns = np.indices((SIDE, SIDE))
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[np.hypot(rows - 40, columns - 40) < 9, 2] = 200
    pixels[..., 1] = 4
    return pixels


def transmitted() -> np.ndarray:
    """Dark, colourless discs on a bright, slightly yellow background."""
    rows, columns = np.indices((SIDE, SIDE))
    pixels = np.tile(np.array([220, 218, 205], np.uint8), (SIDE, SIDE, 1))
    pixels[np.hypot(rows - 40, columns - 40) < 25] = (90, 88, 84)
    return pixels


@pytest.fixture
def save(tmp_path):
    def save(pixels, name="image.png"):
        path = tmp_path / name
        if path.suffix == ".png":
            Image.fromarray(pixels).save(path)
        else:
            tifffile.imwrite(path, pixels, photometric="rgb")
        return path

    return save


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (tissue, "It is bright, with pink or purple in it, as H&E is: haematoxylin is likely"),
        (overlay, "It is dark, as fluorescence is: the colour of the nuclei is likely, often 2 blue"),
        (transmitted, "It is bright, and neither pink nor purple: grey is likely"),
    ],
)
def test_a_colour_image_without_a_choice_is_refused_with_what_is_likely(save, make, hint):
    with pytest.raises(io.ImageFileError, match=r"0 red, 1 green, 2 blue, grey .*haematoxylin") as error:
        io.read_image(save(make()))
    assert hint in str(error.value)
    assert "(--channel)" in str(error.value)


def test_alpha_is_nothing_to_choose(save):
    pixels = np.dstack([tissue(), np.full((SIDE, SIDE), 255, np.uint8)])
    path = save(pixels)
    with pytest.raises(io.ImageFileError) as error:
        io.read_image(path)
    assert "alpha" not in str(error.value).replace(str(path), "")
    with_alpha, without = io.read_image(path, channel="haematoxylin"), rgb2hed(tissue())[..., 0]
    assert np.allclose(with_alpha.array, without, atol=1e-5)


@pytest.mark.parametrize(("stain", "column"), [("haematoxylin", 0), ("eosin", 1), ("dab", 2)])
def test_stains_are_those_of_scikit_image(save, stain, column):
    image = io.read_image(save(tissue()), channel=stain)
    assert image.axes == "YX"
    assert image.array.dtype == np.float32
    assert np.allclose(image.array, rgb2hed(tissue())[..., column], atol=1e-5)
    assert f"{stain} of a colour image" in image.interpretation


def test_haematoxylin_is_bright_in_nuclei(save):
    pixels = io.read_image(save(tissue()), channel="hematoxylin").array
    assert pixels[20, 20] > 0.1 > 10 * pixels[0, 0]


def test_grey_is_the_brightness_in_the_units_of_the_file(save):
    grey = io.read_image(save(tissue()), channel="grey").array
    assert np.allclose(grey, 255 * rgb2gray(tissue()), atol=0.01)
    sixteen = save(257 * tissue().astype(np.uint16), "deep.tif")
    assert np.allclose(io.read_image(sixteen, channel="gray").array, 257 * grey, rtol=1e-5)
    stains = [io.read_image(path, channel="eosin").array for path in (sixteen, save(tissue()))]
    assert np.allclose(*stains, atol=1e-5)


def test_colours_of_other_programs_are_taken_on_the_users_word(tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, tissue())
    image = io.read_image(path, axes="YXC", channel="haematoxylin")
    assert np.allclose(image.array, rgb2hed(tissue())[..., 0], atol=1e-5)


def test_what_is_no_colour_has_no_stain(tmp_path, save):
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, np.zeros((2, 64, 64), np.uint8), imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(
        io.ImageFileError, match="has 2 channels and is no colour image, so there is no eosin"
    ):
        io.read_image(path, channel="eosin")
    floats = tmp_path / "floats.npy"
    np.save(floats, tissue().astype(np.float32))
    with pytest.raises(io.ImageFileError, match="must be from 0 to 1"):
        io.read_image(floats, axes="YXC", channel="haematoxylin")


def test_grey_of_a_grey_image_is_itself(tmp_path, save):
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    assert io.read_image(path, channel="grey").array.dtype == np.uint16


def test_large_colour_images_stay_lazy_and_are_the_same_in_every_slice(save, monkeypatch):
    whole = io.read_image(save(tissue()), channel="haematoxylin").array
    monkeypatch.setattr(_layout, "LARGE", 1000)
    lazy = io.read_image(save(tissue(), "image.tif"), channel="haematoxylin").array
    assert not isinstance(lazy, np.ndarray)
    assert (lazy.shape, lazy.dtype, lazy.ndim) == ((SIDE, SIDE), np.float32, 2)
    for place in (np.s_[10:30, 5:80], np.s_[::7, 3::5], np.s_[-20:, :], np.s_[0:0, :], np.s_[...]):
        assert np.array_equal(lazy[place], whole[place])


def test_equal_colours_are_found_equal_band_by_band(save, monkeypatch):
    grey = np.repeat(tissue()[..., :1], 3, axis=2)
    monkeypatch.setattr(_layout, "_BAND", 5 * SIDE)
    assert "grey image saved in colour" in io.read_image(save(grey)).interpretation
    grey[-1, -1, 2] ^= 1
    with pytest.raises(io.ImageFileError, match="is a colour image"):
        io.read_image(save(grey))


# --- several channels -----------------------------------------------------------------------------------------


@pytest.fixture
def channels(tmp_path):
    """A file of four channels, one of whose names has a comma in it, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 999, (4, 32, 40)).astype(np.uint16)
    path = tmp_path / "many.ome.tif"
    names = ["DAPI", "actin", "tubulin, 488", "SiR"]
    tifffile.imwrite(path, pixels, metadata={"axes": "CYX", "Channel": {"Name": names}})
    return path, pixels


@pytest.mark.parametrize(
    ("channel", "positions"),
    [("0,2", [0, 2]), ("SiR, DAPI", [3, 0]), ((1, "SiR"), [1, 3]), ([2], [2]), (np.array([0, 1]), [0, 1])],
)
def test_several_channels_are_read_in_the_order_given(channels, channel, positions):
    path, pixels = channels
    image = io.read_image(path, channel=channel)
    assert image.axes == "CYX"
    assert np.array_equal(image.array, pixels[positions])


def test_a_name_with_a_comma_is_a_name(channels):
    path, pixels = channels
    image = io.read_image(path, channel="tubulin, 488")
    assert np.array_equal(image.array, pixels[2])
    assert "channel 2 (tubulin, 488) of 4" in image.interpretation
    assert "channels 0 (DAPI), 1 (actin) of 4" in io.read_image(path, channel="0,1").interpretation


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("0,0", "names a channel twice"),
        ((), "names a channel twice, or none"),
        ("0,9", "has no channel 9; channels go from 0 to 3"),
        ("DAPI,nothing", "has no channel 'nothing'"),
        (None, "choose one by channel, 0 DAPI, 1 actin, 2 tubulin, 488, 3 SiR, or for a model of several"),
    ],
)
def test_channels_that_cannot_be_taken_are_refused(channels, channel, words):
    with pytest.raises(io.ImageFileError, match=words):
        io.read_image(channels[0], channel=channel)


def test_several_channels_of_a_large_file_stay_lazy(channels, monkeypatch):
    path, pixels = channels
    monkeypatch.setattr(_layout, "LARGE", 1000)
    lazy = io.read_image(path, channel="3,0").array
    assert not isinstance(lazy, np.ndarray)
    assert (lazy.shape, lazy.dtype, lazy.ndim) == ((2, 32, 40), np.uint16, 3)
    assert np.array_equal(lazy[1:, 4:9, ::3], pixels[[0], 4:9, ::3])
    assert np.array_equal(np.asarray(lazy), pixels[[3, 0]])


# --- masks ----------------------------------------------------------------------------------------------------


def test_a_masked_image_is_nan_where_the_mask_is_zero():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    mask = np.array([[0, 1, 2, 0]] * 3, np.float32)
    mask[0, 1] = np.nan
    masked = io.mask_image(image, mask)
    assert np.isnan(masked).tolist() == [[True, True, False, True]] + 2 * [[True, False, False, True]]
    assert np.array_equal(masked[1:, 1:3], image[1:, 1:3])
    both = io.mask_image(np.stack([image, image]), mask)
    assert np.array_equal(both[1], masked, equal_nan=True)
    assert io.mask_image(image.astype(float), mask).dtype == np.float64


def test_a_masked_image_that_is_lazy_stays_lazy(tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.ones((2, 8, 9), np.uint16))
    masked = io.mask_image(np.load(path, mmap_mode="r"), np.eye(8, 9))
    assert not isinstance(masked, np.ndarray)
    assert np.array_equal(masked[1:, 2:5, 2:5][0], np.where(np.eye(3), 1, np.nan), equal_nan=True)


def test_masks_that_cannot_be_used_are_refused(tmp_path, save):
    with pytest.raises(ValueError, match="the mask has 5 × 7 px and the image 6 × 7"):
        io.mask_image(np.ones((6, 7)), np.ones((5, 7)))
    with pytest.raises(io.ImageFileError, match="is 0 everywhere"):
        io.read_mask(save(np.zeros((9, 9), np.uint8)))
    with pytest.raises(io.ImageFileError, match=r"cannot be used as a mask.*is a colour image"):
        io.read_mask(save(tissue()))
    assert io.read_mask(save(np.dstack([np.full((9, 9), 255, np.uint8)] * 3))).shape == (9, 9)


def test_a_picture_of_dark_objects_shows_them_dark():
    shown = io.shown_grey(transmitted()[..., 1])
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert shown[0, 0] > 0.9 > 0.1 > shown[40, 40]
    with_gap = np.where(np.eye(SIDE), np.nan, overlay()[..., 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(io.shown_grey(with_gap)).all()
