"""The command line as a user meets it: what it writes, what it says, and how it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click import UsageError
from click.testing import CliRunner, Result

from cellsegmenter_cli.main import cellseg
from cellsegmenter_cli.outputs import check_outputs, plan

FAST = ("--samples", "2", "--stride", "40", "--diameter", "16", "--device", "cpu")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cellseg, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object, saying: str, code: int = 1) -> None:
    """The command ends with one readable message and this exit code."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert saying in result.output
    assert "Traceback" not in result.output


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def image(tmp_path, nuclei):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, nuclei[0])
    return path


@pytest.fixture
def empty(tmp_path):
    path = tmp_path / "empty.tif"
    tifffile.imwrite(path, np.full((96, 96), 7, np.uint8))
    return path


def test_predict_writes_labels_table_and_overlay(image, tmp_path):
    table, overlay = tmp_path / "cells.csv", tmp_path / "cells.png"
    result = run("predict", image, *FAST, "--table", table, "--overlay", overlay)
    assert result.exit_code == 0, result.output
    labels = tifffile.imread(tmp_path / "cells_labels.tif")
    assert labels.shape == (128, 128)
    assert labels.max() > 5
    found = rows(table)
    assert [int(row["label"]) for row in found] == list(range(1, labels.max() + 1))
    assert {row["image"] for row in found} == {"cells.tif"}
    assert overlay.read_bytes().startswith(b"\x89PNG")
    assert "128 × 128" in result.output
    assert "γ_abs" in result.output
    assert f"{labels.max()} objects" in result.output


def test_the_same_seed_gives_the_same_labels(image, tmp_path):
    for name in ("one.tif", "two.tif"):
        assert run("predict", image, *FAST, "--seed", 3, "-o", tmp_path / name, "-q").output == ""
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "one.tif"), tifffile.imread(tmp_path / "two.tif")
    )


def test_several_images_go_to_a_folder_with_one_table(image, empty, tmp_path):
    out, table = tmp_path / "out", tmp_path / "all.csv"
    result = run("predict", image, empty, *FAST, "-o", out, "--table", table)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "cells_labels.tif",
        "cells_manifest.json",
        "empty_labels.tif",
        "empty_manifest.json",
    ]
    assert {row["image"] for row in rows(table)} == {"cells.tif"}


def test_an_image_without_objects_is_a_result(empty, tmp_path):
    table = tmp_path / "none.csv"
    result = run("predict", empty, *FAST, "--table", table)
    assert result.exit_code == 0, result.output
    assert not tifffile.imread(tmp_path / "empty_labels.tif").any()
    assert table.read_text().startswith("image,label,")
    assert rows(table) == []
    assert "no objects" in result.output


def test_the_absolute_resolution_decides_how_much_is_split(image, tmp_path):
    counts = []
    for threshold in (0.02, 0.9):
        run("predict", image, *FAST, "--gamma-abs", threshold, "-o", tmp_path / "labels.tif", "--min-size", 5)
        labels = tifffile.imread(tmp_path / "labels.tif")
        counts.append((labels > 0).sum())
    assert counts[0] > counts[1]


def test_a_gamma_that_leaves_nothing_is_answered_with_one_that_fits(image):
    refused("predict", image, *FAST, "--gamma", 1e7, saying="--gamma-abs", code=2)
    assert not image.with_name("cells_labels.tif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gamma", "-1"), "positive"),
        (("--gamma", "many"), "neither a number nor 'auto'"),
        (("--gamma", "5", "--gamma-abs", "0.2"), "not both"),
        (("--gamma-abs", "1.5"), "range"),
        (("--method", "louvain"), "louvain"),
        (("--samples", "0"), "range"),
    ],
)
def test_predict_refuses_options_that_make_no_sense(image, options, message):
    refused("predict", image, *options, saying=message, code=2)


def test_missing_image(tmp_path):
    refused("predict", tmp_path / "nowhere.tif", saying="nowhere.tif")


def test_truncated_tiff(image):
    image.write_bytes(image.read_bytes()[:200])
    refused("predict", image, *FAST, saying="cells.tif")


def test_text_named_tif(tmp_path):
    path = tmp_path / "notes.tif"
    path.write_text("these are notes")
    refused("predict", path, *FAST, saying="notes.tif")


def test_ambiguous_axes_ask_for_a_choice(tmp_path):
    path = tmp_path / "stack.npy"
    np.save(path, np.zeros((5, 96, 96), np.float32))
    refused("predict", path, *FAST, saying="--axes")


def test_not_a_number(tmp_path):
    path = tmp_path / "holes.npy"
    np.save(path, np.full((96, 96), np.nan, np.float32))
    refused("predict", path, *FAST, saying="NaN")


def test_unwritable_output_is_refused_before_the_work(image, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    refused("predict", image, *FAST, "-o", tmp_path / "file" / "labels.tif", saying="labels.tif")
    refused("predict", image, *FAST, "--table", tmp_path, saying=str(tmp_path))
    assert not image.with_name("cells_labels.tif").exists()


def test_no_input_is_overwritten(image):
    refused("predict", image, *FAST, "-o", image, saying="over an input", code=2)


def test_unknown_model_file(image, tmp_path):
    refused("predict", image, "--model", tmp_path / "none.safetensors", saying="none.safetensors")


def test_corrupt_model_file(image, tmp_path):
    model = tmp_path / "broken.safetensors"
    model.write_bytes(b"\x10\0\0\0\0\0\0\0" + b"garbage" * 20)
    refused("predict", image, "--model", model, saying="broken.safetensors")
    refused("info", model, saying="broken.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--density", "10", "5"), "density"),
        (("--density", "-5", "5"), "density"),
        (("--area", "0.5", "1.5"), "area"),
        (("--object-size", "28", "8"), "object_size"),
        (("--density", "5", "100", "--max-objects", "20"), "max_objects"),
    ],
)
def test_fit_refuses_bounds_that_make_no_sense(image, tmp_path, options, message):
    model = tmp_path / "model.safetensors"
    refused("fit", image, "-o", model, *options, "--steps", "1", saying=message)
    assert not model.exists()


def test_fit_then_predict(image, tmp_path):
    model = tmp_path / "model.safetensors"
    result = run("fit", image, "-o", model, "--steps", 2, "--batch-size", 2, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert run("predict", image, "--model", model, *FAST).exit_code == 0
    assert json.loads(run("info", model, "--json").output)


def test_info_describes_the_built_in_model():
    result = run("info")
    assert result.exit_code == 0
    card = json.loads(run("info", "--json").output)
    assert card["name"] in result.output


@pytest.mark.slow
def test_demo(tmp_path):
    result = run("demo", "-o", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "nuclei_cells.csv",
        "nuclei_labels.tif",
        "nuclei_overlay.png",
    ]
    assert "average precision" in result.output


def test_debug_shows_the_traceback(tmp_path):
    result = CliRunner().invoke(cellseg, ["--debug", "predict", str(tmp_path / "nowhere.tif")])
    assert isinstance(result.exception, ValueError | OSError)


class TestOutputs:
    def test_beside_the_image(self):
        [job] = plan([Path("a/b.ome.tif")], None)
        assert job.outputs == [Path("a/b_labels.tif"), Path("a/b_manifest.json")]

    def test_a_name_without_ending_is_a_folder(self):
        [job] = plan([Path("a/b.tif")], Path("out"), overlay=Path("out"))
        assert job.files == {"labels": Path("out/b_labels.tif"), "overlay": Path("out/b_overlay.png")}

    def test_a_name_of_a_file_is_taken_up_by_the_others(self):
        [job] = plan([Path("a/b.tif")], Path("out/x_labels.tiff"), ("table", "geojson"))
        assert job.files["labels"] == Path("out/x_labels.tiff")
        assert job.files["geojson"] == Path("out/x_cells.geojson")
        assert job.manifest == Path("out/x_manifest.json")

    def test_labels_of_ome_zarr_go_under_their_image(self):
        [job] = plan([Path("a/b.ome.zarr")], Path("out"), ("table", "ome-zarr"))
        assert job.files == {"table": Path("out/b_cells.csv"), "ome-zarr": Path("a/b.ome.zarr/labels/cells")}

    def test_several_images_need_a_folder(self):
        with pytest.raises(UsageError, match="need a folder"):
            plan([Path("a.tif"), Path("b.tif")], Path("out.tif"))

    @pytest.mark.parametrize(("labels", "overlay"), [("x.png", None), ("x.tiff", "x.jpg")])
    def test_endings_say_what_is_written(self, labels, overlay):
        with pytest.raises(UsageError, match="must end in"):
            plan([Path("a.tif")], Path(labels), overlay=overlay and Path(overlay))

    def test_two_images_of_one_name_collide(self):
        images = [Path("a/x.tif"), Path("b/x.tif")]
        with pytest.raises(UsageError, match="second time"):
            check_outputs([path for job in plan(images, Path("out")) for path in job.outputs], images)
