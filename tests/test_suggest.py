"""Bounds proposed from images: what is counted, in whose pixels, and what the user is told."""

import shlex
import warnings

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from skimage.io import imread
from skimage.transform import rescale

from cellsegmenter import CellSegmenter, suggest_bounds
from cellsegmenter.counting import count_objects
from cellsegmenter.counting_picture import write_counting_picture
from cellsegmenter.datasets import load_nuclei, make_blobs, make_multi_mnist, make_nuclei
from cellsegmenter.io import ImageFileError
from cellsegmenter.parameters import BoundsWarning, check_bounds_together, warn_of_conflicts
from cellsegmenter_cli.main import cellseg


def disc_image(centers, radius, shape=(96, 96)):
    """Discs of intensity 1 on a dim, slightly noisy background."""
    row, column = np.indices(shape)
    image = 0.05 * np.random.default_rng(0).random(shape)
    for y, x in centers:
        image[np.hypot(row - y, column - x) <= radius] = 1
    return image[None].astype(np.float32)


class TestCounting:
    def test_discs(self):
        [tile] = count_objects(disc_image([(20, 20), (20, 70), (70, 40)], 8))
        assert len(tile.areas) == tile.labels.max() == 3
        np.testing.assert_allclose(tile.areas, np.pi * 8**2, rtol=0.15)
        assert tile.whole.all()
        assert tile.diameter == pytest.approx(16, rel=0.08)

    def test_touching_discs_are_parted_at_the_neck(self):
        [tile] = count_objects(disc_image([(40, 30), (40, 45), (15, 15), (80, 20), (80, 75), (15, 75)], 8))
        assert len(tile.areas) == 6

    def test_a_stroke_of_even_width_stays_whole(self):
        image = disc_image([], 1)
        image[0, 20:70, 40:47] = 1
        image[0, 20:27, 40:80] = 1
        [tile] = count_objects(image)
        assert len(tile.areas) == 1
        assert tuple(tile.boxes[0]) == pytest.approx((50, 40), abs=3)

    def test_objects_at_the_rim_are_not_whole(self):
        [tile] = count_objects(disc_image([(0, 40), (50, 50)], 9))
        assert sorted(tile.whole) == [False, True]

    def test_noise_holds_no_objects(self):
        noise = np.random.default_rng(0).normal(100, 5, (1, 128, 128)).astype(np.float32)
        assert sum(len(tile.areas) for tile in count_objects(noise)) == 0

    def test_dim_objects_count_beside_bright_ones(self):
        image = disc_image([(20, 20), (20, 70)], 8)
        image += 0.35 * disc_image([(70, 40)], 8)
        [tile] = count_objects(image)
        assert len(tile.areas) == 3

    @pytest.mark.parametrize(
        ("example", "tolerance"),
        [
            (make_nuclei(4, size=160, count=(12, 25), random_state=0), 0.15),
            (make_blobs(30, max_overlap=0, random_state=0), 0.25),
            (make_multi_mnist(30, random_state=0), 0.15),
        ],
        ids=["nuclei", "blobs", "digits"],
    )
    def test_the_number_of_objects_is_nearly_right(self, example, tolerance):
        counted = sum(len(tile.areas) for image in example.images for tile in count_objects(image[None]))
        assert counted == pytest.approx(example.count.sum(), rel=tolerance)


def true_window_means(labels, side, n=300):
    """Mean number of objects of which a quarter or more is visible, and mean foreground, of random windows."""
    random = np.random.default_rng(5)
    numbers, fractions = [], []
    for _ in range(n):
        label = labels[random.integers(len(labels))]
        top, left = (random.integers(s - side + 1) for s in label.shape)
        crop = label[top : top + side, left : left + side]
        whole = np.bincount(label.ravel())[1:]
        shown = np.bincount(crop.ravel(), minlength=len(whole) + 1)[1:]
        numbers.append(np.sum(shown >= 0.25 * whole))
        fractions.append(np.mean(crop > 0))
    return np.mean(numbers), np.mean(fractions)


@pytest.fixture(scope="module")
def made():
    return make_nuclei(8, size=160, count=(12, 25), random_state=1)


@pytest.fixture(scope="module")
def suggested(made):
    return suggest_bounds(made.images)


class TestSuggestBounds:
    def test_the_truth_lies_within(self, made, suggested):
        number, fraction = true_window_means(made.labels, 80)
        assert suggested.density[0] < number < suggested.density[1]
        assert suggested.area[0] < fraction < suggested.area[1]
        assert suggested.object_size[0] < 16 < suggested.object_size[1]
        assert suggested.diameter is None  # 16 px suit an 80-px window
        assert suggested.object_diameter == pytest.approx(16, rel=0.1)
        assert not suggested.notes

    def test_the_noise_scale_is_the_one_that_fit_estimates(self, made, suggested):
        segmenter = CellSegmenter(
            **suggested.parameters, n_steps=1, batch_size=2, device="cpu", random_state=0
        )
        assert suggested.noise_scale == pytest.approx(segmenter.fit(made.images).noise_scale_, rel=0.1)

    def test_large_objects_are_rescaled(self, made, suggested):
        larger = suggest_bounds([rescale(image, 3) for image in made.images])
        # The same scene at three times the size: the same bounds, and a diameter to rescale by.
        assert larger.density == pytest.approx(suggested.density, rel=0.2)
        assert larger.area == pytest.approx(suggested.area, rel=0.2)
        assert larger.object_diameter == pytest.approx(3 * suggested.object_diameter, rel=0.1)
        implied = check_bounds_together(
            density=larger.density,
            area=larger.area,
            object_size=larger.object_size,
            window_size=80,
            max_objects=None,
        ).diameter
        # Fit rescales by implied / diameter: that has to be the scale at which the windows were counted.
        assert implied / larger.diameter == pytest.approx(larger.scales[0], rel=0.01)

    @pytest.mark.parametrize("place", [(400, 500), (30, 770)])
    def test_a_single_object_in_much_background(self, place):
        """Otsu's threshold of all pixels halves the noise, and few random windows, or none, show the object."""
        row, column = np.indices((1200, 1200))
        image = np.random.default_rng(0).normal(100, 10, (1200, 1200))
        image[np.hypot(row - place[0], column - place[1]) < 9] += 500
        suggested = suggest_bounds(image.astype(np.float32))
        assert suggested.n_objects == 1
        assert suggested.object_diameter == pytest.approx(18, rel=0.1)
        low, high = suggested.density
        assert 0.3 * low < (80 / 1200) ** 2 < 3 * high
        assert suggested.notes[0].startswith("Only 1 object was counted")

    def test_noise_alone_holds_nothing(self):
        random = np.random.default_rng(0)
        for image in (random.normal(100, 10, (512, 512)), random.poisson(3, (512, 512))):
            assert not len(count_objects(image[None])[0].areas)

    def test_images_of_different_scale_get_one_each(self, made):
        images = [rescale(image, 1 + i % 3) for i, image in enumerate(made.images[:6])]
        suggested = suggest_bounds(images)
        assert suggested.diameter == "auto"
        assert any("differ in scale" in note for note in suggested.notes)

    def test_channels(self, made):
        two = np.stack([np.zeros_like(made.images[0]), made.images[0]], axis=-1)
        alone = suggest_bounds([made.images[0]]).n_objects
        assert suggest_bounds([two], channel_axis=-1).n_objects == pytest.approx(alone, abs=2)

    def test_images_smaller_than_a_window(self):
        suggested = suggest_bounds([disc_image([(15, 15), (35, 35)], 7, (50, 50))[0]] * 3)
        # A window of 80 px holds 80² / 50² times as many.
        assert suggested.density[0] < 2 * 80**2 / 50**2 < suggested.density[1]

    def test_few_objects_are_said_to_be_few(self):
        suggested = suggest_bounds(disc_image([(20, 20), (60, 60)], 8)[0])
        assert any("Only 2 objects" in note for note in suggested.notes)

    def test_inverted_images_are_noticed(self, made):
        notes = suggest_bounds(1 - make_blobs(4, random_state=0).images).notes
        assert [note for note in notes if "bright" in note] == [
            "100% of the images are mostly bright: if the objects are dark on a brighter background, give "
            'polarity="dark" (--polarity dark), as the numbers mean nothing otherwise.'
        ]
        assert not any(
            "bright" in note for note in suggest_bounds(make_blobs(4, random_state=0).images).notes
        )

    def test_much_foreground_is_noticed(self):
        row, column = np.mgrid[:240, :240]
        image = 0.4 * ((row % 20 - 10) ** 2 + (column % 20 - 10) ** 2 < 8.5**2)
        image[:40, :40] *= 2.5  # beside which the others are dim
        (note,) = suggest_bounds(image).notes
        assert note.startswith("56% of the pixels look like objects")

    def test_nothing_to_see(self):
        with pytest.raises(ValueError, match="stands out"):
            suggest_bounds(np.full((100, 100), 3.0))

    def test_the_built_in_image(self):
        image, labels = load_nuclei()
        suggested = suggest_bounds(image)
        number, _ = true_window_means([labels], 80)
        assert suggested.density[0] < number < suggested.density[1]

    def test_the_constructor_and_the_command_are_ready_to_use(self, suggested):
        made = eval(suggested.constructor, {"CellSegmenter": CellSegmenter})
        assert made.density == suggested.density
        words = shlex.split(suggested.command(["my images/*.tif"]))
        assert words[:3] == ["cellseg", "fit", "my images/*.tif"]
        context = click.Context(cellseg)
        parsed = cellseg.commands["fit"].make_context("fit", words[2:], parent=context)
        assert parsed.params["density"] == suggested.density
        assert parsed.params["area"] == suggested.area

    def test_the_picture_shows_the_outlines(self, suggested, tmp_path):
        write_counting_picture(tmp_path / "counted.png", suggested)
        picture = imread(tmp_path / "counted.png").astype(int)
        yellow = (picture[..., 0] > 200) & (picture[..., 2] < 60)
        assert 0.005 < yellow.mean() < 0.2
        write_counting_picture(tmp_path / "one.png", suggest_bounds(make_blobs(1, random_state=0).images))
        assert imread(tmp_path / "one.png").shape[1] == pytest.approx(
            picture.shape[1], abs=20
        )  # and not a third
        with pytest.raises(ImageFileError, match=r"\.png"):
            write_counting_picture(tmp_path / "counted.jpg", suggested)


class TestConflicts:
    @staticmethod
    def warn(**changed):
        given = {"density": (5, 10), "area": (0.1, 0.15), "object_size": (8, 28)} | changed
        warn_of_conflicts(check_bounds_together(**given, window_size=80, max_objects=None))

    def test_the_defaults_and_the_papers_bounds_hold(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.warn()
            self.warn(density=(1.5, 6.5), area=(0.05, 0.15), object_size=(12, 40))

    @pytest.mark.parametrize(
        ("bounds", "problem"),
        [
            ({"density": (20, 30), "area": (0.01, 0.05), "object_size": (20, 40)}, "more than area allows"),
            ({"density": (1, 2), "area": (0.4, 0.6), "object_size": (8, 20)}, "less than area demands"),
            ({"density": (1, 8), "area": (0.3, 0.5), "object_size": (8, 20)}, "px across"),
        ],
    )
    def test_what_cannot_hold_is_said(self, bounds, problem):
        with pytest.warns(BoundsWarning, match=problem):
            self.warn(**bounds)

    def test_fit_warns_and_predict_does_not(self):
        images = make_blobs(2, random_state=0).images
        segmenter = CellSegmenter(
            density=(1, 2), area=(0.4, 0.6), object_size=(8, 20), n_steps=1, batch_size=2, device="cpu"
        )
        with pytest.warns(BoundsWarning, match="suggest_bounds"):
            segmenter.fit(images)
        segmenter.predict(images[0])


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(cellseg, [str(argument) for argument in arguments], catch_exceptions=False)

    def test_it_prints_a_command_and_writes_a_picture(self, tmp_path):
        path, picture = tmp_path / "cells.tif", tmp_path / "counted.png"
        tifffile.imwrite(path, load_nuclei()[0])
        result = self.run("suggest", path, "--picture", picture, "--axes", "YX")
        assert result.exit_code == 0, result.output
        assert f"cellseg fit {path} --axes YX -o my-model.safetensors --density" in result.output
        assert "CellSegmenter(density=" in result.output
        assert picture.exists()

    def test_json(self, tmp_path):
        path = tmp_path / "cells.tif"
        tifffile.imwrite(path, load_nuclei()[0])
        result = self.run("suggest", path, "--picture", tmp_path / "c.png", "--json")
        assert '"density"' in result.output
        assert result.output.startswith("{")

    def test_the_image_is_not_overwritten(self, tmp_path):
        path = tmp_path / "cells.png"
        path.write_bytes(b"")
        result = self.run("suggest", path, "--picture", path)
        assert result.exit_code == 2
        assert "over an input" in result.output
