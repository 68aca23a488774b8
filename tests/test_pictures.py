"""PNG and JPEG of every depth and size."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from cellsegmenter import io

PIXELS = np.random.default_rng(0).integers(0, 65536, (20, 30, 4)).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_pixels_keep_their_depth(tmp_path, dtype, n_samples):
    path, pixels = tmp_path / "x.png", np.squeeze(PIXELS[..., :n_samples]).astype(dtype)
    path.write_bytes(imagecodecs.png_encode(pixels))
    if n_samples < 3:  # grey, with alpha or without
        image = io.read_image(path)
        np.testing.assert_array_equal(image.array, pixels if n_samples == 1 else pixels[..., 0])
        assert image.array.dtype == dtype
        return
    for channel in range(n_samples):
        image = io.read_image(path, channel=channel)
        np.testing.assert_array_equal(image.array, pixels[..., channel])
        assert image.array.dtype == dtype


def test_a_palette_and_single_bits(tmp_path):
    path, pixels = tmp_path / "x.png", (PIXELS[..., 0] > 30000).astype(np.uint8)
    Image.fromarray(pixels.astype(bool)).save(path)
    np.testing.assert_array_equal(io.read_image(path).array > 0, pixels > 0)
    picture = Image.fromarray(pixels)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.save(path)
    np.testing.assert_array_equal(io.read_image(path, channel="green").array, 100 * pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_large_pictures_are_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    picture = np.zeros((13400, 13400), np.uint8)  # beyond Pillow's limit
    path.write_bytes(
        imagecodecs.png_encode(picture) if suffix == ".png" else imagecodecs.jpeg8_encode(picture)
    )
    assert io.read_image(path).array.shape == (13400, 13400)


def test_a_header_that_claims_more_than_a_file_can_hold_is_refused(tmp_path):
    path = tmp_path / "x.png"
    content = bytearray(imagecodecs.png_encode(PIXELS[..., 0].copy()))
    content[16:24] = struct.pack(">II", 2**30, 2**30)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(io.ImageFileError, match=r"claims 1.44e\+08 GB of pixels"):
        io.read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(PIXELS[..., 0].astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(io.ImageFileError, match="may be truncated"):
        io.read_image(path)
