"""Where results go, what they are called, what is recorded of them, and that none is taken for an image."""

import csv
import errno
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click import UsageError
from click.testing import CliRunner
from PIL import Image
from skimage.io import imsave

from cellsegmenter import CellSegmenter, io
from cellsegmenter.files import in_one_go, pasteable, path_beside, path_from_text, path_text, text_of
from cellsegmenter_cli.main import cellseg
from cellsegmenter_cli.memory import Memory
from cellsegmenter_cli.outputs import Target, plan
from cellsegmenter_cli.series import Input

needs_byte_names = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="names of files are text here, not bytes"
)


def run(*arguments):
    result = CliRunner().invoke(cellseg, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def image(tmp_path, nuclei):
    path = tmp_path / "in" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, nuclei[0])
    return path


def planned(images, *arguments, **options):
    return plan([Input.of_file(image) for image in images], *arguments, **options)


def copy_of(image, to):
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(image.read_bytes())
    return to


@needs_byte_names
class TestNamesThatAreNoText:
    @pytest.fixture
    def odd(self, image):
        return copy_of(image, image.with_name(os.fsdecode(b"10\xb5m.tif")))

    def test_every_kind_is_written_and_opened_again(self, odd, tmp_path):
        for package in ("roifile", "zarr", "anndata", "pyarrow"):
            pytest.importorskip(package)
        kinds = "labels,table,parquet,anndata,overlay,geojson,rois,ome-zarr,maps"
        out = tmp_path / "out"
        done("predict", odd, "-o", out, "--save", kinds, "--table", tmp_path / "all.csv")
        manifest = out / os.fsdecode(b"10\xb5m_manifest.json")
        recorded = json.loads(manifest.read_bytes().decode("utf-8"))
        assert path_from_text(recorded["image"]["file"]) == odd
        assert all(path_from_text(file).exists() for file in recorded["outputs"].values())
        assert len(recorded["outputs"]) == 10
        for table in (out / os.fsdecode(b"10\xb5m_cells.csv"), tmp_path / "all.csv"):
            with open(table, newline="", encoding="utf-8") as file:
                assert {row["image"] for row in csv.DictReader(file)} == {"10%B5m.tif"}
        zarr = out / os.fsdecode(b"10\xb5m_cells.ome.zarr")
        np.testing.assert_array_equal(io.read_image(zarr).array, tifffile.imread(odd))
        assert "skipped" in done("predict", odd, "-o", out, "--save", kinds, "--skip-existing")

    def test_a_model_is_saved_and_opened_again(self, odd, tmp_path):
        model = tmp_path / os.fsdecode(b"m\xb5.safetensors")
        checkpoint = tmp_path / os.fsdecode(b"c\xb5.pt")
        done("fit", odd, "-o", model, "--checkpoint", checkpoint, "--steps", 1, "--batch-size", 2)
        assert checkpoint.exists()
        done("predict", odd, "--model", model, "--samples", 1, "--stride", 40)
        recorded = json.loads(odd.with_name(os.fsdecode(b"10\xb5m_manifest.json")).read_bytes())
        assert path_from_text(recorded["request"]["model"]) == model

    def test_pages_name_it(self, odd, tmp_path):
        tuned, reported = tmp_path / "tune.html", tmp_path / "report.html"
        model = tmp_path / os.fsdecode(b"m\xb5.safetensors")
        CellSegmenter.pretrained().save(model)
        done("tune", odd, "-o", tuned, "--model", model, "--samples", 1, "--device", "cpu")
        page = tuned.read_text(encoding="utf-8")
        assert "10%B5m.tif, rows 0 to 128" in page
        assert "m%B5.safetensors" in page
        done("report", model, "-o", reported)
        assert "<title>m%B5" in reported.read_text(encoding="utf-8")

    def test_a_command_to_paste_names_the_same_file(self, odd):
        printed = subprocess.run(["bash", "-c", f"printf %s {pasteable([odd])}"], capture_output=True)
        assert printed.stdout == os.fsencode(odd)
        assert pasteable(["a b.tif"]) == "'a b.tif'"

    def test_text_is_faithful(self):
        for name in (b"10\xb5m.tif", b"100%\xff x.tif", "zelle µ.tif".encode(), b"file:.tif"):
            path = Path("/data") / os.fsdecode(name)
            assert path_from_text(path_text(path).encode("utf-8").decode("utf-8")) == path
        assert text_of("100%.tif") == "100%.tif"
        assert path_text(Path("/data", os.fsdecode(b"\xb5"))) == "file:///data/%B5"


class TestLongNames:
    def test_what_fits_is_written(self, image, tmp_path):
        long = copy_of(image, image.with_name("w" * 235 + ".tif"))
        done("predict", long, "--save", "labels,table,overlay,maps", "-o", tmp_path / "out")
        assert len(names(tmp_path / "out")) == 6
        done("predict", long, "--keep-graph", tmp_path / "graph")
        assert len(os.fsencode(path_beside(long).name)) < 60

    def test_what_cannot_fit_is_refused_before_the_work(self, image, tmp_path):
        long = copy_of(image, image.with_name("v" * 250 + ".tif"))
        for out in (image.parent, tmp_path / "yet" / "to be made"):
            result = run("predict", long, "-o", out)
            assert result.exit_code == 1
            assert "has 261 bytes, which are too many for the file system" in result.output
        assert not (tmp_path / "yet").exists()

    def test_a_kept_graph_is_named_by_the_beginning(self, tmp_path):
        [job] = planned([tmp_path / ("µ" * 120 + ".tif")], None)
        folder = Memory(2**30, tmp_path).options(job, 0)["work_folder"]
        assert folder.name.startswith("µ" * 50 + "-")
        assert len(os.fsencode(folder.name)) < 130


class TestFolders:
    def test_images_of_several_folders_are_mirrored(self, image, tmp_path):
        images = [copy_of(image, tmp_path / day / "A01.tif") for day in ("day1", "day2")]
        out, overlays = tmp_path / "out", tmp_path / "overlays"
        done("predict", *images, "-o", out, "--overlay", overlays)
        for day in ("day1", "day2"):
            assert names(out / day) == ["A01_labels.tif", "A01_manifest.json"]
            assert names(overlays / day) == ["A01_overlay.png"]

    def test_images_of_one_folder_are_not(self):
        jobs = planned([Path("a/x.tif"), Path("b/../a/y.tif")], Target(Path("out")))
        assert [job.files["labels"] for job in jobs] == [Path("out/x_labels.tif"), Path("out/y_labels.tif")]
        jobs = planned([Path("a/x.tif"), Path("a/deep/x.tif")], Target(Path("out")))
        assert [job.files["labels"] for job in jobs] == [
            Path("out/x_labels.tif"),
            Path("out/deep/x_labels.tif"),
        ]

    def test_a_slash_or_several_images_make_a_folder(self, image, tmp_path):
        second = copy_of(image, image.with_name("b.tif"))
        done("predict", image, "-o", f"{tmp_path}/results_2024.05.01/")
        assert names(tmp_path / "results_2024.05.01") == ["a_labels.tif", "a_manifest.json"]
        done("predict", image, second, "-o", tmp_path / "results_2025.05.01")
        assert len(names(tmp_path / "results_2025.05.01")) == 4
        result = run("predict", image, "-o", tmp_path / "results_2026.05.01")
        assert (result.exit_code, "or in / to name a folder" in result.output) == (2, True)
        assert run("predict", image, second, "-o", tmp_path / "labels.tif").exit_code == 2

    def test_two_images_of_one_name_are_both_named(self, image, nuclei):
        np.save(image.with_suffix(".npy"), nuclei[0])
        result = run("predict", image.parent)
        assert result.exit_code == 2
        for path in (image, image.with_suffix(".npy"), image.with_name("a_labels.tif")):
            assert str(path) in result.output
        with pytest.raises(UsageError, match=r"a/x\.tif and a/x\.png would both be written to"):
            planned([Path("a/x.tif"), Path("a/x.png")], None)


class TestOwnResults:
    """A folder of images may hold results, too."""

    def test_none_is_an_image(self, image, tmp_path, monkeypatch):
        pytest.importorskip("zarr")
        monkeypatch.chdir(image.parent)
        done("suggest", ".")
        done("predict", ".", "--save", "labels,overlay,maps,ome-zarr", "--overlay", "outlines.png")
        done("predict", "a.tif", "-o", "other.tif")
        done("demo", "-o", ".")
        (image.parent / "a_manifest.json").unlink()  # the marks are in the files
        output = done("suggest", ".", "--json")
        assert "left out, as results and no images:" in output
        assert io.expand_inputs(["."]) == [Path("a.tif")]
        for command in (
            ("predict", "."),
            ("fit", ".", "-o", "m.safetensors", "--steps", 1, "--batch-size", 2),
            ("report", "--images", "."),
        ):
            output = done(*command)
            assert "left out, as results and no images: a_cells.ome.zarr, a_confidence.tif" in output
            assert "and 4 more" in output
        assert not [name for name in names(image.parent) if name.count("_") > 1]

    def test_one_that_another_program_has_changed_is_recorded(self, image):
        done("predict", image)
        labels = image.with_name("a_labels.tif")
        tifffile.imwrite(labels, tifffile.imread(labels))
        assert io.find_inputs([image.parent]).results == [labels]

    def test_names_alone_leave_nothing_out(self, image, tmp_path):
        of_users = [image.with_name(name) for name in ("a_labels.tif", "b_overlay.png", "c_cells.ome.zarr")]
        copy_of(image, of_users[0])
        imsave(of_users[1], np.zeros((9, 9), np.uint8), check_contrast=False)
        of_users[2].mkdir()
        assert io.expand_inputs([image.parent]) == [image, *of_users]

    def test_what_is_named_is_an_input(self, image):
        done("predict", image)
        labels = image.with_name("a_labels.tif")
        found = io.find_inputs([labels, image.parent])
        assert found == io.Inputs([labels, image], [], [])

    def test_broken_manifests_and_files_say_nothing(self, image):
        for number, text in enumerate(("{", "[]", '{"outputs": 3}', "{}")):
            image.with_name(f"x{number}_manifest.json").write_text(text)
        image.with_name("b.tif").write_text("no image")
        assert [path.name for path in io.expand_inputs([image.parent])] == ["a.tif", "b.tif"]

    def test_looking_for_marks_says_nothing(self, image, caplog):
        """Neither of damaged tags, nor of a picture that is large."""
        damaged = bytearray(image.read_bytes())
        (first_tag,) = struct.unpack_from("<I", damaged, 4)
        struct.pack_into("<H", damaged, first_tag + 2 + 12 * 5 + 2, 99)  # the type of a tag
        image.with_name("damaged.tif").write_bytes(damaged)
        large = image.with_name("large.png")
        Image.new("L", (8, 8)).save(large, pnginfo=io.marked_png())
        header = bytearray(large.read_bytes())
        struct.pack_into(">II", header, 16, 40_000, 40_000)
        struct.pack_into(">I", header, 29, zlib.crc32(header[12:29]))
        large.write_bytes(header)
        assert io.find_inputs([image.parent]).results == [large]
        assert not caplog.records

    def test_a_preview_is_left_out(self, image, nuclei):
        for name in ("a.png", "c.png"):
            imsave(image.with_name(name), nuclei[0])
        found = io.find_inputs([image.parent / "*.*"])
        assert [path.name for path in found.files] == ["a.tif", "c.png"]
        assert [path.name for path in found.previews] == ["a.png"]
        assert list(found.left_out()) == [
            f"left out, as previews of images of the same name: {found.previews[0]}; name them to use them"
        ]


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch):
        """The disk has no room for a table."""

        def fail(path, columns):
            path.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("cellsegmenter.io._tables._write_csv", fail)

    def test_the_file_is_named_and_what_is_finished_is_recorded(self, image, full, monkeypatch):
        result = run("predict", image, "--save", "labels,table,overlay")
        assert result.exit_code == 1
        assert f"{image.with_name('a_cells.csv')}: No space left on device" in result.output
        assert names(image.parent) == ["a.tif", "a_labels.tif", "a_manifest.json"]
        recorded = json.loads(image.with_name("a_manifest.json").read_text())
        assert list(recorded["outputs"]) == ["labels"]
        assert "skipped" in run("predict", image, "--skip-existing").output
        monkeypatch.undo()
        assert "skipped" not in done("predict", image, "--save", "labels,table,overlay", "--skip-existing")

    def test_labels_without_a_record_are_made_again(self, image):
        done("predict", image)
        image.with_name("a_manifest.json").unlink()
        assert "skipped" not in done("predict", image, "--skip-existing")
        assert "skipped" in done("predict", image, "--skip-existing")

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "x.csv"),
            (OSError(errno.ENOSPC, "No space left on device", "{temporary}"), "x.csv"),
            (OSError("a library's words"), "x.csv cannot be written: a library's words"),
            (FileNotFoundError(errno.ENOENT, "No such file", "input.tif"), "input.tif"),
        ],
    )
    def test_an_error_names_the_file(self, tmp_path, error, message):
        path = tmp_path / "x.csv"
        if error.filename == "{temporary}":
            error.filename = str(path_beside(path))

        def write() -> None:
            with in_one_go(path) as temporary:
                temporary.write_text("half")
                raise error

        with pytest.raises(OSError, match=message) as caught:
            write()
        assert caught.value.errno == error.errno
        assert ".part" not in str(caught.value)
        assert names(tmp_path) == []
