"""`cellseg predict` on images that do not fit into memory."""

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from cellsegmenter import io
from cellsegmenter.measurements import measure_objects
from cellsegmenter.store import FolderStore
from cellsegmenter_cli.main import cellseg
from cellsegmenter_cli.memory import Size


@pytest.fixture
def run(nuclei, tmp_path):
    tifffile.imwrite(tmp_path / "nuclei.tif", nuclei[0])

    def predict(name, *options):
        arguments = ["predict", str(tmp_path / "nuclei.tif"), "-o", str(tmp_path / name / "labels.tif")]
        done = CliRunner().invoke(cellseg, [*arguments, "--save", "labels,table", "--stride", "40", *options])
        return done, tmp_path / name

    return predict


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".json")}


def test_little_memory_gives_the_same_files_and_leaves_no_folder(run):
    results = [run("a", "--gamma-abs", "0.3"), run("b", "--gamma-abs", "0.3", "--max-memory", "1K")]
    for done, _ in results:
        assert done.exit_code == 0, done.output
    assert files_of(results[0][1]) == files_of(results[1][1])
    assert not list(results[1][1].glob("*work*"))


def test_too_little_memory_is_said(run):
    done, _ = run("a", "--gamma-abs", "0.3", "--max-memory", "100M")
    assert "--max-memory 100M cannot be kept: Python and the networks need about 512M" in done.output
    done, _ = run("b", "--gamma-abs", "0.3", "--max-memory", "1G")
    assert "cannot be kept" not in done.output


def test_a_folder_of_that_name_is_left_alone_if_memory_does(run, tmp_path):
    mine = tmp_path / "a" / "labels-0_work" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done, _ = run("a", "--gamma-abs", "0.3")
    assert done.exit_code == 0, done.output
    assert mine.exists()


def test_a_kept_graph_is_cut_again_and_refuses_another_image(run, nuclei, monkeypatch, tmp_path):
    graph = str(tmp_path / "graph")
    done, _ = run("a", "--gamma-abs", "0.3", "--keep-graph", graph)
    assert done.exit_code == 0, done.output
    with monkeypatch.context() as patch:
        patch.setattr("cellsegmenter.inference._infer", lambda *_: pytest.fail("sampled again"))
        done, folder = run("a", "--gamma-abs", "0.6", "--keep-graph", graph)
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "labels_manifest.json").read_text())["planes"][0]["gamma_abs"] == 0.6
    tifffile.imwrite(tmp_path / "nuclei.tif", nuclei[0][:100, :100])
    done, _ = run("a", "--keep-graph", graph)
    assert done.exit_code == 1
    assert "belongs to another computation: image_shape was" in done.output


def test_images_of_one_name_are_kept_in_folders_of_their_own(nuclei, tmp_path):
    images = [tmp_path / place / "cells.tif" for place in "ab"]
    for i, path in enumerate(images):
        path.parent.mkdir()
        tifffile.imwrite(path, np.roll(nuclei[0], i))
    command = ["predict", *map(str, images), "--keep-graph", str(tmp_path / "graphs"), "--stride", "40"]
    for gamma in ("0.3", "0.5"):  # the second time each has to find its own again
        done = CliRunner().invoke(cellseg, [*command, "--gamma-abs", gamma])
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "graphs").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "fits"),
    [({}, True), ({"diameter": 5}, False), ({"stride": 6}, False), ({"n_samples": 4}, False)],
)
def test_what_fits_depends_on_the_working_scale_the_stride_and_the_samples(
    trained, scenes, tmp_path, monkeypatch, options, fits
):
    monkeypatch.setattr("cellsegmenter.segmenting.infer_tiles", lambda *_, **__: None)
    folder = tmp_path / "work"
    defaults = {"n_samples": 1, "stride": 24}
    memory = {"work_folder": folder, "max_memory": 2 * 64 * 64 * 100}
    used = trained.consensus(scenes[0][0], random_state=0, **defaults | options, **memory).work_folder
    assert used == (None if fits else folder)
    assert folder.exists() is not fits


@pytest.mark.parametrize(("text", "size"), [("500M", 500 * 2**20), ("1.5g", 3 * 2**29), ("2GiB", 2**31)])
def test_sizes_are_read(text, size):
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["lots", "4", "0G"])
def test_what_is_no_size_is_refused(run, text):
    done, _ = run("a", "--max-memory", text)
    assert done.exit_code == 2
    assert "write 500M or 4G" in done.output


def test_labels_on_disk_are_written_and_measured_like_labels_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("cellsegmenter.measurements.BAND", 100)
    labels = np.zeros((700, 1100), np.int32)
    for number, (row, column) in enumerate([(0, 0), (90, 300), (95, 600), (660, 1060), (290, 5)], start=1):
        labels[row : row + 40, column : column + 30 + number] = number
    stored = FolderStore(tmp_path / "work", {}).new_image("labels", labels.shape, labels.dtype)
    stored[...] = labels
    for name, image in (("a.tif", labels), ("b.tif", stored)):
        io.write_labels(tmp_path / name, image, metadata={"x": 1}, pixel_size=0.5)
    one, two = (tifffile.TiffFile(tmp_path / name) for name in ("a.tif", "b.tif"))
    with one, two:
        np.testing.assert_array_equal(one.asarray(), labels)
        np.testing.assert_array_equal(two.asarray(), labels)
        for tag in ("ImageDescription", "XResolution", "Compression", "TileWidth"):
            assert one.pages[0].tags[tag].value == two.pages[0].tags[tag].value
    pixels = np.random.default_rng(0).random(labels.shape)
    from_memory, from_disk = measure_objects(labels, pixels), measure_objects(stored, pixels)
    np.testing.assert_array_equal(from_memory["area"], [40 * (30 + n) for n in range(1, 6)])
    for name, values in from_memory.items():
        np.testing.assert_array_equal(values, from_disk[name])
