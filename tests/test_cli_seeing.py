"""The command line where it says how an image is to be seen: polarity, diameters, masks, channels."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from cellsegmenter import CellSegmenter, estimator
from cellsegmenter.datasets import make_nuclei
from cellsegmenter_cli.main import cellseg

QUICK = ("--samples", "2", "--device", "cpu")


def run(*arguments: object) -> Result:
    """A command whose warnings are said, as they are outside of tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(cellseg, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object, saying: str, code: int = 1) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert saying in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output


def labels_of(path: Path) -> np.ndarray:
    return tifffile.imread(path)


def record_of(image: Path) -> dict:
    return json.loads(image.with_name(f"{image.stem}_manifest.json").read_text())


@pytest.fixture
def bright(tmp_path, nuclei):
    path = tmp_path / "bright.tif"
    tifffile.imwrite(path, nuclei[0])
    return path


@pytest.fixture
def dark(tmp_path, nuclei):
    path = tmp_path / "dark.tif"
    tifffile.imwrite(path, 255 - nuclei[0])
    return path


# --- polarity ---------------------------------------------------------------------------------------------------


def test_dark_objects_are_found_and_it_is_said_and_recorded(bright, dark):
    expected = done("predict", bright, *QUICK)
    assert "inverted" not in expected
    output = done("predict", dark, *QUICK)
    assert output.count("objects are darker than their surroundings: the image is inverted") == 1
    first, second = (labels_of(path.with_name(f"{path.stem}_labels.tif")) for path in (bright, dark))
    assert np.mean((first > 0) == (second > 0)) > 0.98
    (plane,) = record_of(dark)["planes"]
    assert "objects are darker than their surroundings: the image is inverted" in plane["notes"]
    assert record_of(dark)["request"]["polarity"] is None
    assert record_of(dark)["request"]["model_parameters"]["polarity"] == "auto"


def test_polarity_is_as_the_user_says(dark):
    output = done("predict", dark, *QUICK, "--polarity", "bright", "--diameter", "16")
    assert "inverted" not in output
    assert record_of(dark)["request"]["polarity"] == "bright"
    again = done("predict", dark, *QUICK, "--polarity", "dark", "--diameter", "16", "--skip-existing")
    assert "made with another polarity" in again
    refused("predict", dark, "--polarity", "grey", saying="'grey' is not one of", code=2)


def test_suggest_and_fit_take_dark_objects(tmp_path):
    images = make_nuclei(2, size=160, count=(30, 30), diameter=14, brightness=(0.5, 1), random_state=0).images
    path = tmp_path / "dark.npy"
    np.save(path, 1 - np.hstack(list(images)))
    picture = tmp_path / "counted.png"
    command = done("suggest", path, "--polarity", "dark", "--picture", picture)
    assert "--polarity dark" in command
    assert 'polarity="dark"' in command.replace("'", '"')
    model = tmp_path / "model.safetensors"
    done("fit", path, "-o", model, "--polarity", "dark", "--steps", 2, "--recognition", "windows", "-q")
    assert CellSegmenter.load(model).polarity == "dark"
    assert CellSegmenter.load(model).card_["parameters"]["polarity"] == "dark"


def test_notes_of_many_images_are_said_for_each_and_logged(bright, dark, tmp_path):
    log = tmp_path / "log.txt"
    output = done("predict", bright, dark, *QUICK, "--log-file", log)
    for text in (output, log.read_text()):
        assert text.count("objects are about") == 2
        assert text.count("the image is inverted") == 1


# --- diameters --------------------------------------------------------------------------------------------------


def test_several_diameters_are_looked_for(bright):
    output = done("predict", bright, *QUICK, "--diameter", "40,13.5")
    assert "taken to be 13.5 and 40 px across" in output
    record = record_of(bright)
    assert record["request"]["diameter"] == [40.0, 13.5]
    assert record["planes"][0]["diameter"] == [13.5, 40.0]
    again = done("predict", bright, *QUICK, "--diameter", "40,13.5", "--skip-existing")
    assert "skipped" in again
    assert "made with another" not in again


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("8,-2", "-2 must be positive"),
        ("8,,9", "'' is neither a number"),
        ("8,auto", "mixes numbers and words"),
        ("big", "'big' is neither a number nor 'auto' nor 'none'"),
    ],
)
def test_diameters_that_are_none_are_refused(bright, value, words):
    refused("predict", bright, "--diameter", value, saying=words, code=2)


def test_sliding_windows_see_one_scale(bright):
    refused(
        "predict", bright, *QUICK, "--diameter", "8,20", "--recognition", "windows",
        saying="has several numbers, and sliding windows see an image at one scale",
    )  # fmt: skip


def test_every_image_has_its_own_warnings_in_the_words_of_the_command_line(tmp_path):
    paths = [tmp_path / f"noise{seed}.npy" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        np.save(path, np.random.default_rng(seed).normal(100, 5, (96, 96)).astype(np.float32))
    output = done("predict", *paths, *QUICK, "--diameter", "900")
    for path in paths:
        assert output.count(f"Warning: {path}: diameter=900 px is far from") == 1


def test_doubts_name_the_option(monkeypatch, bright):
    original = estimator.see

    def doubtful(*arguments, **options):
        return replace(original(*arguments, **options), doubts=("unsure; set the diameter to 13.5",))

    monkeypatch.setattr(estimator, "see", doubtful)
    output = done("predict", bright, *QUICK)
    assert output.count(f"Warning: {bright}: unsure; set --diameter to 13.5") == 1


def test_tune_passes_on_how_the_image_is_seen(bright, tmp_path):
    page, mask = tmp_path / "page.html", tmp_path / "mask.png"
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(mask)
    done(
        "tune",
        bright,
        *QUICK,
        "--diameter",
        "13.5,40",
        "--polarity",
        "bright",
        "--mask",
        mask,
        "-o",
        page,
        "-q",
    )
    assert f"--mask {mask} --samples 2 --diameter 13.5,40 --polarity bright" in page.read_text()


# --- masks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path, nuclei):
    """A folder with masks of `bright` and `dark` that leave the right half."""
    folder = tmp_path / "masks"
    folder.mkdir()
    half = np.zeros(nuclei[0].shape, np.uint8)
    half[:, 64:] = 255
    Image.fromarray(half).save(folder / "bright.png")
    tifffile.imwrite(folder / "dark.tif", half)
    return folder


def test_nothing_is_looked_for_where_the_mask_is_zero(bright, masks):
    done("predict", bright, *QUICK)
    whole = labels_of(bright.with_name("bright_labels.tif"))
    output = done("predict", bright, *QUICK, "--mask", masks / "bright.png", "--save", "labels,table")
    assert "50% of the pixels are NaN or masked" in output
    half = labels_of(bright.with_name("bright_labels.tif"))
    assert (whole[:, :60] > 0).any()
    assert not (half[:, :64] > 0).any()
    assert np.mean((half[:, 80:] > 0) == (whole[:, 80:] > 0)) > 0.97
    assert record_of(bright)["request"]["mask"] == str(masks / "bright.png")
    assert "nan" not in bright.with_name("bright_cells.csv").read_text()
    again = done("predict", bright, *QUICK, "--skip-existing")
    assert "made with another mask" in again


def test_a_folder_has_the_mask_of_each_image_by_its_name(bright, dark, masks):
    done("predict", bright, dark, *QUICK, "--mask", masks)
    for path in (bright, dark):
        assert not (labels_of(path.with_name(f"{path.stem}_labels.tif"))[:, :64] > 0).any()
        assert record_of(path)["request"]["mask"].startswith(str(masks / path.stem))


def test_the_mask_works_piece_by_piece_too(bright, masks, tmp_path):
    done("predict", bright, *QUICK, "--mask", masks)
    in_memory = labels_of(bright.with_name("bright_labels.tif"))
    done("predict", bright, *QUICK, "--mask", masks, "--keep-graph", tmp_path / "graph")
    assert np.array_equal(labels_of(bright.with_name("bright_labels.tif")), in_memory)


def test_masks_that_do_not_fit_are_refused_before_the_work(bright, dark, masks, tmp_path):
    small = tmp_path / "small.png"
    Image.fromarray(np.full((100, 128), 255, np.uint8)).save(small)
    for more in ((), ("--dry-run",)):
        refused(
            "predict", bright, "--mask", small, *more,
            saying="the mask has 100 × 128 px and the image 128 × 128; give a mask of the image's size",
        )  # fmt: skip
    refused("predict", bright, dark, "--mask", small, saying="is one file for 2 images", code=2)
    (masks / "dark.tif").unlink()
    refused(
        "predict",
        bright,
        dark,
        "--mask",
        masks,
        saying="one mask for dark.tif, with any ending; it has none",
        code=2,
    )
    tifffile.imwrite(masks / "bright.tif", np.ones((128, 128), np.uint8))
    refused("predict", bright, "--mask", masks, saying="it has bright.tif and bright.png", code=2)
    refused(
        "predict", bright, "--mask", bright, "-o", bright, saying="would be written over an input", code=2
    )


def test_fit_leaves_out_what_is_masked(bright, masks, tmp_path):
    model = tmp_path / "model.safetensors"
    output = done(
        "fit", bright, "-o", model, "--mask", masks / "bright.png", "--steps", 2, "--recognition", "windows"
    )
    assert "50% of the pixels are NaN or masked" in output


# --- channels ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path, nuclei):
    """An image of two channels, the nuclei and something else."""
    path = tmp_path / "two.ome.tif"
    other = np.random.default_rng(0).integers(8, 12, nuclei[0].shape)
    both = np.stack([nuclei[0], other.astype(np.uint8)])
    tifffile.imwrite(path, both, metadata={"axes": "CYX", "Channel": {"Name": ["DNA", "other"]}})
    return path


def test_the_built_in_model_takes_any_one_channel_of_several(two, bright):
    done("predict", bright, *QUICK)
    done("predict", two, *QUICK, "--channel", "DNA")
    same = labels_of(two.with_name("two_labels.tif"))
    assert np.array_equal(same, labels_of(bright.with_name("bright_labels.tif")))
    refused(
        "predict", two, "--channel", "0,1",
        saying="is read with 2 channels, and the model takes 1; choose one by --channel N",
    )  # fmt: skip
    refused("tune", two, "--channel", "0,1", saying="choose one by --channel N")


def test_a_model_of_two_channels_in_fit_predict_and_table(two, tmp_path):
    model = tmp_path / "model.safetensors"
    quick = ("--steps", 2, "--recognition", "windows", "-q")
    output = done("fit", two, "-o", model, "--channel", "0,other", "--window-size", 48, *quick)
    assert CellSegmenter.load(model).n_channels_in_ == 2
    output = done(
        "predict", two, "--model", model, "--channel", "0,1", "--stride", 24, "--save", "labels,table,overlay"
    )
    assert "channels 0 (DNA), 1 (other) of 2" in output
    header = two.with_name("two_cells.csv").read_text().splitlines()[0]
    assert "mean_intensity-0" in header
    assert "mean_intensity-1" in header
    refused(
        "predict", two, "--model", model, "--channel", "0",
        saying="1 channel, and the model takes 2; choose as many, in the order of the fit, by --channel 0,1",
    )  # fmt: skip


def test_a_colour_image_is_refused_with_what_is_likely_and_then_done(tmp_path, nuclei):
    path = tmp_path / "overlay.png"
    colours = np.zeros((*nuclei[0].shape, 3), np.uint8)
    colours[..., 2] = nuclei[0]
    Image.fromarray(colours).save(path)
    refused("predict", path, saying="grey (the brightness)")
    for channel in ("blue", "grey"):
        output = done("predict", path, *QUICK, "--channel", channel)
        assert "no objects" not in output


def test_arrays_of_colours_say_what_helps(nuclei):
    segmenter = CellSegmenter.pretrained()
    colours = np.dstack([nuclei[0]] * 3)
    for call in (segmenter.predict, segmenter.consensus):
        with pytest.raises(ValueError, match=r'take one as X\[\.\.\., 0\].*channel="haematoxylin"'):
            call(colours)
    segmenter.set_params(channel_axis=-1)
    for call in (segmenter.predict, segmenter.consensus):
        with pytest.raises(ValueError, match=r'such as X\[:, :, 0\] without.*channel="haematoxylin"'):
            call(colours)
