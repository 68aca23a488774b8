import builtins
import csv
import errno
import json
import os
import sys
import tempfile
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from skimage.io import imread, imsave

from cellsegmenter import io
from cellsegmenter.io import _layout, _tiff
from cellsegmenter.io._files import replacing
from cellsegmenter.validation import check_images

STACK = np.random.default_rng(0).integers(0, 2000, (4, 20, 30)).astype(np.uint16)
GREY = STACK[0]


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(_layout, "LARGE", 0)
    monkeypatch.setattr(_tiff, "LARGE", 0)


def _refusal(path, **options):
    with pytest.raises(io.ImageFileError) as caught:
        io.read_image(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".npy"])
def test_grey_images(tmp_path, dtype, suffix):
    path, pixels = tmp_path / f"grey{suffix}", GREY.astype(dtype)
    np.save(path, pixels) if suffix == ".npy" else tifffile.imwrite(path, pixels)
    image = io.read_image(path)
    np.testing.assert_array_equal(image.array, pixels)
    assert image.array.dtype == dtype
    assert image[1:] == ("YX", None, f"grey image: 20 × 30 px, {dtype}, axes YX")
    np.testing.assert_array_equal(io.read_image(path, channel=0, page=0).array, pixels)
    assert "no channel 1, it is grey" in _refusal(path, channel=1)
    assert "no page 1" in _refusal(path, page=1)
    assert "no slice 2 (--z); leave it out" in _refusal(path, z=2)
    assert "no level 1" in _refusal(path, level=1)
    assert io.read_image(path, z=0, t=0, pixel_size=0.5).pixel_size == 0.5
    with pytest.raises(ValueError, match="pixel_size is -1"):
        io.read_image(path, pixel_size=-1)


def test_png(tmp_path):
    path, rgb = tmp_path / "image.png", np.repeat(STACK[0, :, :, None].astype(np.uint8), 3, axis=2)
    imsave(path, rgb, check_contrast=False)
    image = io.read_image(path)
    np.testing.assert_array_equal(image.array, rgb[..., 0])
    assert image.interpretation.startswith("grey image saved in colour")
    rgba = np.concatenate([rgb + np.arange(3, dtype=np.uint8), np.full_like(rgb[..., :1], 255)], axis=2)
    imsave(path, rgba, check_contrast=False)
    assert "choose by channel 0 red, 1 green, 2 blue, grey" in _refusal(path)
    np.testing.assert_array_equal(io.read_image(path, channel=2).array, rgba[..., 2])
    path.write_bytes(path.read_bytes()[:200])
    assert "may be truncated" in _refusal(path)
    path.write_bytes(b"no image")
    assert "not a PNG file" in _refusal(path)


def test_imagej_stack(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=(4, 4), metadata={"axes": "ZYX", "unit": "um", "spacing": 1.0}
    )
    assert "choose the slice by z, 0 to 3, or all (--z)" in _refusal(path)
    assert "there is no slice 4; z goes from 0 to 3 (--z)" in _refusal(path, z=4)
    assert "no page 3 (--page); choose by --z" in _refusal(path, page=3)
    image = io.read_image(path, z=3)
    np.testing.assert_array_equal(image.array, STACK[3])
    assert image.pixel_size == pytest.approx(0.25)
    assert image.interpretation == "slice 3 of 4: 20 × 30 px, uint16, axes ZYX, 0.25 µm per px"


def test_a_stack_is_taken_plane_by_plane(tmp_path):
    path, pixels = (
        tmp_path / "stack.ome.tif",
        np.arange(2 * 3 * 2 * 5 * 6, dtype=np.uint16).reshape(2, 3, 2, 5, 6),
    )
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "TZCYX"}, photometric="minisblack")
    stack = io.read_images(path, z="all", t="all", channel=1)
    assert (stack.axes, stack.shape, len(stack)) == ("TZ", (2, 3), 6)
    for i, image in enumerate(stack):
        np.testing.assert_array_equal(image.array, pixels.reshape(6, 2, 5, 6)[i, 1])
    assert stack.position(4) == {"T": 1, "Z": 1}
    assert stack[4].interpretation.startswith("time 1 of 2, slice 1 of 3, channel 1 of 2: ")
    series = io.read_images(path, z=2, t="all", channel=0)
    assert (series.axes, len(series), series.chosen) == ("T", 2, {"Z": 2, "C": 0})
    np.testing.assert_array_equal(series[1].array, pixels[1, 2, 0])
    with pytest.raises(IndexError):
        series[2]
    assert "choose the slice by z" in _refusal(path, t="all", channel=0)
    assert "choose the time by t" in _refusal(path, z=0, channel=0)
    assert io.read_images(path, z=0, t=0, axes="TZCYX")[0].axes == "CYX"


def test_one_plane_is_a_stack_of_one(tmp_path):
    np.save(tmp_path / "grey.npy", GREY)
    stack = io.read_images(tmp_path / "grey.npy", z="all", t="all")
    assert (stack.axes, stack.shape, len(stack), stack.position(0)) == ("", (), 1, {})
    np.testing.assert_array_equal(stack[0].array, GREY)


def test_pixels_that_are_not_square_have_no_size(tmp_path):
    for height, expected in [(0.5, 0.5), (0.502, 0.5), (0.6, None)]:
        metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": height}
        tifffile.imwrite(tmp_path / "x.ome.tif", GREY, metadata=metadata)
        with (
            nullcontext() if expected else pytest.warns(io.ImageFileWarning, match="areas need square pixels")
        ):
            assert io.read_image(tmp_path / "x.ome.tif").pixel_size == expected
    tifffile.imwrite(tmp_path / "y.tif", GREY, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    with pytest.warns(io.ImageFileWarning, match="0.5 um high and 0.25 um wide"):
        assert io.read_image(tmp_path / "y.tif").pixel_size is None
    assert "0.3 µm per px" in io.read_image(tmp_path / "y.tif", pixel_size=0.3).interpretation


def test_levels_of_a_pyramidal_tiff(tmp_path, everything_is_large):
    pytest.importorskip("zarr")
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        options = {"tile": (16, 16), "compression": "zlib"}
        metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        writer.write(GREY, subifds=1, metadata=metadata, **options)
        writer.write(GREY[::2, ::2], subfiletype=1, **options)
    for level, expected in enumerate((GREY, GREY[::2, ::2])):
        image = io.read_image(path, level=level)
        assert isinstance(image.array, _layout.Plane)
        np.testing.assert_array_equal(np.asarray(image.array), expected)
        assert image.pixel_size == 0.5 * 2**level
    assert "levels go from 0 to 1 (--level)" in _refusal(path, level=2)


def test_bigtiff(tmp_path):
    tifffile.imwrite(tmp_path / "big.tif", GREY, bigtiff=True)
    np.testing.assert_array_equal(io.read_image(tmp_path / "big.tif").array, GREY)


def test_jpeg(tmp_path):
    path = tmp_path / "photo.JPG"
    imsave(path, np.full((20, 30), 77, np.uint8), check_contrast=False)
    image = io.read_image(path)
    assert (image.array.shape, image.axes) == ((20, 30), "YX")
    assert abs(image.array.astype(int) - 77).max() <= 2
    path.write_bytes(b"no image")
    assert "not a JPEG file" in _refusal(path)


class FakeBioImage:
    """bioio's reader of a file with two scenes of two channels and three slices."""

    scenes = ("A", "B")
    resolution_levels = (0,)
    channel_names = ("DNA", "actin")
    dims = SimpleNamespace(order="TCZYX")
    physical_pixel_sizes = SimpleNamespace(Z=1.0, Y=0.25, X=0.25)

    def __init__(self, path):
        if path.read_bytes() != b"CZI":
            raise RuntimeError("no such format")
        self.scene = 0

    def set_scene(self, scene):
        self.scene = scene

    def set_resolution_level(self, level):
        assert level == 0

    @property
    def dask_data(self):
        return pytest.importorskip("dask.array").from_array(_scenes()[self.scene])


def _scenes():
    return np.arange(2 * 2 * 3 * 20 * 30).reshape(2, 1, 2, 3, 20, 30).astype(np.uint16)


def test_files_of_microscopes(tmp_path, monkeypatch):
    path = tmp_path / "plate.czi"
    path.write_bytes(b"CZI")
    monkeypatch.setitem(sys.modules, "bioio", None)
    assert "pip install bioio" in _refusal(path)
    monkeypatch.setitem(sys.modules, "bioio", SimpleNamespace(BioImage=FakeBioImage))
    assert "holds 2 images: 0: A (20 × 30 px), 1: B (20 × 30 px); choose by series" in _refusal(path)
    assert [series.name for series in io.list_series(path)] == ["A", "B"]
    image = io.read_image(path, series="B", channel=1, z=2)
    np.testing.assert_array_equal(image.array, _scenes()[1, 0, 1, 2])
    assert image.pixel_size == 0.25
    assert image.interpretation.startswith("series 1 (B) of 2, channel 1 (actin) of 2, slice 2 of 3: ")
    assert "no level 3" in _refusal(path, series=0, level=3)
    path.write_bytes(b"?")
    assert "cannot be read by bioio (no such format)" in _refusal(path)


def test_ome_channels(tmp_path):
    path = tmp_path / "image.ome.tif"
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DNA", "actin", "a", "b"]},
        "PhysicalSizeX": 650.0,
        "PhysicalSizeXUnit": "nm",
    }
    tifffile.imwrite(path, STACK, ome=True, metadata=metadata, photometric="minisblack")
    assert "4 channels (axes CYX); choose one by channel, 0 DNA, 1 actin, 2 a, 3 b" in _refusal(path)
    assert "no channel -1" in _refusal(path, channel=-1)
    image = io.read_image(path, channel=1)
    np.testing.assert_array_equal(image.array, STACK[1])
    assert image.pixel_size == pytest.approx(0.65)
    assert "channel 1 (actin) of 4" in image.interpretation
    both = io.read_image(path, axes="CYX")
    assert (both.axes, both.array.shape) == ("CYX", (4, 20, 30))


def test_pages_without_meaning_need_axes(tmp_path):
    for path in (tmp_path / "pages.tif", tmp_path / "pages.npy"):
        if path.suffix == ".npy":
            np.save(path, STACK)
        else:
            with tifffile.TiffWriter(path) as writer:
                for page in STACK:
                    writer.write(page, metadata=None, contiguous=False)
        assert "say so by axes with C, Z or T" in _refusal(path)
        np.testing.assert_array_equal(io.read_image(path, page=2).array, STACK[2])
        np.testing.assert_array_equal(io.read_image(path, axes="CYX").array, STACK)
        np.testing.assert_array_equal(io.read_image(path, axes="yxc", channel=1).array, STACK[..., 1])
        np.testing.assert_array_equal(io.read_image(path, axes="XCY").array, STACK.transpose(1, 2, 0))
        assert "does not fit" in _refusal(path, axes="YX")
        assert "no letter twice" in _refusal(path, axes="YXX")
        assert "no letter twice" in _refusal(path, axes="CZX")


def test_images_of_several_sizes_in_one_file(tmp_path):
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY)
        writer.write(GREY[:5])
    assert "holds 2 images: 0: 20 × 30 px, 1: 5 × 30 px; choose by series" in _refusal(path)
    np.testing.assert_array_equal(io.read_image(path, series=1).array, GREY[:5])
    assert "no series 2; series goes from 0 to 1 (--series)" in _refusal(path, series=2)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("axes", ["CYX", "YXC"])
@pytest.mark.usefixtures("everything_is_large")
def test_large_tiffs_stay_on_disk(tmp_path, compression, axes):
    pytest.importorskip("zarr")
    path = tmp_path / "large.tif"
    stored = STACK if axes == "CYX" else np.ascontiguousarray(STACK.transpose(1, 2, 0))
    tifffile.imwrite(path, stored, compression=compression, byteorder=">", photometric="minisblack")
    for image, expected in (
        (io.read_image(path, axes=axes, channel=2), STACK[2]),
        (io.read_image(path, axes=axes), STACK),
    ):
        assert isinstance(image.array, np.memmap if compression is None else _layout.Plane)
        assert image.array.shape == expected.shape
        np.testing.assert_array_equal(image.array[..., 3:9, 5:8], expected[..., 3:9, 5:8])
        np.testing.assert_array_equal(np.asarray(image.array), expected)
        view = check_images(image.array, channel_axis=0 if expected.ndim == 3 else None)[0][0]
        np.testing.assert_array_equal(view[:, 2:4, 1:3], expected.reshape(-1, 20, 30)[:, 2:4, 1:3])


@pytest.mark.usefixtures("everything_is_large")
def test_large_tiffs_are_read_without_zarr(tmp_path, monkeypatch):
    original = builtins.__import__

    def without_zarr(name, *args, **kwargs):
        if name.split(".")[0] == "zarr":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    path = tmp_path / "large.tif"
    tifffile.imwrite(path, GREY, compression="zlib")
    monkeypatch.setattr(builtins, "__import__", without_zarr)
    np.testing.assert_array_equal(io.read_image(path).array, GREY)
    (tmp_path / "image.zarr").mkdir()
    assert "pip install zarr" in _refusal(tmp_path / "image.zarr")


def test_damaged_and_unsuitable_files(tmp_path):
    path = tmp_path / "image.tif"
    assert "does not exist" in _refusal(path)
    path.write_bytes(b"")
    assert "is empty" in _refusal(path)
    path.write_text("this is text")
    assert "not a TIFF file in spite of its name" in _refusal(path)
    tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib")
    for n_bytes in (50, 1000, path.stat().st_size // 2):
        (tmp_path / "cut.tif").write_bytes(path.read_bytes()[:n_bytes])
        assert "truncated" in _refusal(tmp_path / "cut.tif", page=0)
    tifffile.imwrite(path, GREY.astype(complex))
    assert "pixels must be real numbers" in _refusal(path)
    assert "is a folder" in _refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    assert "suffix '.txt'; known are .tif" in _refusal(tmp_path / "notes.txt")
    np.save(tmp_path / "objects.npy", np.array([None, 1]), allow_pickle=True)
    assert "save plain numbers" in _refusal(tmp_path / "objects.npy")
    np.save(tmp_path / "line.npy", np.arange(5))
    assert "1 dimensions" in _refusal(tmp_path / "line.npy")


def test_missing_pages_are_noticed(tmp_path):
    path, cut = tmp_path / "pages.tif", tmp_path / "cut.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, metadata=None)
        first_page = path.stat().st_size
        writer.write(GREY, metadata=None, contiguous=False)
    content = path.read_bytes()
    cut.write_bytes(content[: max(first_page, GREY.nbytes + 400)])
    assert "truncated" in _refusal(cut)


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_labels_survive(tmp_path, largest, dtype):
    path = tmp_path / "new" / "folder" / "labels.tif"
    labels = np.zeros((600, 20), np.int32)
    labels[5:9, 3:8] = largest
    io.write_labels(path, labels, metadata={"resolution": 0.5, "model": "nucleí"})
    with tifffile.TiffFile(path) as file:
        written = file.asarray()
        assert json.loads(file.pages[0].description) == {"resolution": 0.5, "model": "nucleí"}
        assert file.pages[0].compression.name == "ADOBE_DEFLATE"
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, labels)
    assert [file.name for file in path.parent.iterdir()] == ["labels.tif"]
    for bad in (labels.astype(float), labels - 1):
        with pytest.raises(ValueError, match="integers from 0"):
            io.write_labels(path, bad)
    with pytest.raises(ValueError, match="do not have the axes 'YX'"):
        io.write_labels(path, labels[None])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_table(tmp_path):
    path = tmp_path / "cells.csv"
    table = {
        "image": np.array(["a, b", "ü"]),
        "label": np.arange(2),
        "y": np.array([0.1, np.nan], np.float32),
    }
    io.write_table(path, table)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["image", "label", "y"], ["a, b", "0", "0.1"], ["ü", "1", "nan"]]
    io.write_table(path, np.array([(1, 2.5)], [("label", int), ("area", float)]))
    assert path.read_text().split() == ["label,area", "1,2.5"]
    io.write_table(path, {"label": np.zeros(0, int)})
    assert path.read_text().split() == ["label"]
    with pytest.raises(ValueError, match=r"\(n,\) for one n"):
        io.write_table(path, {"a": [1], "b": [1, 2]})


def test_overlay(tmp_path, monkeypatch):
    path, labels = tmp_path / "overlay.png", np.zeros((20, 30), int)
    labels[4:12, 5:15] = 1
    io.write_overlay(path, np.stack([GREY, GREY]), labels)
    overlay = imread(path)
    assert overlay.shape == (20, 30, 3)
    colourful = np.ptp(overlay.astype(int), axis=2) > 0
    assert colourful.sum() == 2 * (8 + 10) - 4  # the rim, inside the object
    assert colourful[4, 5:15].all()
    monkeypatch.setattr("cellsegmenter.io._overlays.MAX_OVERLAY", 10)
    io.write_overlay(path, GREY, labels)
    assert imread(path).shape == (7, 10, 3)
    with pytest.raises(io.ImageFileError, match=r"must end in \.png"):
        io.write_overlay(tmp_path / "overlay.jpg", GREY, labels)
    with pytest.raises(ValueError, match="must agree"):
        io.write_overlay(path, GREY[1:], labels)


def test_montage(tmp_path, monkeypatch):
    path, labels = tmp_path / "overlay.png", np.zeros((20, 30), int)
    labels[4:12, 5:15] = 1
    panels = [io.Panel(f"z {z}", GREY, np.roll(labels, 3 * z, axis=1)) for z in range(5)]
    io.write_montage(path, panels)
    sheet = imread(path)
    assert sheet.shape == (3 * 24 - 4, 2 * 34 - 4, 3)
    io.write_overlay(path, *panels[3][1:])
    rows = slice(12, 20)  # below the title
    np.testing.assert_array_equal(sheet[24:44, 34:64][rows], imread(path)[rows])
    assert (sheet[48:, 34:] == 255).all()  # nothing where a sixth panel would be
    titles = [sheet[24 * (z // 2) :, 34 * (z % 2) :][:8, 8:20] for z in (0, 2, 4)]
    assert (titles[0] != titles[1]).any()
    assert (titles[1] != titles[2]).any()
    monkeypatch.setattr("cellsegmenter.io._overlays.MAX_OVERLAY", 30)
    io.write_montage(path, panels)
    assert imread(path).shape == (3 * 14 - 4, 2 * 19 - 4, 3)


def test_check_writable(tmp_path):
    io.check_writable(tmp_path / "a" / "b.tif")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(io.ImageFileError, match="is a folder"):
        io.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(io.ImageFileError, match="is a file, not a folder"):
        io.check_writable(tmp_path / "file" / "labels.tif")


def test_check_writable_heeds_permissions(tmp_path, monkeypatch):
    (tmp_path / "old.tif").touch()

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # root may write anywhere, so both are made up
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(io.ImageFileError, match="Read-only file system"):
        io.check_writable(tmp_path / "labels.tif")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(io.ImageFileError, match="write-protected"):
        io.check_writable(tmp_path / "old.tif")


def test_expand_inputs(tmp_path):
    for name in ("b.tif", "a.PNG", "a_labels.tif", ".hidden.tif", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("deep", "c.ome.zarr"):
        (tmp_path / name).mkdir()
    names = [path.name for path in io.expand_inputs([tmp_path / "b.tif", tmp_path])]
    assert names == ["b.tif", "a.PNG", "a_labels.tif", "c.ome.zarr"]
    assert io.expand_inputs([str(tmp_path / "b*.tif")]) == [tmp_path / "b.tif"]
    io.write_labels(tmp_path / "a_labels.tif", np.zeros((3, 3), int))
    for path, message in [
        (tmp_path / "deep", "without images"),
        (tmp_path / "*.jpg", "matches no image"),
        (tmp_path / "*_labels.tif", "matches no image.*left out, as results and no images"),
        (tmp_path / "x.tif", "does not exist"),
    ]:
        with pytest.raises(io.ImageFileError, match=message):
            io.expand_inputs([path])
