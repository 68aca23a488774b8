"""The command line as a user meets it: what it writes, what it says, and how it refuses."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click import UsageError
from click.testing import CliRunner, Result
from skimage.io import imread

from cellsegmenter import CellSegmenter
from cellsegmenter_cli.fit import understood
from cellsegmenter_cli.main import cellseg
from cellsegmenter_cli.outputs import Target, plan
from cellsegmenter_cli.series import Input

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


def test_the_scale_is_said_and_recorded(image):
    result = run("predict", image, *FAST, "--diameter", 20, "-q")
    assert result.output == ""
    recorded = json.loads((image.parent / "cells_manifest.json").read_text())
    (plane,) = recorded["planes"]
    assert plane["diameter"] == [20]
    assert plane["scale"] == [pytest.approx(CellSegmenter.pretrained().working_diameter_ / 20, abs=1e-4)]
    assert plane["objects_90_percent"] is None  # windows have samples of their own
    assert "taken to be 20 px across" in run("predict", image, *FAST, "--diameter", 20).output


def test_what_chose_the_resolution_is_said(image):
    for option, words in (
        ((), "the model's own"),
        (("--gamma-abs", 0.3), "as given"),
        (("--gamma", "auto"), "chosen automatically"),
    ):
        assert words in run("predict", image, *FAST, *option).output


def test_dark_objects_are_told_from_bright_ones(image, nuclei):
    assert "inverted" not in run("predict", image, *FAST).output
    tifffile.imwrite(image, 255 - nuclei[0])
    assert "the image is inverted" in run("predict", image, *FAST).output


@pytest.mark.filterwarnings("always")
def test_a_diameter_that_is_hardly_meant_is_warned_of(image):
    result = run("predict", image, "--samples", 1, "--stride", 40, "--diameter", 1000)
    assert f"Warning: {image}: diameter=1e+03 px is far from the" in result.output


def test_a_pixel_size_is_for_what_has_results(image, tmp_path):
    assert run("predict", image, *FAST, "--pixel-size", 0.5).exit_code == 0
    refused(
        "fit", image, "-o", tmp_path / "m.safetensors", "--pixel-size", 1, saying="No such option", code=2
    )


def test_predict_saves_what_it_is_asked_for(image, tmp_path):
    for package in ("roifile", "zarr", "anndata", "pyarrow"):
        pytest.importorskip(package)
    kinds = "table,parquet,anndata,overlay,geojson,rois,ome-zarr,maps"
    result = run("predict", image, *FAST, "-o", tmp_path / "out", "--save", kinds, "--pixel-size", 0.5)
    assert result.exit_code == 0, result.output
    endings = [
        "cells.csv",
        "cells.geojson",
        "cells.h5ad",
        "cells.ome.zarr",
        "cells.parquet",
        "confidence.tif",
    ]
    endings += ["foreground.tif", "manifest.json", "overlay.png", "rois.zip"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"cells_{end}" for end in endings]
    found = rows(tmp_path / "out" / "cells_cells.csv")
    assert float(found[0]["area_um2"]) == float(found[0]["area"]) / 4
    shapes = json.loads((tmp_path / "out" / "cells_cells.geojson").read_text())["features"]
    assert [shape["properties"]["name"] for shape in shapes] == [row["label"] for row in found]
    foreground = tifffile.imread(tmp_path / "out" / "cells_foreground.tif")
    confidence = tifffile.imread(tmp_path / "out" / "cells_confidence.tif")
    assert foreground.shape == confidence.shape == (128, 128)
    assert 0 <= foreground.min() < foreground.max() <= 1
    assert foreground[confidence > 0].mean() > foreground[confidence == 0].mean()
    recorded = json.loads((tmp_path / "out" / "cells_manifest.json").read_text())
    assert recorded["request"]["model_sha256"]
    assert recorded["request"]["seed"] == 0
    assert recorded["planes"][0]["objects"] == len(found)
    assert 0 < recorded["planes"][0]["gamma_abs"] < 1
    assert recorded["image"]["pixel_size_um"] == 0.5
    assert set(recorded["outputs"]) == {*kinds.removesuffix(",maps").split(","), "foreground", "confidence"}


def test_one_file_for_labels_and_the_table_in_another_form(image, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    result = run("predict", image, *FAST, "-o", tmp_path / "x.tif", "--table", tmp_path / "x.parquet")
    assert result.exit_code == 0, result.output
    assert parquet.read_table(tmp_path / "x.parquet").num_rows == tifffile.imread(tmp_path / "x.tif").max()
    assert (tmp_path / "x_manifest.json").exists()


def test_a_stack_is_segmented_plane_by_plane(tmp_path, nuclei):
    roifile = pytest.importorskip("roifile")
    path = tmp_path / "stack.tif"
    planes = np.stack([nuclei[0], nuclei[0][::-1]])
    tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "ZYX"})
    refused("predict", path, *FAST, saying="--z")
    result = run("predict", path, *FAST, "--z", "all", "--save", "labels,table,rois,overlay,maps")
    assert result.exit_code == 0, result.output
    labels = tifffile.imread(tmp_path / "stack_labels.tif")
    assert labels.shape == (2, 128, 128)
    found = rows(tmp_path / "stack_cells.csv")
    counts = [sum(row["z"] == str(z) for row in found) for z in (0, 1)]
    assert counts == labels.max(axis=(1, 2)).tolist()
    assert len(roifile.roiread(tmp_path / "stack_rois.zip")) == sum(counts)
    assert imread(tmp_path / "stack_overlay.png").shape == (128, 2 * 128 + 4, 3)
    recorded = json.loads((tmp_path / "stack_manifest.json").read_text(encoding="utf-8"))
    assert recorded["image"]["interpretation"].startswith("2 planes, the first: slice 0 of 2")
    assert [plane["objects"] for plane in recorded["planes"]] == counts
    result = run("predict", path, *FAST, "--z", "1", "-o", tmp_path / "alone", "--save", "labels,maps")
    assert result.exit_code == 0, result.output
    for kind in ("labels", "foreground", "confidence"):
        whole, plane = (
            tifffile.imread(base / f"stack_{kind}.tif") for base in (tmp_path, tmp_path / "alone")
        )
        assert whole.shape == labels.shape
        np.testing.assert_array_equal(whole[1], plane, err_msg=kind)


def test_labels_go_into_the_ome_zarr_they_belong_to(tmp_path, nuclei):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=nuclei[0])
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    options = ("-o", tmp_path / "out", "--save", "labels,ome-zarr")
    for _ in range(2):  # the second replaces the first
        result = run("predict", tmp_path / "x.zarr", *FAST, *options)
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "x.zarr" / "labels" / "cells" / "0", mode="r")[...],
        tifffile.imread(tmp_path / "out" / "x_labels.tif"),
    )


class TestBatch:
    @pytest.fixture
    def folder(self, tmp_path):
        """Two images without objects, and between them one that cannot be read."""
        folder = tmp_path / "plate"
        folder.mkdir()
        for name in ("a.tif", "c.tif"):
            tifffile.imwrite(folder / name, np.full((80, 80), 7, np.uint8))
        (folder / "b.tif").write_text("no image")
        return folder

    def test_one_failure_does_not_end_the_others(self, folder, tmp_path):
        log = tmp_path / "logs" / "run.log"
        table = tmp_path / "all.csv"
        result = run("predict", folder, *FAST, "-o", tmp_path / "out", "--table", table, "--log-file", log)
        assert result.exit_code == 3
        assert "b.tif is not a TIFF file" in result.output
        assert "2 of 3 images done" in result.output
        assert "1 of 3 images failed" in result.output
        assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == [
            "a_labels.tif",
            "c_labels.tif",
        ]
        assert table.read_text().startswith("image,label,")
        written = log.read_text()
        assert "ERROR" in written
        assert "b.tif is not a TIFF file" in written
        assert "2 of 3 images done" in written
        run("predict", folder / "a.tif", *FAST, "-q", "--log-file", log)
        assert log.read_text().startswith(written)
        assert "a_labels.tif" in log.read_text().removeprefix(written)

    def test_a_defect_of_ours_does_not_end_the_others(self, folder, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise KeyError("surprise")

        monkeypatch.setattr("cellsegmenter_cli.work.collect", fail)
        result = run("predict", folder / "a.tif", folder / "c.tif", *FAST, "--log-file", tmp_path / "log")
        assert result.exit_code == 3
        assert "KeyError: 'surprise'" in result.output
        assert "Traceback" in (tmp_path / "log").read_text()
        assert "Traceback" not in result.output

    def test_what_is_there_is_skipped(self, folder):
        (folder / "b.tif").unlink()
        assert run("predict", folder, *FAST).exit_code == 0
        stamps = [path.stat().st_mtime_ns for path in sorted(folder.glob("*_labels.tif"))]
        tifffile.imwrite(folder / "d.tif", np.full((80, 80), 7, np.uint8))
        result = run("predict", folder, *FAST, "--skip-existing")
        assert result.exit_code == 0, result.output
        assert result.output.count(": skipped, its results are there") == 2
        assert "made with another" not in result.output
        now = [path.stat().st_mtime_ns for path in sorted(folder.glob("*_labels.tif"))]
        assert now[:2] == stamps
        assert len(now) == 3
        result = run("predict", folder, *FAST, "--skip-existing", "--seed", 5)
        assert "made with another seed: a_labels.tif of" in result.output
        result = run("predict", folder, *FAST, "--skip-existing", "--jobs", 2)
        assert "made with another" not in result.output  # it changes no label
        manifest = folder / "a_manifest.json"
        recorded = json.loads(manifest.read_text())
        recorded["request"]["model_parameters"]["intensity"] = "linear"
        manifest.write_text(json.dumps(recorded))
        result = run("predict", folder, *FAST, "--skip-existing")
        assert "made with another intensity: a_labels.tif of" in result.output
        manifest.write_text("not JSON")  # says nothing, and is replaced
        assert run("predict", folder / "a.tif", *FAST, "--skip-existing").exit_code == 0
        assert run("predict", folder / "a.tif", *FAST).exit_code == 0
        assert json.loads(manifest.read_text())["outputs"]

    def test_results_of_an_earlier_run_keep_their_record(self, image):
        assert run("predict", image, *FAST, "--gamma-abs", 0.4).exit_code == 0
        result = run("predict", image, *FAST, "--save", "table")
        assert "left as it is, made with another gamma_abs: cells_labels.tif" in result.output
        recorded = json.loads((image.parent / "cells_manifest.json").read_text())
        assert (recorded["request"]["gamma_abs"], list(recorded["outputs"])) == (None, ["table"])
        (earlier,) = recorded["earlier"]
        assert (earlier["request"]["gamma_abs"], list(earlier["outputs"])) == (0.4, ["labels"])
        again = run("predict", image, *FAST, "--save", "labels,table", "--skip-existing")
        assert "made with another gamma_abs: cells_labels.tif of" in again.output
        # What is made again needs no earlier record.
        assert run("predict", image, *FAST).exit_code == 0
        recorded = json.loads((image.parent / "cells_manifest.json").read_text())
        assert [list(record["outputs"]) for record in recorded["earlier"]] == [["table"]]

    def test_one_table_and_skipping_do_not_go_together(self, folder, tmp_path):
        table = tmp_path / "all.csv"
        refused("predict", folder, "--skip-existing", "--table", table, saying="--save table", code=2)

    def test_a_dry_run_writes_nothing(self, folder, tmp_path):
        result = run("predict", folder, "--dry-run", "-o", tmp_path / "out")
        assert result.exit_code == 3
        assert "80 × 80 px" in result.output
        assert f"would write {tmp_path / 'out' / 'a_labels.tif'}" in result.output
        assert not (tmp_path / "out").exists()


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


def test_one_table_of_images_with_and_without_a_pixel_size(image, nuclei, tmp_path):
    sized = tmp_path / "sized.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(sized, nuclei[0], metadata=metadata)
    result = run("predict", image, sized, *FAST, "--table", tmp_path / "all.csv")
    assert result.exit_code == 0, result.output
    areas = {row["image"]: float(row["area_um2"]) / float(row["area"]) for row in rows(tmp_path / "all.csv")}
    assert areas == {"cells.tif": pytest.approx(np.nan, nan_ok=True), "sized.ome.tif": 0.25}


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
    refused("predict", image, *FAST, "--gamma", 1e7, saying="--gamma-abs")
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
        (("--save", "labels,pdf"), "'pdf' is nothing that can be saved"),
        (("--pixel-size", "0"), "range"),
        (("--z", "some"), "neither a whole number nor 'all'"),
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
    before = image.read_bytes()
    refused("predict", image, *FAST, "-o", image, saying="over an input", code=2)
    assert image.read_bytes() == before


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


def test_fit_goes_on_from_the_built_in_model(image, tmp_path):
    path = tmp_path / "more.safetensors"
    result = run("fit", image, "-o", path, "--start-from", "nuclei", "--steps", 2, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    model, built_in = CellSegmenter.load(path), CellSegmenter.pretrained()
    assert model.object_size == built_in.object_size
    for ours, theirs in zip(model.model_.parameters(), built_in.model_.parameters(), strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=0.02)


@pytest.fixture
def fit_recognition(apart, sure, tmp_path):
    """A function that runs `cellseg fit` on images of which the sleep phase is taught what is true."""
    files = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for file, pixels in zip(files, apart[0], strict=True):
        tifffile.imwrite(file, pixels)
    bounds = ("--density", 3, 12, "--area", 0.15, 0.3, "--object-size", 8, 20, "--window-size", 64)
    how = ("--shape", "blob", "--network", "small", "--steps", 1, "--batch-size", 2, "--device", "cpu")

    def fit(*options: object) -> tuple[Path, Result]:
        model = tmp_path / "model.safetensors"
        result = run("fit", *files, "-o", model, *bounds, *how, *options)
        assert result.exit_code == 0, result.output
        return model, result

    return fit


def test_fit_has_a_sleep_phase_and_predict_makes_one_pass(fit_recognition, tmp_path):
    model, result = fit_recognition(
        "--recognition", "one_pass", "--recognition-steps", 12, "--checkpoint", tmp_path / "run.pt"
    )
    assert "sleep phase: " in result.output
    assert (tmp_path / "run-sleep.pt").exists()
    fitted = CellSegmenter.load(model)
    assert fitted.recognition_ is not None
    assert fitted.recognition_history_["step"].tolist() == [10, 12]
    assert (fitted.recognition, fitted.recognition_steps) == ("one_pass", 12)
    assert json.loads(run("info", model, "--json").output)["recognition"]["steps"] == 12
    found = {}
    for way, options in (("one_pass", ()), ("windows", ("--recognition", "windows"))):
        out = tmp_path / way
        result = run("predict", tmp_path / "a.tif", "--model", model, *options, "--samples", 2, "-o", out)
        assert result.exit_code == 0, result.output
        found[way] = json.loads((out / "a_manifest.json").read_text())
        assert tifffile.imread(out / "a_labels.tif").shape == (192, 192)
    (one_pass,), (windows,) = (found[way]["planes"] for way in ("one_pass", "windows"))
    low, high = one_pass["objects_90_percent"]
    assert 0 <= low <= high
    assert windows["objects_90_percent"] is None
    assert found["windows"]["request"]["recognition"] == "windows"
    assert found["windows"]["request"]["model_parameters"]["recognition"] == "windows"
    assert found["one_pass"]["request"]["model_parameters"]["recognition"] == "one_pass"
    refused("predict", tmp_path / "a.tif", "--model", model, *FAST, saying="leave one of the two out", code=1)


def test_fit_without_a_sleep_phase_leaves_windows_alone(fit_recognition, tmp_path):
    model, result = fit_recognition("--recognition", "windows")
    assert "sleep phase" not in result.output
    assert CellSegmenter.load(model).recognition_ is None
    refused(
        "predict",
        tmp_path / "a.tif",
        "--model",
        model,
        "--recognition",
        "one_pass",
        saying="this model has none",
    )
    refused("predict", tmp_path / "a.tif", "--recognition", "twice", saying="'twice' is not one of", code=2)
    refused("fit", tmp_path / "a.tif", "-o", model, "--recognition-steps", 0, saying="range", code=2)


def test_predict_slides_windows_where_it_is_asked_to(image, tmp_path):
    labels = []
    for options in ((), ("--recognition", "windows")):
        assert run("predict", image, *FAST, *options, "-o", tmp_path / "labels.tif").exit_code == 0
        labels.append(tifffile.imread(tmp_path / "labels.tif"))
    np.testing.assert_array_equal(*labels)  # with a stride there is no other way


def test_fit_writes_for_tensorboard(image, tmp_path):
    pytest.importorskip("tensorboard")
    options = ("--steps", 1, "--batch-size", 2, "--device", "cpu", "--tensorboard", tmp_path / "runs")
    result = run("fit", image, "-o", tmp_path / "model.safetensors", *options)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "runs").glob("events.out.tfevents.*")]


@pytest.fixture
def parameters_of_fit(image, tmp_path, monkeypatch):
    """What `cellseg fit` with some options would train with."""
    seen = {}
    monkeypatch.setattr(CellSegmenter, "fit", lambda self, X: seen.update(self.get_params()) or self)
    monkeypatch.setattr(CellSegmenter, "save", lambda self, path: None)

    def parameters(*options):
        result = run("fit", image, "-o", tmp_path / "model.safetensors", *options)
        assert result.exit_code == 0, result.output
        return seen

    return parameters


def test_fit_takes_the_recipe_of_the_built_in_model(parameters_of_fit):
    bounds = ("--density", 2, 10, "--area", 0.08, 0.3, "--object-size", 8, 26, "--diameter", "auto")
    how = ("--shape", "blob", "--network", "small", "--augment", "--steps", 2000)
    own = CellSegmenter.pretrained().get_params()
    names = ("density", "area", "object_size", "diameter", "shape", "network", "augment", "n_steps")
    found = parameters_of_fit(*bounds, *how)
    assert {name: found[name] for name in names} == {name: own[name] for name in names}


def test_fit_takes_what_else_the_table_of_knobs_names(parameters_of_fit):
    numbers = {"learning_rate": 0.001, "overlap_penalty": 0.5, "noise_scale": 0.1}
    options = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", value)]
    found = parameters_of_fit(*options, "--appearance", "free")
    assert {name: found[name] for name in numbers} == numbers
    assert found["appearance"] == "free"


def test_fit_leaves_what_is_not_given_to_the_model_that_it_starts_from(parameters_of_fit):
    own = CellSegmenter.pretrained().get_params()
    assert own["diameter"] == "auto"
    running = ("warm_start", "device", "random_state", "verbose", "channel_axis")
    found = parameters_of_fit("--start-from", "nuclei", "--diameter", "none", "--no-augment")
    changed = {name for name in own if name not in running and found[name] != own[name]}
    assert changed == {"diameter", "augment"}
    assert found["diameter"] is None
    assert found["augment"] is False


def test_a_training_that_fails_says_what_to_do(image, tmp_path):
    model = tmp_path / "model.safetensors"
    options = ["--steps", 20, "--batch-size", 2, "--learning-rate", 1e30]
    refused("fit", image, "-o", model, *options, saying="not finite in step")
    assert not model.exists()


def test_diameter_none_takes_the_image_as_it_is(image, tmp_path):
    diameters = {"none": "none", "own": CellSegmenter.pretrained().working_diameter_}
    for name, diameter in diameters.items():
        result = run("predict", image, *FAST, "--diameter", diameter, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert "rescaled" not in result.output
    np.testing.assert_array_equal(
        *(tifffile.imread(tmp_path / name / "cells_labels.tif") for name in diameters)
    )
    recorded = json.loads((tmp_path / "none" / "cells_manifest.json").read_text())["request"]
    assert recorded["diameter"] == "none"
    assert recorded["model_parameters"]["diameter"] is None


def test_fit_without_tensorboard_says_how_to_get_it(image, tmp_path, monkeypatch):
    monkeypatch.setattr("cellsegmenter.parameters.find_spec", lambda name: None)
    options = ("-o", tmp_path / "model.safetensors", "--tensorboard", tmp_path / "runs")
    refused("fit", image, *options, saying="needs a further package; run: pip install tensorboard")


def test_a_report_without_matplotlib_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused("report", "-o", tmp_path / "report.html", saying="run: pip install matplotlib")


def test_fit_says_once_how_files_were_read_that_are_alike(tmp_path):
    a, b, c = (tmp_path / f"{name}.tif" for name in "abc")
    found = list(understood([(a, "grey"), (b, "with channels"), (c, "grey")]))
    assert found == [f"{a} and 1 more: grey", f"{b}: with channels"]


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


def planned(images, *arguments, **options):
    return plan([Input.of_file(image) for image in images], *arguments, **options)


class TestOutputs:
    def test_beside_the_image(self):
        [job] = planned([Path("a/b.ome.tif")], None)
        assert job.outputs == [Path("a/b_labels.tif"), Path("a/b_manifest.json")]

    def test_a_name_without_ending_is_a_folder(self):
        [job] = planned([Path("a/b.tif")], Target(Path("out")), overlay=Target(Path("out")))
        assert job.files == {"labels": Path("out/b_labels.tif"), "overlay": Path("out/b_overlay.png")}

    def test_a_name_of_a_file_is_taken_up_by_the_others(self):
        [job] = planned([Path("a/b.tif")], Target(Path("out/x_labels.tiff")), ("table", "geojson"))
        assert job.files["labels"] == Path("out/x_labels.tiff")
        assert job.files["geojson"] == Path("out/x_cells.geojson")
        assert job.manifest == Path("out/x_manifest.json")

    def test_images_of_one_name_are_told_apart_in_tables(self):
        jobs = planned([Path("a/x.tif"), Path("b/x.tif"), Path("b/y.tif")], None)
        assert [job.name for job in jobs] == [str(Path("a/x.tif")), str(Path("b/x.tif")), "y.tif"]

    def test_labels_of_ome_zarr_go_under_their_image(self, tmp_path):
        image = tmp_path / "b.ome.zarr"
        image.mkdir()
        [job] = planned([image], Target(Path("out")), ("table", "ome-zarr"))
        assert job.files == {"table": Path("out/b_cells.csv"), "ome-zarr": image / "labels" / "cells"}

    def test_several_images_need_a_folder(self):
        with pytest.raises(UsageError, match="need a folder"):
            planned([Path("a.tif"), Path("b.tif")], Target(Path("out.tif")))

    @pytest.mark.parametrize(("labels", "overlay"), [("x.png", None), ("x.tiff", "x.jpg")])
    def test_endings_say_what_is_written(self, labels, overlay):
        with pytest.raises(UsageError, match="must end in"):
            planned([Path("a.tif")], Target(Path(labels)), overlay=overlay and Target(Path(overlay)))
