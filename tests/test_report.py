"""The report of a model: what it says in words, its plots, and the page."""

import copy
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from cellsegmenter import CellSegmenter
from cellsegmenter.io import ImageFileError
from cellsegmenter.preparation import prepare_image
from cellsegmenter.repair import repair_image
from cellsegmenter.report import plot_history, plot_posterior, plot_prior, training_notes, write_report
from cellsegmenter.report.windows import telling_windows
from cellsegmenter_cli.main import cellseg

pytest.importorskip("matplotlib")

FINE = {"objects": 5.0, "area": 0.2, "reconstruction": 0.8, "warmup": 0.0}


def with_history(**ends):
    """A segmenter whose training of 1000 steps ended with these values."""
    segmenter = CellSegmenter(density=(3, 6), area=(0.15, 0.25))
    segmenter.history_ = {name: np.full(100, value) for name, value in (FINE | ends).items()}
    segmenter.history_["step"] = np.arange(10.0, 1010, 10)
    segmenter.penalties_ = {"density": 1.0, "area": 1.0, "reconstruction": 1.0}
    return segmenter


class TestNotes:
    def test_what_ended_well_needs_no_words(self):
        assert training_notes(with_history()) == []

    @pytest.mark.parametrize(
        ("ends", "words"),
        [
            (
                {"objects": 1.5},
                r"Density: objects in a window ended at 1\.5, below its bound of 3; objects may be smaller",
            ),
            ({"objects": 9.0}, "above its bound of 6"),
            ({"area": 0.05}, r"Area: covered fraction ended at 0\.05, below its bound of 0\.15"),
            ({"reconstruction": 1.7}, "two levels explains the images better"),
            ({"warmup": 0.2}, "warm-up had not ended after 1000 steps"),
        ],
    )
    def test_a_bound_that_does_not_hold_is_said(self, ends, words):
        [note] = training_notes(with_history(**ends))
        assert re.search(words, note)

    def test_a_penalty_at_its_limit(self):
        segmenter = with_history()
        segmenter.penalties_["area"] = 10.0
        assert training_notes(segmenter) == [
            "The penalty of area is at its upper limit (10): the bound could not be enforced."
        ]

    def test_an_error_that_still_falls(self):
        segmenter = with_history(reconstruction=1.0)
        segmenter.history_["reconstruction"] = np.geomspace(3, 0.5, 100)
        assert any("still falling" in note for note in training_notes(segmenter))

    def test_a_few_steps_tell_little(self):
        segmenter = with_history()
        segmenter.history_ = {name: values[:3] for name, values in segmenter.history_.items()}
        (note,) = training_notes(segmenter)
        assert note.startswith("30 steps are too few")

    def test_a_collapse(self):
        segmenter = with_history()
        segmenter.history_["warmup"][:10] = 0.4
        segmenter.history_["warmup"][50:60] = 0.4
        assert any("near step 510" in note for note in training_notes(segmenter))

    def test_no_history(self):
        segmenter = with_history()
        segmenter.history_ = {}
        assert training_notes(segmenter) == ["The model holds no history of its training."]
        with pytest.raises(ValueError, match="no history"):
            plot_history(segmenter)


class TestPlots:
    def test_history_shows_each_constraint_with_its_bounds(self, trained):
        axes = {axis.get_title(loc="left"): axis for axis in plot_history(trained).axes}
        objects = axes["objects in a window"]
        np.testing.assert_array_equal(objects.lines[0].get_ydata(), trained.history_["objects"])
        band = objects.patches[0].get_extents().transformed(objects.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx(trained.density)
        assert {line.get_label() for line in axes["penalties λ"].lines} == set(trained.penalties_)

    def test_posterior_shows_a_row_for_each_window(self, trained, scenes):
        figure = plot_posterior(trained, scenes[0][:2, :48, :48], n_samples=2)
        assert len(figure.axes) == 2 * 5
        assert figure.axes[4].get_title() == "consensus"
        sample = figure.axes[2]
        assert sample.get_xlabel() == f"{len(sample.lines)} objects"  # a box for each
        assert sample.get_xlim() == (-0.5, 47.5)

    def test_prior(self, trained):
        figure = plot_prior(trained, 3)
        assert figure.axes[0].images[0].get_array().shape == (48, 48)


class TestWindows:
    def test_they_are_cut_where_there_is_something(self, trained):
        image = np.zeros((200, 200), np.float32)
        image[:100, :100] = np.random.default_rng(0).random((100, 100))
        windows = telling_windows(trained, [image], 2)
        assert len(windows) == 2
        assert min(window.pixels.std() for window in windows) > 0.1

    def test_they_are_at_working_scale(self, trained, scenes):
        twice = copy.copy(trained).set_params(diameter=2 * trained.working_diameter_)
        large = np.kron(scenes[0][0], np.ones((2, 2), np.float32))
        (window,) = telling_windows(twice, [large])  # no second one fits beside it
        assert window.pixels.shape == (1, 48, 48)
        row, column, height, width = window.region
        assert (height, width) == (96, 96)
        own = large[row : row + height, column : column + width][np.ix_(window.rows, window.columns)]
        assert np.corrcoef(own.ravel(), window.pixels.ravel())[0, 1] > 0.9

    def test_an_image_smaller_than_a_window_is_shown_as_it_is(self, trained, scenes):
        small, large = telling_windows(trained, [scenes[0][0][:40, :60], scenes[0][1]])
        assert small.pixels.shape == (1, 40, 48)
        assert large.pixels.shape == (1, 48, 48)
        figure = plot_posterior(trained, [small.image, large.image], n_samples=1)
        corners = [line.get_xydata().min(axis=0) for line in figure.axes[2].lines]
        assert corners
        assert (np.array(corners) < (48, 40)).all()  # none lies in the padding
        assert [axis.images[0].get_array().shape[:2] for axis in figure.axes] == [(40, 48)] * 4 + [
            (48, 48)
        ] * 4

    def test_no_two_show_the_same(self, trained):
        image = np.random.default_rng(0).random((300, 300))
        windows = telling_windows(trained, [image])
        seen = np.zeros(image.shape, int)
        for window in windows:
            seen[window.region.slices] += 1
        assert len(windows) == 4
        assert seen.max() == 1

    def test_they_are_what_prediction_sees(self, trained, monkeypatch):
        """Beside a bright haze, which a window on its own would not know for one."""
        image = np.random.default_rng(0).random((200, 200))
        image[:, :100] += 5
        prepared = prepare_image(repair_image(image[None]), diameter=trained.working_diameter_)
        regions = []

        def noted(self, image, *, region, original=CellSegmenter.consensus):
            regions.append(region)
            return original(self, image, region=region)

        monkeypatch.setattr(CellSegmenter, "consensus", noted)
        figure = plot_posterior(trained, [image], n_samples=1)
        windows = telling_windows(trained, [image])
        assert regions == [window.region for window in windows]
        for window, shown in zip(windows, figure.axes[::4], strict=True):
            seen = prepared[(slice(None), *window.region.slices)]
            np.testing.assert_allclose(window.pixels, seen, atol=1e-5)
            picture = np.asarray(shown.images[0].get_array())
            assert np.corrcoef(picture.ravel(), window.pixels.ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def source(trained, scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, trained, images=list(scenes[0][:2]), title="Cells & <more>")
    return path.read_text(encoding="utf-8")


class TestPage:
    def test_it_holds_everything_itself(self, source):
        loaded = re.findall(r'(?:src|href)="([^"]*)"', source)
        assert all(link.startswith(("data:", "#")) for link in loaded)
        assert "<script" not in source

    def test_it_has_all_parts(self, source, trained):
        for heading in ("The training", "What it sees", "What it imagines", "The model's card"):
            assert f"<h2>{heading}</h2>" in source
        assert "Cells &amp; &lt;more&gt;" in source
        assert str(trained.card_["weights"]) in source

    def test_figures_are_drawn_in_the_colours_of_the_page(self, source):
        figures = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
        assert len(figures) == 3
        for figure in figures:
            root = ElementTree.fromstring(figure)
            assert root.get("viewBox")
            assert root.get("width") is None
            assert root.get("aria-label")
        assert "var(--ink)" in figures[0]
        assert "prefers-color-scheme: dark" in source

    def test_without_images_nothing_is_shown_of_them(self, trained, tmp_path):
        write_report(tmp_path / "report.html", trained)
        assert "What it sees" not in (tmp_path / "report.html").read_text(encoding="utf-8")

    def test_it_must_be_called_a_page(self, trained, tmp_path):
        with pytest.raises(ImageFileError, match=r"\.html"):
            write_report(tmp_path / "report.pdf", trained)


def test_the_command_reports_of_a_model_and_images(trained, scenes, tmp_path):
    model, image, page = tmp_path / "my model.safetensors", tmp_path / "cells.tif", tmp_path / "report.html"
    trained.save(model)
    tifffile.imwrite(image, scenes[0][0])
    arguments = ["report", str(model), "--images", str(image), "-o", str(page), "--device", "cpu"]
    result = CliRunner().invoke(cellseg, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "<title>my model</title>" in page.read_text(encoding="utf-8")
