"""OME-Zarr of every version and layout: which images there are, which one is read, and what it says of itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cellsegmenter import io

zarr = pytest.importorskip("zarr")

STACK = np.random.default_rng(0).integers(0, 2000, (4, 20, 30)).astype(np.uint16)
GREY = STACK[0]


def _refusal(path, **options):
    with pytest.raises(io.ImageFileError) as caught:
        io.read_image(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write_group(path: Path, version: str = "0.4", **attributes: object) -> None:
    """A group with attributes as a version of NGFF has them."""
    group = zarr.open_group(path, mode="a", zarr_format=3 if version == "0.5" else 2)
    group.attrs.update({"ome": {"version": version, **attributes}} if version == "0.5" else attributes)


def write_image(
    path: Path, pixels: np.ndarray, version: str = "0.4", scale: float = 0.5, unit="micrometer"
) -> None:
    """An image as a version of NGFF has it; (T, C, Z, Y, X) for the first two, any of the last axes for others."""
    names = "tczyx"[-pixels.ndim :]
    multiscale: dict[str, object] = {"version": version, "datasets": [{"path": "0"}]}
    if version == "0.3":
        multiscale["axes"] = list(names)
    elif version in ("0.4", "0.5"):
        units = [{"unit": unit} if unit and name in "yx" else {} for name in names]
        multiscale["axes"] = [{"name": name, **said} for name, said in zip(names, units, strict=True)]
        steps = [{"type": "scale", "scale": [scale if name in "yx" else 1.0 for name in names]}]
        multiscale["datasets"] = [{"path": "0", "coordinateTransformations": steps}]
    write_group(path, version, multiscales=[multiscale])
    group = zarr.open_group(path, mode="a")
    group.create_array("0", data=pixels, chunks=(1,) * (pixels.ndim - 2) + (16, 16))


def write_plate(path: Path, version: str = "0.4") -> dict[str, np.ndarray]:
    """Two wells of two fields each, and their pixels by name."""
    wells = [{"path": f"A/{column}", "rowIndex": 0, "columnIndex": column - 1} for column in (1, 2)]
    plate = {"rows": [{"name": "A"}], "columns": [{"name": "1"}, {"name": "2"}], "wells": wells}
    write_group(path, version, plate=plate)
    for column in (1, 2):
        well = {"images": [{"path": "0"}, {"path": "1"}]}
        write_group(path / "A" / str(column), version, well=well)
    fields = {f"A{column}/{field}": GREY + 10 * column + field for column in (1, 2) for field in (0, 1)}
    for name, pixels in fields.items():
        write_image(path / "A" / name[1:], pixels, version, scale=0.5 if "A1" in name else 0.25)
    return fields


def test_ome_zarr(tmp_path):
    path = tmp_path / "image.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=STACK[:2], chunks=(1, 16, 16))
    axes = [{"name": "c"}, {"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "micrometer"}]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [level]}]
    image = io.read_image(path, channel=1)
    np.testing.assert_array_equal(image.array, STACK[1])
    assert image.pixel_size == 0.5
    (path / ".zattrs").write_text("{}")
    assert "no image by the rules of OME-Zarr" in _refusal(path)


def test_levels_of_ome_zarr(tmp_path):
    path = tmp_path / "image.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    steps = [[{"type": "scale", "scale": [scale, scale]}] for scale in (1.0, 2.0)]
    for level in (0, 1):
        group.create_array(str(level), data=GREY[:: level + 1, :: level + 1])
    group.attrs["ome"] = {
        "version": "0.5",
        "omero": {"channels": [{"label": "DNA"}]},
        "multiscales": [
            {
                "axes": [{"name": name, "type": "space", "unit": "nanometer"} for name in "yx"],
                "datasets": [{"path": str(i), "coordinateTransformations": steps[i]} for i in (0, 1)],
                "coordinateTransformations": [{"type": "scale", "scale": [250, 250]}],
            }
        ],
    }
    for level in (0, 1):
        image = io.read_image(path, level=level)
        np.testing.assert_array_equal(image.array, GREY[:: level + 1, :: level + 1])
        assert image.pixel_size == pytest.approx(0.25 * (level + 1))
    assert "levels go from 0 to 1 (--level)" in _refusal(path, level=2)


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.4", "0.5"])
def test_every_version_is_read(tmp_path, version):
    path = tmp_path / "image.ZARR"  # the suffix in either case
    write_image(path, STACK[None, None, :], version)
    image = io.read_image(path, z=2)
    np.testing.assert_array_equal(image.array, STACK[2])
    assert image.pixel_size == (0.5 if version in ("0.4", "0.5") else None)
    assert "axes TCZYX" in image.interpretation
    assert io.expand_inputs([path]) == [path]
    assert io.expand_inputs([tmp_path]) == [path]


def test_axes_that_a_version_should_name_and_does_not_are_not_guessed(tmp_path):
    path = tmp_path / "image.zarr"
    write_image(path, STACK)
    attributes = json.loads((path / ".zattrs").read_text())
    del attributes["multiscales"][0]["axes"]
    (path / ".zattrs").write_text(json.dumps(attributes))
    assert "say so by axes with C, Z or T (--axes)" in _refusal(path)
    np.testing.assert_array_equal(io.read_image(path, axes="ZYX", z=1).array, STACK[1])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("listed", [True, False])
def test_series_of_bioformats2raw(tmp_path, version, listed):
    path = tmp_path / "slide.zarr"
    write_group(path, version, **{"bioformats2raw.layout": 3})
    names = ["b", "a"] if listed else [str(i) for i in range(11)]
    for i, name in enumerate(names):
        write_image(path / name, GREY + i, version, scale=0.5 / (i + 1))
    if listed:
        write_group(path / "OME", version, series=names)
    n = len(names)
    refusal = _refusal(path)
    assert f"holds {n} images: 0: {names[0]} (20 × 30 px), 1: {names[1]} (20 × 30 px)" in refusal
    assert "choose by series" in refusal
    for i in (0, n - 1):
        for image in (
            io.read_image(path, series=i),
            io.read_image(path, series=names[i]),
            io.read_image(path / names[i]),
        ):
            np.testing.assert_array_equal(image.array, GREY + i)
            assert image.pixel_size == pytest.approx(0.5 / (i + 1))
    assert f"no series {n}; series goes from 0 to {n - 1}" in _refusal(path, series=n)
    assert "no image named 'c'" in _refusal(path, series="c")


def test_what_bioformats2raw_writes_beside_its_images(tmp_path):
    path = tmp_path / "slide.zarr"
    write_group(path, **{"bioformats2raw.layout": 3})
    images = [f'<Image ID="Image:{i}" Name="region {i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="30" SizeY="20" SizeC="2" SizeZ="1" SizeT="1" PhysicalSizeX="{250 * (i + 1)}" PhysicalSizeXUnit="nm">'
        f'<Channel ID="Channel:{i}:0" Name="DNA"/><Channel ID="Channel:{i}:1" Name="actin{i}"/></Pixels></Image>'
        for i in (0, 1)]  # fmt: skip
    for i in (0, 1):
        write_image(path / str(i), STACK[None, 2 * i : 2 * i + 2, None], "0.3")
    (path / "OME").mkdir()
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{"".join(images)}</OME>'
    (path / "OME" / "METADATA.ome.xml").write_text(xml)
    listed = io.list_series(path)
    assert [(series.name, series.pixel_size.um) for series in listed] == [
        ("region 0", 0.25),
        ("region 1", 0.5),
    ]
    assert listed[1].channel_names == ("DNA", "actin1")
    for image in (
        io.read_image(path, series="region 1", channel="actin1"),
        io.read_image(path / "1", channel=1),
    ):
        np.testing.assert_array_equal(image.array, STACK[3])
        assert image.pixel_size == 0.5
    (path / "OME" / "METADATA.ome.xml").write_text("<OME")
    assert "OME-XML is damaged" in _refusal(path, series=0)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_fields_of_a_plate(tmp_path, version):
    path = tmp_path / "plate.zarr"
    fields = write_plate(path, version)
    refusal = _refusal(path)
    assert "holds 4 images: 0: A1/0 (20 × 30 px), 1: A1/1 (20 × 30 px)" in refusal
    assert "choose by --well and --field, or by series" in refusal
    listed = io.list_series(path)
    assert [(s.name, s.well, s.field) for s in listed] == [(n, *n.split("/")) for n in fields]
    for number, (name, pixels) in enumerate(fields.items()):
        well, field = name.split("/")
        for image in (
            io.read_image(path, series=name),
            io.read_image(path, series=number),
            io.read_image(path / "A" / well[1:], series=int(field)),
            io.read_image(path / "A", series=name),
            io.read_image(path / "A" / well[1:] / field),
        ):
            np.testing.assert_array_equal(image.array, pixels)
            assert image.pixel_size == (0.5 if well == "A1" else 0.25)
    assert "holds 2 images: 0: A1/0" in _refusal(path / "A" / "1")


def test_what_a_plate_lacks_is_named(tmp_path):
    path = tmp_path / "plate.zarr"
    write_plate(path)
    shutil.rmtree(path / "A" / "2" / "1")
    assert io.read_image(path, series="A2/0").pixel_size == 0.25
    with pytest.raises(io.ImageFileError, match="A/2/1 is missing or incomplete; copy or export it again"):
        io.read_image(path, series="A2/1")
    shutil.rmtree(path / "A" / "1")
    with pytest.raises(io.ImageFileError, match="A/1/0 is missing or incomplete"):
        io.read_image(path, series="A1/0")
    assert [series.name for series in io.list_series(path)] == ["A1/0", "A2/0", "A2/1"]


def test_missing_chunks_are_no_black_image(tmp_path):
    path = tmp_path / "image.zarr"
    write_image(path, GREY)
    for chunk in path.glob("0/[0-9]*"):
        shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()
    assert "holds no pixels: its chunks are missing" in _refusal(path)


def test_a_damaged_chunk_is_refused(tmp_path):
    path = tmp_path / "image.zarr"
    write_image(path, GREY)
    chunk = next(file for file in path.glob("0/**/*") if file.is_file() and file.name[0] in "01")
    chunk.write_bytes(chunk.read_bytes()[:10])
    assert "may be damaged or incomplete" in _refusal(path)


def test_what_is_no_image_names_what_is(tmp_path):
    path = tmp_path / "image.zarr"
    write_image(path, GREY)
    assert "an array of one resolution; name the folder above it" in _refusal(path / "0")
    (path / ".zattrs").write_text("{")
    assert "cannot be read as OME-Zarr" in _refusal(path)
    (tmp_path / "file.zarr").write_text("zip")
    assert "is a file, and OME-Zarr is a folder" in _refusal(tmp_path / "file.zarr")


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [("nanometer", 500, 0.5), ("millimeter", 5e-4, 0.5), ("angstrom", 5000, 0.5), ("meter", 5e-7, 0.5),
     ("inch", 1 / 50800, 0.5), (None, 1, None)],
)  # fmt: skip
def test_units_of_axes(tmp_path, unit, scale, expected):
    write_image(tmp_path / "image.zarr", GREY, scale=scale, unit=unit)
    size = io.read_image(tmp_path / "image.zarr").pixel_size
    assert size == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("unit", "reason"), [(None, "without a unit"), ("furlong", "'furlong' is no known unit")]
)
def test_a_size_that_cannot_be_used_is_said(tmp_path, unit, reason):
    write_image(tmp_path / "image.zarr", GREY, scale=0.5, unit=unit)
    with pytest.warns(io.ImageFileWarning, match=reason):
        assert io.read_image(tmp_path / "image.zarr").pixel_size is None
    assert io.read_image(tmp_path / "image.zarr", pixel_size=0.3).pixel_size == 0.3
