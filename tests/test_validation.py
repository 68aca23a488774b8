import pickle

import numpy as np
import pytest
from scipy import sparse

from cellsegmenter.normalize import image_statistics
from cellsegmenter.validation import check_bounds, check_images, check_number, is_single_image


class Lazy:
    """An array-like that remembers how many pixels were read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.n_read = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        part = self.array[key]
        self.n_read += part.size
        return part


BATCH = np.random.default_rng(0).random((5, 20, 30, 2))


@pytest.mark.parametrize(
    ("X", "channel_axis", "expected", "words"),
    [
        (BATCH[0, :, :, 0], None, [BATCH[0, None, :, :, 0]], "1 grey image of 20 × 30 px, float64"),
        (BATCH[..., 0], None, BATCH[:, None, :, :, 0], "5 grey images of 20 × 30 px, float64"),
        (BATCH[0], -1, [np.moveaxis(BATCH[0], -1, 0)], "1 image of 20 × 30 px with 2 channels, float64"),
        (BATCH[0], 0, [BATCH[0]], "1 image of 30 × 2 px with 20 channels, float64"),
        (BATCH[0], 1, [BATCH[0].transpose(1, 0, 2)], "1 image of 20 × 2 px with 30 channels, float64"),
        (BATCH, -1, np.moveaxis(BATCH, -1, 1), "5 images of 20 × 30 px with 2 channels, float64"),
        (BATCH, 0, BATCH.transpose(1, 0, 2, 3), "20 images of 30 × 2 px with 5 channels, float64"),
        ([BATCH[0, ..., 0], BATCH[1, :9, :8, 0]], None, [BATCH[0, None, ..., 0], BATCH[1, None, :9, :8, 0]],
         "2 grey images of 9 × 8 to 20 × 30 px, float64"),
        ([BATCH[0]], 2, [np.moveaxis(BATCH[0], -1, 0)], "1 image of 20 × 30 px with 2 channels, float64"),
    ],
)  # fmt: skip
def test_layouts(X, channel_axis, expected, words):
    images, interpretation = check_images(X, channel_axis=channel_axis)
    assert interpretation == words
    assert len(images) == len(expected)
    for image, pixels in zip(images, expected, strict=True):
        assert image.shape == pixels.shape
        part = image[:, 3:7, 1:2]
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, pixels[:, 3:7, 1:2].astype(np.float32))
        np.testing.assert_array_equal(image[..., 2:5], pixels[..., 2:5].astype(np.float32))
        np.testing.assert_array_equal(np.asarray(image), pixels.astype(np.float32))


def test_one_image_or_several():
    assert is_single_image(BATCH[0, ..., 0])
    assert is_single_image(BATCH[0], channel_axis=-1)
    assert not is_single_image(BATCH[..., 0])
    assert not is_single_image(BATCH, channel_axis=-1)
    assert not is_single_image([BATCH[0, ..., 0]])


def test_lazy_arrays_are_read_slice_by_slice():
    lazy = Lazy(np.zeros((3, 4000, 5000), np.uint16))
    (first, *_), words = check_images(lazy)
    assert words == "3 grey images of 4000 × 5000 px, uint16"
    assert first[:, 10:20, 5:10].shape == (1, 10, 5)
    assert lazy.n_read == 50
    image_statistics(first)
    assert lazy.n_read < 5e6


def test_zarr_and_dask_arrays():
    zarr, da = pytest.importorskip("zarr"), pytest.importorskip("dask.array")
    for source in (zarr.array(BATCH), da.from_array(BATCH, chunks=7)):
        images, _ = check_images(source, channel_axis=-1)
        np.testing.assert_array_equal(
            images[4][:, 2:9, 3:8], np.float32(BATCH[4, 2:9, 3:8].transpose(2, 0, 1))
        )


def test_views_pickle():
    view = pickle.loads(pickle.dumps(check_images(BATCH[..., 0])[0][2]))
    np.testing.assert_array_equal(view[...], np.float32(BATCH[None, 2, ..., 0]))


def test_other_containers_and_dtypes():
    torch = pytest.importorskip("torch")
    assert check_images(torch.zeros(4, 5))[0][0].shape == (1, 4, 5)
    assert check_images(np.eye(6, dtype=bool))[0][0][...].sum() == 6
    assert check_images([[[0, 1], [2, 3]]])[0][0].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("X", "channel_axis", "error", "message"),
    [
        (np.zeros((64, 64, 3)), None, ValueError, "looks like one image with 3 channel.*set channel_axis=-1"),
        (np.zeros((2, 8, 8, 2)), None, ValueError, "4 dimensions.*set channel_axis"),
        (np.zeros(5), None, ValueError, r"1 dimensions, shape \(5,\)"),
        (np.zeros((5, 5)), 0, ValueError, "channel_axis=0"),
        (np.zeros((5, 5, 5)), 7, ValueError, "channel_axis=7 is not an axis of 3"),
        (np.zeros((0, 5, 5)), None, ValueError, "holds no images"),
        (np.zeros((5, 0)), None, ValueError, "no pixels"),
        ([], None, ValueError, "X is an empty list"),
        ([np.zeros((5, 5)), np.zeros((2, 5, 5))], None, ValueError, r"X\[1\] has shape \(2, 5, 5\)"),
        (np.full((5, 5), "a"), None, TypeError, "dtype <U1"),
        (np.zeros((5, 5), complex), None, TypeError, "complex128.*real"),
        (np.array([[1, None]]), None, TypeError, "dtype object"),
        (None, None, TypeError, "dtype object"),
    ],
)
def test_refusals(X, channel_axis, error, message):
    with pytest.raises(error, match=message):
        check_images(X, channel_axis=channel_axis)


def test_sparse_matrices_are_refused():
    with pytest.raises(TypeError, match="sparse"):
        check_images(sparse.eye(5, format="csr"))


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"X\[0\] has 1 channel\(s\) where 2 are needed"):
        check_images(BATCH[..., 0], n_channels=2)


def test_infinity_is_refused_and_nan_stands_for_no_data():
    bad = np.zeros((2, 6, 7))
    bad[1, 4, 4:] = [np.nan, np.inf, -np.inf]
    with pytest.raises(ValueError, match=r"X contains infinity: 2 pixels, the first at \(1, 4, 5\)"):
        check_images(bad)
    images, _ = check_images(Lazy(bad))
    images[0][...]
    with pytest.raises(ValueError, match=r"X\[1\] contains infinity: 1 pixels, the first at \(0, 4, 5\)"):
        images[1][:, 3:5, 2:6]
    np.testing.assert_array_equal(images[1][:, 4:5, 3:5], [[[0, np.nan]]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_masked_pixels_become_nan(dtype):
    pixels = np.arange(42).reshape(6, 7).astype(dtype)
    mask = pixels % 5 == 0
    for masked in (np.ma.masked_array(pixels, mask), Lazy(np.ma.masked_array(pixels, mask))):
        (image,), _ = check_images(masked)
        np.testing.assert_array_equal(image[...], np.where(mask, np.nan, pixels)[None])
        np.testing.assert_array_equal(image[:, 2:4, 1:5], np.where(mask, np.nan, pixels)[None, 2:4, 1:5])
        assert image[...].dtype == np.float32


def test_bounds():
    assert check_bounds("density", (5, 10)) == (5, 10)
    assert check_bounds("area", np.array([0.1, 0.1]), low=0, high=1) == (0.1, 0.1)
    for value, error, message in [
        ((10, 5), ValueError, r"density=\(10, 5\) is reversed; write density=\(5, 10\)"),
        (7, ValueError, r"density=7 is not a pair; write density=\(min, max\)"),
        ((1, 2, 3), ValueError, "not a pair"),
        ((-1, 2), ValueError, "the minimum of density is -1; it must be at least 0"),
        ((1, 20), ValueError, "the maximum of density is 20; it must be at most 15"),
        ((1, float("nan")), ValueError, "finite"),
        ((1, "2"), TypeError, "the maximum of density is '2'; give a number"),
    ]:
        with pytest.raises(error, match=message):
            check_bounds("density", value, low=0, high=15)


def test_numbers():
    assert check_number("stride", np.int64(4), integer=True) == 4
    with pytest.raises(TypeError, match=r"stride is 1\.5; give a whole number"):
        check_number("stride", 1.5, integer=True)
    with pytest.raises(TypeError, match="stride is True"):
        check_number("stride", True)
    with pytest.raises(ValueError, match="stride is 0; it must be at least 1"):
        check_number("stride", 0, low=1)
