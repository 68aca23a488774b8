"""Files of several images at the command line: which are meant, where their results go, and how they are listed."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from skimage.io import imsave
from test_ome_zarr import write_group, write_image

from cellsegmenter.files import path_from_text
from cellsegmenter_cli.main import cellseg

zarr = pytest.importorskip("zarr")
needs_byte_names = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="names of files are text here, not bytes"
)
FAST = ("--samples", "2", "--stride", "40", "--diameter", "16", "--device", "cpu")


def run(*arguments):
    result = CliRunner().invoke(cellseg, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments, saying, code=1):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert saying in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.fixture
def two(tmp_path, nuclei):
    """An OME-TIFF of two images, of which the second has pixels half as large."""
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for size in (0.5, 0.25):
            metadata = {"axes": "YX", "Name": f"s{size}", "PhysicalSizeX": size, "PhysicalSizeY": size}
            writer.write(nuclei[0], metadata=metadata)
    return path


@pytest.fixture
def plate(tmp_path, nuclei):
    """Wells A1 and B2 of two fields each."""
    path = tmp_path / "plate.ome.zarr"
    wells = [
        {"path": "A/1", "rowIndex": 0, "columnIndex": 0},
        {"path": "B/2", "rowIndex": 1, "columnIndex": 1},
    ]
    write_group(path, plate={"wells": wells})
    for well in ("A/1", "B/2"):
        write_group(path / well, well={"images": [{"path": "0"}, {"path": "1"}]})
        for field in "01":
            write_image(path / well / field, nuclei[0], scale=0.5 if field == "0" else 0.25)
    return path


def test_all_images_of_a_file_have_results_of_their_own(two, tmp_path):
    refused("predict", two, *FAST, saying="holds 2 images: 0: s0.5 (128 × 128 px), 1: s0.25 (128 × 128 px)")
    table = tmp_path / "all.csv"
    result = run("predict", two, *FAST, "--series", "all", "--table", table)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("*_labels.tif")) == [
        "two_series0_labels.tif",
        "two_series1_labels.tif",
    ]
    rows = np.genfromtxt(table, delimiter=",", names=True, dtype=None, encoding="utf-8")
    areas = {name: rows[rows["image"] == name]["area_um2"].sum() for name in np.unique(rows["image"])}
    assert list(areas) == ["two.ome.tif series 0", "two.ome.tif series 1"]
    assert areas["two.ome.tif series 0"] == pytest.approx(4 * areas["two.ome.tif series 1"])
    manifest = json.loads((tmp_path / "two_series1_manifest.json").read_text())
    assert (manifest["image"]["series"], manifest["image"]["pixel_size_um"]) == (1, 0.25)
    again = run("predict", two, *FAST, "--series", 1, "--skip-existing")
    assert "skipped, its results are there" in again.output
    assert "made with another" not in again.output


def test_one_image_by_its_name(two, tmp_path):
    result = run("predict", two, *FAST, "--series", "s0.25", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "two_series1_labels.tif").exists()
    refused("predict", two, *FAST, "--series", "7", saying="no series 7; series goes from 0 to 1")
    refused("predict", two, "--well", "A1", saying="is no plate, so --well and --field choose nothing")


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (("--well", "A1", "--field", "0"), ["A_1_0"]),
        (("--well", "all", "--field", "1"), ["A_1_1", "B_2_1"]),
        (("--well", "B2", "--field", "all"), ["B_2_0", "B_2_1"]),
        (("--well", "A1,B2", "--field", "0"), ["A_1_0", "B_2_0"]),
        (("--series", "B2/1"), ["B_2_1"]),
        (("--series", "all"), ["A_1_0", "A_1_1", "B_2_0", "B_2_1"]),
    ],
)
def test_wells_and_fields(plate, options, places):
    result = run("predict", plate, *FAST, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    for place in places:
        assert f"would write {plate.parent / f'plate_{place}_labels.tif'}" in result.output
    assert result.output.count("_labels.tif") == len(places)


def test_what_a_plate_does_not_have(plate):
    refused("predict", plate, saying="holds 4 images: 0: A1/0 (128 × 128 px)")
    refused("predict", plate, "--well", "C3", saying="has no well C3; it has A1, B2 (--well)")
    refused("predict", plate, "--well", "A1", saying="has 2 fields (0, 1); choose by --field, or all")
    refused("predict", plate, "--field", "0", saying="has 2 wells (A1, B2); choose by --well, or all")
    result = run("predict", plate, "--well", "A1", "--series", "0")
    assert result.exit_code == 2
    assert "not both" in result.output


def test_labels_go_under_the_field_that_they_belong_to(plate, tmp_path):
    options = ("--save", "labels,ome-zarr")
    for path, choice in ((plate, ("--well", "A1", "--field", "1")), (plate / "B" / "2" / "0", ())):
        result = run("predict", path, *choice, *FAST, *options)
        assert result.exit_code == 0, result.output
    for place in ("A_1_1", "B_2_0"):
        labels = zarr.open_array(plate / place.replace("_", "/") / "labels" / "cells" / "0", mode="r")[...]
        np.testing.assert_array_equal(labels, tifffile.imread(tmp_path / f"plate_{place}_labels.tif"))
    assert not list(plate.rglob("*.tif"))


def test_labels_go_into_an_image_of_a_version_without_scales(tmp_path, nuclei):
    for version, pixels in (("0.1", nuclei[0][None, None, None]), ("0.3", nuclei[0])):
        path = tmp_path / f"{version}.ZARR"
        write_image(path, pixels, version)
        result = run("predict", path, *FAST, "--save", "labels,ome-zarr")
        assert result.exit_code == 0, result.output
        labels = zarr.open_array(path / "labels" / "cells" / "0", mode="r")[...]
        np.testing.assert_array_equal(np.squeeze(labels), tifffile.imread(tmp_path / f"{version}_labels.tif"))


def test_a_field_that_is_missing_does_not_end_the_others(plate):
    shutil.rmtree(plate / "A" / "1" / "1")
    result = run("predict", plate, *FAST, "--series", "all", "--dry-run")
    assert result.exit_code == 3
    assert "A/1/1 does not exist; check the path" in result.output
    assert "3 of 4 images understood" in result.output


def test_plates_and_folders_in_one_run(plate, tmp_path, nuclei):
    """Results beside images, and previews of them, are neither images nor in the way."""
    folder = tmp_path / "folder"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", nuclei[0])
    imsave(folder / "a.png", nuclei[0])
    assert run("predict", folder, *FAST, "--save", "labels,ome-zarr").exit_code == 0
    out = tmp_path / "out"
    command = ("predict", plate, folder, *FAST, "--series", "all", "-o", f"{out}/")
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "left out, as results and no images:" in result.output
    assert "left out, as previews of images of the same name:" in result.output
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.tif")) == [
        "folder/a_labels.tif",
        *(f"plate_{place}_labels.tif" for place in ("A_1_0", "A_1_1", "B_2_0", "B_2_1")),
    ]
    again = run(*command, "--skip-existing")
    assert again.output.count("skipped, its results are there") == 5


def test_an_image_that_is_named_twice_is_done_once(plate):
    field = plate / "A" / "1" / "0"
    result = run("predict", plate, field, plate, *FAST, "--series", "all", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "4 of 4 images understood" in result.output


def test_images_whose_results_have_one_name_are_both_named(two, nuclei):
    single = two.with_name("two_series1.tif")
    tifffile.imwrite(single, nuclei[0])
    result = run("predict", two, single, "--series", "all")
    assert result.exit_code == 2
    assert f"{two} series 1 and {single} would both be written to" in result.output


@needs_byte_names
def test_a_name_that_is_no_text_has_its_series_beside_it(two, tmp_path):
    odd = two.rename(two.with_name(os.fsdecode(b"10\xb5m.ome.tif")))
    out, table = tmp_path / "out", tmp_path / "all.csv"
    result = run("predict", odd, *FAST, "--series", "all", "-o", out, "--save", "labels", "--table", table)
    assert result.exit_code == 0, result.output
    rows = np.genfromtxt(table, delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert list(np.unique(rows["image"])) == ["10%B5m.ome.tif series 0", "10%B5m.ome.tif series 1"]
    manifest = json.loads((out / os.fsdecode(b"10\xb5m_series1_manifest.json")).read_bytes())
    assert path_from_text(manifest["image"]["file"]) == odd
    again = run("predict", odd, *FAST, "--series", "all", "-o", out, "--skip-existing")
    assert again.output.count("skipped, its results are there") == 2
    listed = json.loads(run("info", odd, "--json").output)
    assert [path_from_text(series["path"]) for series in listed] == [odd, odd]


def test_a_file_lists_its_images(plate, two):
    output = run("info", plate).output
    assert "4 images; choose by --well and --field, or --series" in output
    assert "  3: B2/1, YX 128 × 128, uint8, 0.25 µm per px" in output
    listed = json.loads(run("info", two, "--json").output)
    assert [(s["name"], s["pixel_size"], s["shape"]) for s in listed] == [
        ("s0.5", 0.5, [128, 128]),
        ("s0.25", 0.25, [128, 128]),
    ]


def test_suggest_names_the_images_that_it_looked_at(two, tmp_path):
    output = run("suggest", two, "--series", "1", "--picture", tmp_path / "counted.png").output
    assert "--series 1" in output
