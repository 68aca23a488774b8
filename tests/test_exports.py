"""What other programs open: QuPath's GeoJSON, ImageJ's ROIs, OME-Zarr, their coordinates held against each other."""

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellsegmenter import io
from cellsegmenter.io import _outlines, _zarr_writer
from cellsegmenter.io._files import replacing_folder

shapely = pytest.importorskip("shapely")

# 1: a ring with a hole that opens at a corner; 2: two pixels that touch at a corner; 3: one pixel, at the rim.
DRAWN = np.array(
    [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 2, 0, 0],
        [1, 1, 0, 0, 0, 2, 0],
        [0, 0, 0, 0, 0, 0, 3],
    ]
)
SEVERAL = np.stack([DRAWN, np.where(DRAWN == 1, 1, 0)])  # two planes


@pytest.fixture
def labels():
    """Blobs, some of which touch."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:300, :290]
    labels = np.zeros(rows.shape, np.int32)
    for label, (row, column) in enumerate(random.uniform(0, 290, (40, 2)), start=1):
        labels[(rows - row) ** 2 + (columns - column) ** 2 < random.uniform(4, 15) ** 2] = label
    names = np.unique(labels)
    return np.searchsorted(names, labels).astype(np.int32)


def table_of(labels):
    """A table with one row per object, one value of which is not finite."""
    label = np.concatenate([np.unique(plane[plane > 0]) for plane in labels.reshape(-1, *labels.shape[-2:])])
    odd = np.arange(len(label)) + 0.5
    odd[-1] = np.nan
    return {
        "image": np.full(len(label), "x.tif"),
        "label": label,
        "bbox-0": label * 0,
        "area": label * 7,
        "solidity": odd,
        "confidence": label / 100,
    }


def rasterised(geometry, shape):
    """The pixels whose centres a polygon holds."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return shapely.contains_xy(geometry, columns, rows)


def as_geometry(outline):
    return shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in outline.polygons])


@settings(max_examples=150, deadline=None)
@given(arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_outlines_are_valid_and_rasterise_to_the_labels(labels):
    back = np.zeros_like(labels)
    for outline in _outlines.object_outlines(labels):
        geometry = as_geometry(outline)
        assert geometry.is_valid, shapely.is_valid_reason(geometry)
        assert geometry.area == (labels == outline.label).sum()
        back[rasterised(geometry, labels.shape)] = outline.label
    np.testing.assert_array_equal(back, labels)


def test_outlines_as_drawn():
    ring, pair, pixel = _outlines.object_outlines(DRAWN)
    [[outer, hole]] = ring.polygons
    assert outer.tolist() == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert [len(polygon) for polygon in pair.polygons] == [1, 1]
    assert pixel == (3, pixel.polygons)
    assert pixel.polygons[0][0].tolist() == [[6, 3], [7, 3], [7, 4], [6, 4]]


def test_outlines_do_not_depend_on_what_is_around(labels):
    # As when a large image is written in tiles: an object that lies in a crop has the same outline there.
    corner = np.array([37, 21])
    crop = labels[21:, 37:]
    whole = {outline.label: outline for outline in _outlines.object_outlines(labels)}
    inside = set(np.unique(crop)) - set(np.unique(labels[:21])) - set(np.unique(labels[:, :37])) - {0}
    assert len(inside) > 20
    for outline in _outlines.object_outlines(crop):
        if outline.label in inside:
            moved = [[ring + corner for ring in rings] for rings in outline.polygons]
            assert str(moved) == str(whole[outline.label].polygons)


def test_geojson_is_what_qupath_expects(tmp_path):
    path, table = tmp_path / "cells.geojson", table_of(DRAWN)
    io.write_geojson(path, DRAWN, table)
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    assert [feature["geometry"]["type"] for feature in content["features"]] == [
        "Polygon",
        "MultiPolygon",
        "Polygon",
    ]
    for row, feature in enumerate(content["features"]):
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["name"] == str(row + 1)
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid
        np.testing.assert_array_equal(rasterised(geometry, DRAWN.shape), row + 1 == DRAWN)
        assert "plane" not in feature["geometry"]
    first, _, last = (feature["properties"]["measurements"] for feature in content["features"])
    assert first == {"area": 7, "solidity": 0.5, "confidence": 0.01}
    assert last == {"area": 21, "confidence": 0.03}  # not a number is no number
    io.write_geojson(path, np.zeros((3, 3), int))
    assert json.loads(path.read_text())["features"] == []


def test_planes_are_told_apart(tmp_path):
    roifile = pytest.importorskip("roifile")
    io.write_geojson(tmp_path / "z.geojson", SEVERAL, table_of(SEVERAL), axes="ZYX", position={"T": 4})
    planes = [
        feature["geometry"]["plane"]
        for feature in json.loads((tmp_path / "z.geojson").read_text())["features"]
    ]
    assert planes == [{"c": -1, "z": z, "t": 4} for z in (0, 0, 0, 1)]
    io.write_rois(tmp_path / "z.zip", SEVERAL, axes="ZYX", position={"T": 4})
    rois = roifile.roiread(tmp_path / "z.zip")
    assert [(roi.name, roi.z_position, roi.t_position) for roi in rois] == [
        ("t4-z0-1", 1, 5),
        ("t4-z0-2", 1, 5),
        ("t4-z0-3", 1, 5),
        ("t4-z1-1", 2, 5),
    ]
    with pytest.raises(ValueError, match="Y and X come last"):
        io.write_geojson(tmp_path / "z.geojson", SEVERAL)


@pytest.mark.parametrize("change", ["fewer", "more", "other"])
def test_a_table_of_other_labels_is_refused(tmp_path, change):
    table = table_of(DRAWN)
    rows = {"fewer": [0, 1], "more": [0, 1, 2, 2], "other": [1, 0, 2]}[change]
    with pytest.raises(ValueError, match="table"):
        io.write_geojson(tmp_path / "x.geojson", DRAWN, {name: table[name][rows] for name in table})
    assert list(tmp_path.iterdir()) == []


def test_rois_and_geojson_have_the_same_coordinates(tmp_path, labels):
    roifile = pytest.importorskip("roifile")
    labels = np.pad(labels, ((0, 0), (0, DRAWN.shape[1])))
    labels[: DRAWN.shape[0], -DRAWN.shape[1] :] += np.where(DRAWN > 0, DRAWN + labels.max(), 0)
    io.write_rois(tmp_path / "cells.zip", labels)
    io.write_geojson(tmp_path / "cells.geojson", labels)
    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    rois = roifile.roiread(tmp_path / "cells.zip")
    assert [roi.name for roi in rois] == [feature["properties"]["name"] for feature in features]
    composites = 0
    for roi, feature in zip(rois, features, strict=True):
        coordinates = feature["geometry"]["coordinates"]
        polygons = coordinates if feature["geometry"]["type"] == "MultiPolygon" else [coordinates]
        rings = [ring for rings in polygons for ring in rings]
        if len(rings) == 1:
            assert roi.coordinates().tolist() == rings[0][:-1]
        else:
            composites += 1
            paths = roi.coordinates(multi=True)
            assert [path[: len(ring) - 1].tolist() for path, ring in zip(paths, rings, strict=True)] == [
                ring[:-1] for ring in rings
            ]
        box = (roi.top, roi.left, roi.bottom, roi.right)
        rows, columns = np.nonzero(labels == int(roi.name))
        assert box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert composites >= 2


def test_rois_refuse_what_they_cannot_hold(tmp_path):
    with pytest.raises(io.ImageFileError, match=r"must end in \.zip"):
        io.write_rois(tmp_path / "cells.roi", DRAWN)
    with pytest.raises(io.ImageFileError, match="reach 32767 px"):
        io.write_rois(tmp_path / "cells.zip", np.zeros((1, 40000), np.uint8))


def test_maps_and_label_stacks(tmp_path):
    confidence = io.confidence_map(DRAWN, np.array([0.5, 0.25, 1]))
    assert (confidence.dtype, confidence[0, 0], confidence[0, 3], confidence[3, 6]) == (np.float32, 0.5, 0, 1)
    io.write_map(tmp_path / "map.tif", confidence, pixel_size=0.5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tif"), confidence)
    io.write_labels(tmp_path / "z.tif", SEVERAL, axes="ZYX", pixel_size=0.5)
    with tifffile.TiffFile(tmp_path / "z.tif") as file:
        np.testing.assert_array_equal(file.asarray(), SEVERAL)
        assert len(file.pages) == 2
        assert file.pages[0].resolution == (20000, 20000)
        assert file.pages[0].resolutionunit.name == "CENTIMETER"
    with pytest.raises(ValueError, match="does not have the axes"):
        io.write_map(tmp_path / "map.tif", confidence, axes="ZYX")


class TestOmeZarr:
    @pytest.fixture(autouse=True)
    def _zarr(self):
        self.zarr = pytest.importorskip("zarr")

    def image(self, tmp_path, pixels, saved_as="YX", **choice):
        path = tmp_path / "image.ome.tif"
        tifffile.imwrite(
            path,
            pixels,
            metadata={"axes": saved_as, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            photometric="minisblack",
        )
        return io.read_images(path, **choice)

    def test_a_new_group_holds_image_and_labels(self, tmp_path, labels, monkeypatch):
        monkeypatch.setattr(_zarr_writer, "CHUNK", 64)
        monkeypatch.setattr(_zarr_writer, "SMALLEST", 100)
        pixels = np.random.default_rng(0).integers(0, 5000, labels.shape).astype(np.uint16)
        path = tmp_path / "x.ome.zarr"
        for _ in range(2):  # the second replaces the first
            io.write_ome_zarr(path, self.image(tmp_path, pixels), labels, table_of(labels))
        image = io.read_image(path)
        np.testing.assert_array_equal(image.array, pixels)
        assert image.pixel_size == 0.5
        half = io.read_image(path, level=1)
        assert (half.pixel_size, half.array.shape) == (1.0, (150, 145))
        np.testing.assert_allclose(half.array, pixels.reshape(150, 2, 145, 2).mean((1, 3)), atol=0.51)
        root = self.zarr.open_group(path, mode="r")
        np.testing.assert_array_equal(root["labels/cells/0"][...], labels)
        np.testing.assert_array_equal(root["labels/cells/1"][...], labels[::2, ::2])
        assert root["labels"].attrs["labels"] == ["cells"]
        described = root["labels/cells"].attrs["image-label"]
        assert described["source"] == {"image": "../../"}
        assert described["properties"][1] == {"label-value": 2, "area": 14.0, "confidence": 0.02}
        assert not [file for file in tmp_path.iterdir() if ".part" in file.name]

    def test_channels_and_planes_keep_their_places(self, tmp_path):
        pixels = np.arange(2 * 3 * 4 * 7, dtype=np.uint8).reshape(3, 2, 4, 7)
        images = self.image(tmp_path, pixels[:2], "ZCYX", axes="ZCYX", z="all")
        io.write_ome_zarr(tmp_path / "x.zarr", images, SEVERAL)
        root = self.zarr.open_group(tmp_path / "x.zarr", mode="r")
        np.testing.assert_array_equal(root["0"][...], pixels[:2])
        np.testing.assert_array_equal(root["labels/cells/0"][...], SEVERAL)
        assert [axis["name"] for axis in root.attrs["multiscales"][0]["axes"]] == ["z", "c", "y", "x"]
        assert [axis["name"] for axis in root["labels/cells"].attrs["multiscales"][0]["axes"]] == [*"zyx"]
        with pytest.raises(ValueError, match="are not those of images"):
            io.write_ome_zarr(tmp_path / "x.zarr", images, DRAWN)

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_labels_go_under_the_group_of_their_image(self, tmp_path, zarr_format, monkeypatch):
        path = tmp_path / "image.zarr"
        root = self.zarr.open_group(path, mode="w", zarr_format=zarr_format)
        root.create_array("full", data=np.zeros((1, 5, 8, 14), np.uint8))
        root.create_array("half", data=np.zeros((1, 5, 4, 7), np.uint8))
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "czyx"]
        multiscale = {
            "axes": axes,
            "datasets": [
                {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [1, 2, size, size]}]}
                for name, size in (("full", 0.5), ("half", 1.0))
            ],
        }
        ome = {"multiscales": [multiscale]}
        root.attrs.update(ome if zarr_format == 2 else {"ome": {"version": "0.5", **ome}})
        before = sorted(file.read_bytes() for file in (path / "full").rglob("*") if file.is_file())
        monkeypatch.setattr(_zarr_writer, "CHUNK", 2)
        lazy = root.create_array("elsewhere", data=DRAWN)  # labels that stay on disk
        written = io.add_ome_zarr_labels(path, lazy, table_of(DRAWN), position={"Z": 3}, level=1)
        io.add_ome_zarr_labels(path, DRAWN, position={"Z": 3}, level=1)  # again
        assert written == path / "labels" / "cells"
        root = self.zarr.open_group(path, mode="r")
        np.testing.assert_array_equal(root["labels/cells/0"][...], DRAWN[None])
        said = [
            group.attrs if zarr_format == 2 else group.attrs["ome"]
            for group in (root["labels"], root["labels/cells"])
        ]
        assert said[0]["labels"] == ["cells"]
        [labelled] = said[1]["multiscales"]
        assert [axis["name"] for axis in labelled["axes"]] == [*"zyx"]
        assert labelled["datasets"][0]["coordinateTransformations"] == [
            {"type": "scale", "scale": [2.0, 1.0, 1.0]},
            {"type": "translation", "translation": [6.0, 0.0, 0.0]},
        ]
        assert before == sorted(file.read_bytes() for file in (path / "full").rglob("*") if file.is_file())

    def test_what_is_no_image_or_no_labels_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="Y and X come last"):
            io.add_ome_zarr_labels(tmp_path / "x.zarr", DRAWN[None])
        self.zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
        with pytest.raises(io.ImageFileError, match="cannot be read as OME-Zarr"):
            io.add_ome_zarr_labels(tmp_path / "x.zarr", DRAWN)

    def test_the_official_reader_finds_the_labels(self, tmp_path, labels):
        reader = pytest.importorskip("ome_zarr.reader")
        parse_url = pytest.importorskip("ome_zarr.io").parse_url
        path = tmp_path / "x.zarr"
        io.write_ome_zarr(path, self.image(tmp_path, labels.astype(np.uint8)), labels, table_of(labels))
        nodes = [node for node in reader.Reader(parse_url(path))() if node.data]
        image, found = nodes
        np.testing.assert_array_equal(image.data[0].compute(), labels)
        np.testing.assert_array_equal(found.data[0].compute(), labels)
        assert found.metadata["properties"][2]["area"] == 14
        assert found.metadata["coordinateTransformations"][0][0]["scale"] == [0.5, 0.5]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "old").touch()

    def write_half():
        with replacing_folder(tmp_path / "x.zarr") as temporary:
            temporary.mkdir()
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert [file.name for file in tmp_path.rglob("*")] == ["x.zarr", "old"]
