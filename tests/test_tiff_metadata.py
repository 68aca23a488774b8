"""What TIFF files say of their images: series with their own sizes, units, resolutions, and planes that are missing."""

import uuid

import numpy as np
import pytest
import tifffile

from cellsegmenter import io
from cellsegmenter.io._units import Length, micrometres

GREY = np.random.default_rng(0).integers(0, 2000, (20, 30)).astype(np.uint16)


def _refusal(path, **options):
    with pytest.raises(io.ImageFileError) as caught:
        io.read_image(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_each_image_of_an_ome_tiff_has_its_own_size_and_channels(tmp_path):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, size, channels in (("slide", 0.5, ("DNA", "actin")), ("overview", 2.0, ("red", "green"))):
            metadata = {"axes": "CYX", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size}
            metadata["Channel"] = {"Name": list(channels)}
            writer.write(np.stack([GREY, GREY + int(size)]), metadata=metadata, photometric="minisblack")
    refusal = _refusal(path)
    assert "holds 2 images: 0: slide (20 × 30 px), 1: overview (20 × 30 px); choose by series" in refusal
    for series, channel, size in ((0, "actin", 0.5), ("overview", "green", 2.0), (1, 1, 2.0)):
        image = io.read_image(path, series=series, channel=channel)
        np.testing.assert_array_equal(image.array, GREY + int(size))
        assert image.pixel_size == size
    assert image.interpretation.startswith("series 1 (overview) of 2, channel 1 (green) of 2: ")
    assert [(s.name, s.shape, s.pixel_size.um) for s in io.list_series(path)] == [
        ("slide", (2, 20, 30), 0.5),
        ("overview", (2, 20, 30), 2.0),
    ]
    assert "no image named 'label'" in _refusal(path, series="label")


def test_fewer_names_than_channels(tmp_path):
    path = tmp_path / "rgb.ome.tif"
    colours = np.stack([GREY, GREY + 1, GREY + 2], axis=-1)
    metadata = {"axes": "YXS", "Channel": {"Name": ["stained"]}}
    tifffile.imwrite(path, colours, ome=True, metadata=metadata, photometric="rgb")
    image = io.read_image(path, channel=2)
    np.testing.assert_array_equal(image.array, GREY + 2)
    assert image.interpretation.startswith("channel 2 of 3: ")


def write_set(folder, present=(0, 1, 2), n_files=3):
    """An OME-TIFF of several files, one time in each, of which some are there."""
    ids = [f"urn:uuid:{uuid.uuid4()}" for _ in range(n_files)]
    data = "".join(
        f'<TiffData IFD="0" PlaneCount="1" FirstT="{t}"><UUID FileName="t{t}.ome.tif">{ids[t]}</UUID></TiffData>'
        for t in range(n_files)
    )
    for t in present:
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[t]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="1" SizeC="1" '
            f'SizeT="{n_files}"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            folder / f"t{t}.ome.tif", GREY + t, metadata=None, description=xml, photometric="minisblack"
        )
    return folder / f"t{present[0]}.ome.tif"


def test_a_complete_set_is_read_from_any_of_its_files(tmp_path):
    write_set(tmp_path)
    for name in ("t0", "t2"):
        stack = io.read_images(tmp_path / f"{name}.ome.tif", t="all")
        for t, image in enumerate(stack):
            np.testing.assert_array_equal(image.array, GREY + t)


def test_a_plane_of_a_missing_file_is_no_black_image(tmp_path):
    path = write_set(tmp_path, present=(0, 2))
    for t in (1, "all"):
        with pytest.raises(
            io.ImageFileError, match=r"in files that are missing beside it: t1.ome.tif; copy them there"
        ):
            io.read_images(path, t=t)
    for t in (0, 2):
        with pytest.warns(
            io.ImageFileWarning,
            match=r"other planes of this image are in files that are missing beside it: t1.ome.tif",
        ):
            np.testing.assert_array_equal(io.read_image(path, t=t).array, GREY + t)
    with pytest.raises(io.ImageFileError, match=r"t1.ome.tif"):
        io.read_image(path, axes="CYX")  # takes all of them


def test_planes_that_a_recording_never_reached_are_no_black_images(tmp_path):
    path = tmp_path / "stopped.ome.tif"
    stack = np.stack([GREY, GREY + 1])
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TYX"}, photometric="minisblack")
    xml = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, xml.replace('SizeT="2"', 'SizeT="5"'))
    with pytest.raises(io.ImageFileError, match="in none of its files, as the recording ended early"):
        io.read_image(path, t=3)
    with pytest.warns(io.ImageFileWarning, match="in none of its files"):
        np.testing.assert_array_equal(io.read_image(path, t=1).array, GREY + 1)


def test_a_renamed_file_of_its_own_is_read(tmp_path):
    path = write_set(tmp_path, present=(0,), n_files=1)
    renamed = path.rename(tmp_path / "renamed.ome.tif")
    np.testing.assert_array_equal(io.read_image(renamed).array, GREY)


def test_a_file_taken_out_of_its_set_names_the_others(tmp_path):
    path = write_set(tmp_path, present=(0, 1, 2))
    moved = tmp_path / "elsewhere" / "renamed.ome.tif"
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(io.ImageFileError, match=r"missing beside it: t1.ome.tif, t2.ome.tif; copy"):
        io.read_images(moved, t="all")
    with pytest.warns(io.ImageFileWarning, match=r"t1.ome.tif, t2.ome.tif"):
        np.testing.assert_array_equal(io.read_image(moved, t=0).array, GREY)


def test_an_image_of_a_missing_file_keeps_its_number(tmp_path):
    path = tmp_path / "a.ome.tif"
    images = "".join(
        f'<Image ID="Image:{i}" Name="{name}"><Pixels ID="Pixels:{i}" DimensionOrder="XYZCT" Type="uint16" SizeX="30" '
        f'SizeY="20" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="{i + 1}"><Channel ID="Channel:{i}:0" '
        f'SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID>'
        "</TiffData></Pixels></Image>"
        for i, name in enumerate("ba")
    )
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">{images}</OME>'
    tifffile.imwrite(path, GREY, metadata=None, description=xml, photometric="minisblack")
    assert "pixels of image 0 are in files that are missing beside it: b.ome.tif; copy" in _refusal(
        path, series=0
    )
    image = io.read_image(path, series=1)
    np.testing.assert_array_equal(image.array, GREY)
    assert image.pixel_size == 2


def test_absurd_ome_xml_is_refused(tmp_path):
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "YX"})
    xml = tifffile.tiffcomment(path)
    for sizes, reason in (
        ('SizeT="1000000000000"', "claims an image of the sizes"),
        ('SizeT="many"', "cannot be read"),
    ):
        tifffile.imwrite(path, GREY, metadata=None, description=xml.replace('SizeT="1"', sizes).encode())
        assert reason in _refusal(path)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (500, "nm", 0.5), (500, "NM", 0.5), (0.5, "µm", 0.5), (0.5, "μm", 0.5), (0.5, "um", 0.5),
        (0.5, "\\u00B5m", 0.5),
        (0.5, "micron", 0.5), (0.5, "Microns", 0.5), (5e-4, "mm", 0.5), (5e-5, "cm", 0.5), (5e-7, "m", 0.5),
        (5e-13, "Mm", 0.5), (5e-7, "meter", 0.5), (5e-7, "metres", 0.5), (5e5, "pm", 0.5), (5000, "Å", 0.5),
        (5000, "\N{ANGSTROM SIGN}", 0.5), (5000, "angstrom", 0.5), (1 / 50800, "inch", 0.5), (1 / 50800, "in", 0.5),
        (1 / 50800, "inches", 0.5), (5e8, "fm", 0.5), (5e-10, "km", 0.5), (0.5, "micrometer", 0.5),
        (1, "furlong", None), (1, "pixel", None), (1, "", None),
    ],
)  # fmt: skip
def test_units_of_length(value, unit, expected):
    length = micrometres(Length(value, unit))
    assert length == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(650, "nm", 0.65), (6.5e-5, "cm", 0.65), (6500, "Å", 0.65), (1, "pixel", None)],
)
def test_units_of_ome(tmp_path, value, unit, expected):
    path = tmp_path / "x.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": value, "PhysicalSizeXUnit": unit}
    metadata |= {"PhysicalSizeY": value, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, GREY, ome=True, metadata=metadata)
    size = io.read_image(path).pixel_size
    assert size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("value", "unit", "reason"), [
    (2, "reference frame", "'reference frame'"), (2, "pixel", "'pixel'"),
    (25400 / 72, "µm", "which is a screen's resolution"), (25400 / 96000, "mm", "which is a screen's")])  # fmt: skip
def test_a_size_in_ome_that_cannot_be_used_is_said(tmp_path, value, unit, reason):
    path = tmp_path / "x.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": value, "PhysicalSizeXUnit": unit}
    tifffile.imwrite(path, GREY, ome=True, metadata=metadata)
    with pytest.warns(io.ImageFileWarning, match=reason):
        assert io.read_image(path).pixel_size is None
    assert io.read_image(path, pixel_size=0.2).pixel_size == 0.2


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(2, "micron", 0.5), (2, "um", 0.5), (2e-3, "nm", 0.5), (2000, "mm", 0.5), (20000, "cm", 0.5), (50800, "inch", 0.5),
     (72, "inch", None), (1, "pixel", None)],
)  # fmt: skip
def test_units_of_imagej(tmp_path, per_unit, unit, expected):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    size = io.read_image(path).pixel_size
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(20000, "CENTIMETER", 0.5), (50800, "INCH", 0.5), (20000, "NONE", None), (72, "INCH", None), (1, "INCH", None),
     (1, "CENTIMETER", None), (300, "INCH", None), (118.11, "CENTIMETER", None), (2400, "INCH", None)],
)  # fmt: skip
def test_resolution_tags(tmp_path, per_unit, unit, expected):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, metadata=None, resolution=(per_unit, per_unit), resolutionunit=unit)
    size = io.read_image(path).pixel_size
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-4))


def test_a_coarse_resolution_that_no_printer_has_is_said(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, metadata=None, resolution=(333.25, 333.25), resolutionunit="INCH")
    with pytest.warns(io.ImageFileWarning, match=r"333.25 pixels make one inch"):
        assert io.read_image(path).pixel_size is None


@pytest.mark.parametrize("compression", ["lzw", "zstd", "jpeg2000", "packbits", "lzma", "deflate", "jpeg"])
def test_compressions_need_nothing_further(tmp_path, compression):
    path = tmp_path / "x.tif"
    pixels = np.kron(GREY, np.ones((4, 4), np.uint16))
    if compression == "jpeg":
        pixels = (pixels // 8).astype(np.uint8)
    tifffile.imwrite(path, pixels, compression=compression)
    read = io.read_image(path).array
    assert read.dtype == pixels.dtype
    if compression == "jpeg":
        assert np.abs(read.astype(int) - pixels).mean() < 10
    else:
        np.testing.assert_array_equal(read, pixels)


def test_a_header_that_claims_more_than_a_file_can_hold_is_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(2**31)
        file.pages[0].tags["ImageLength"].overwrite(2**31)
    assert "claims 9.22e+09 GB of pixels" in _refusal(path)


def test_an_uncompressed_page_that_is_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(30_000)
    assert "claims 0.0012 GB of pixels" in _refusal(path)


def test_a_strip_that_is_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GREY, compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(800_000_000)
    assert "claims 0.8 GB of pixels" in _refusal(path)
