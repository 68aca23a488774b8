"""Choosing the resolution by eye: the cuts, the page, and the page in a browser."""

import base64
import io
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from cellsegmenter import AbsoluteResolution
from cellsegmenter.html import OBJECT_COLOURS, outline_picture
from cellsegmenter.io import ImageFileError
from cellsegmenter.preparation import check_region
from cellsegmenter.tuning import ResolutionCut, ResolutionSweep, write_tuning_page
from cellsegmenter_cli.main import cellseg


class TestRegion:
    def test_it_is_read_as_rows_columns_height_width(self):
        assert check_region((2, 3, 4, 5), (10, 10)).slices == (slice(2, 6), slice(3, 8))

    @pytest.mark.parametrize(
        "region", [(0, 0, 11, 2), (8, 0, 4, 4), (-1, 0, 4, 4), (0, 0, 0, 4), (1, 2, 3), "all"]
    )
    def test_what_lies_outside_is_refused(self, region):
        with pytest.raises(ValueError, match="region="):
            check_region(region, (10, 10))


@pytest.fixture(scope="module")
def swept(trained, scenes):
    return trained.sweep(scenes[0][0], n_samples=2, random_state=3)


class TestSweep:
    def test_each_cut_is_what_the_consensus_gives(self, trained, scenes, swept):
        assert [cut.absolute for cut in swept.cuts] == sorted(cut.absolute for cut in swept.cuts)
        assert len(swept.cuts) >= 20
        consensus = trained.consensus(scenes[0][0], n_samples=2, random_state=3)
        for cut in swept.cuts[::7]:
            expected = consensus.cut(AbsoluteResolution(cut.absolute))
            np.testing.assert_array_equal(cut.labels, expected.labels)
            assert cut.n_objects == len(expected)
        assert swept.cuts[swept.automatic].absolute == consensus.cut("auto").resolution.absolute

    def test_the_automatic_choice_agrees_nearly_best(self, swept):
        agreement = [cut.agreement for cut in swept.cuts]
        assert all(0 <= value <= 1 for value in agreement)
        assert agreement[swept.automatic] > max(agreement) - 0.05
        assert agreement[-1] < max(agreement)

    def test_a_region_is_cut_alone(self, trained, scenes):
        sweep = trained.sweep(scenes[0][0], region=(4, 8, 48, 50), random_state=3)
        assert sweep.pixels.shape == sweep.cuts[0].labels.shape == (48, 50)

    def test_it_shows_that_it_works_if_asked(self, segmenter, scenes, capsys):
        segmenter.sweep(scenes[0][0], random_state=3)
        assert capsys.readouterr().err == ""
        segmenter.set_params(verbose=True).sweep(scenes[0][0], random_state=3)
        assert "cuts: 100%" in capsys.readouterr().err

    def test_an_empty_image_has_empty_cuts(self, trained):
        sweep = trained.sweep(np.zeros((64, 64)))
        assert {cut.n_objects for cut in sweep.cuts} == {0}
        assert np.isnan(sweep.cuts[0].median_diameter)


class Page(HTMLParser):
    """The elements of a page by id, its text and what it would load."""

    def __init__(self, source):
        super().__init__()
        self.by_id, self.text, self.loads, self._open = {}, {}, [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.by_id[attributes.get("id")] = (tag, attributes)
        self._open.append(attributes.get("id"))
        self.loads += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_data(self, data):
        if self._open:
            self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data


def decoded(uri):
    assert uri.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


COMMAND = "cellseg predict 'my image.tif' --gamma-abs GAMMA_ABS"


@pytest.fixture(scope="module")
def hand_made():
    """Three cuts of a bright square: one object, two, four."""
    pixels = np.zeros((40, 60), np.float32)
    pixels[8:32, 8:52] = 0.8
    cuts = []
    for value, (rows, columns) in zip((0.1, 0.3, 0.7), ((1, 1), (1, 2), (2, 2)), strict=True):
        labels = np.zeros((40, 60), np.int32)
        parts = np.arange(rows * columns).reshape(rows, columns) + 1
        labels[8:32, 8:52] = np.kron(parts, np.ones((24 // rows, 44 // columns), int))
        cuts.append(ResolutionCut(value, labels, rows * columns, 20.0, 0.9, 0.5 + value / 2))
    return ResolutionSweep(pixels, tuple(cuts), automatic=1)


@pytest.fixture
def page(hand_made, tmp_path):
    path = tmp_path / "tune.html"
    write_tuning_page(path, hand_made, command=COMMAND, subtitle="</script> <b>& co")
    return path


class TestPage:
    def test_it_holds_everything_itself(self, page):
        source = page.read_text(encoding="utf-8")
        assert all(link.startswith("data:") for link in Page(source).loads)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)

    def test_its_data_are_the_cuts(self, page, hand_made):
        data = json.loads(Page(page.read_text(encoding="utf-8")).text["data"])
        assert [cut["objects"] for cut in data["cuts"]] == [1, 2, 4]
        assert data["automatic"] == 1
        assert data["command"] == COMMAND
        overlay = decoded(data["cuts"][2]["overlay"]).convert("RGBA")
        assert overlay.size == (60, 40)
        opacity = np.asarray(overlay)[..., 3]
        assert (opacity[hand_made.cuts[2].labels == 0] == 0).all()
        assert opacity[8, 8] == 255  # an outline
        assert 0 < opacity[12, 12] < 255  # an inside, through which the image is seen

    def test_neighbours_have_colours_of_their_own(self):
        labels = np.repeat(np.arange(1, 4), 4)[None].repeat(4, axis=0)
        colour = np.asarray(outline_picture(labels).convert("RGBA"))[..., :3]
        np.testing.assert_array_equal(colour[0, 0], OBJECT_COLOURS[1])
        np.testing.assert_array_equal(colour[0, 11], OBJECT_COLOURS[3])

    def test_it_starts_at_the_automatic_choice(self, page):
        parsed = Page(page.read_text(encoding="utf-8"))
        assert parsed.by_id["slider"][1]["value"] == "1"
        assert parsed.text["command"].strip() == COMMAND.replace("GAMMA_ABS", "0.3")

    def test_the_slider_can_be_used_without_seeing_it(self, page):
        source = page.read_text(encoding="utf-8")
        assert '<label for="slider">' in source
        assert 'aria-live="polite"' in source
        assert '<html lang="en">' in source
        assert source.count("<img") == len(re.findall(r'<img[^>]* alt="[^"]+"', source))

    def test_names_cannot_break_out(self, page):
        assert "&lt;/script&gt; &lt;b&gt;&amp; co" in page.read_text(encoding="utf-8")

    def test_it_must_be_called_a_page(self, hand_made, tmp_path):
        with pytest.raises(ImageFileError, match=r"\.html"):
            write_tuning_page(tmp_path / "tune.txt", hand_made, command=COMMAND)


@pytest.fixture
def browser_page(page):
    """The page in headless Chromium, if there is one."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1000, "height": 800})
        errors = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(page.as_uri())
        yield opened
        browser.close()
    assert errors == []


def picture(opened):
    opened.wait_for_timeout(50)
    return np.asarray(Image.open(io.BytesIO(opened.locator(".picture").screenshot())).convert("RGB")).astype(
        int
    )


class TestBrowser:
    def test_the_slider_changes_the_picture_the_numbers_and_the_command(self, browser_page):
        before = picture(browser_page)
        assert browser_page.locator("#objects").inner_text() == "2"
        browser_page.locator("#slider").fill("2")
        after = picture(browser_page)
        changed = np.abs(after - before).max(axis=-1) > 20
        # The border between the upper and the lower halves is new, and the rest stays as it was.
        assert 0.01 < changed.mean() < 0.5
        assert browser_page.locator("#objects").inner_text() == "4"
        assert browser_page.locator("#command").inner_text() == COMMAND.replace("GAMMA_ABS", "0.7")
        assert not browser_page.locator("#is-automatic").is_visible()

    def test_keys(self, browser_page):
        gamma = browser_page.locator("#gamma")
        browser_page.keyboard.press("ArrowLeft")
        assert gamma.inner_text() == "0.1"
        browser_page.keyboard.press("ArrowLeft")  # there is none before the first
        assert gamma.inner_text() == "0.1"
        browser_page.keyboard.press("a")
        assert gamma.inner_text() == "0.3"
        assert browser_page.locator("#is-automatic").is_visible()
        browser_page.locator("#slider").focus()
        browser_page.keyboard.press("ArrowRight")  # one step, though both the page and the slider listen
        assert gamma.inner_text() == "0.7"

    def test_outlines_can_be_hidden(self, browser_page):
        with_outlines = picture(browser_page)
        browser_page.keyboard.press("o")
        without = picture(browser_page)
        assert np.abs(with_outlines - without).max() > 60
        assert np.ptp(without, axis=-1).max() < 10  # the image alone is grey


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(cellseg, [str(argument) for argument in arguments], catch_exceptions=False)

    def test_the_command_on_the_page_gives_what_the_page_shows(self, trained, scenes, tmp_path):
        trained.save(tmp_path / "model.safetensors")
        tifffile.imwrite(tmp_path / "cells.tif", scenes[0][0])
        result = self.run(
            "tune", tmp_path / "cells.tif", "--model", tmp_path / "model.safetensors",
            "--region", 0, 0, 64, 64, "-o", tmp_path / "tune.html", "--samples", 2, "--device", "cpu",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        data = json.loads(Page((tmp_path / "tune.html").read_text(encoding="utf-8")).text["data"])
        cut = data["cuts"][data["automatic"] + 1]
        words = shlex.split(data["command"].replace("GAMMA_ABS", str(cut["gamma_abs"])))
        result = self.run(*words[1:], "--device", "cpu", "-o", tmp_path / "labels.tif")
        assert result.exit_code == 0, result.output
        labels = tifffile.imread(tmp_path / "labels.tif")
        assert labels.max() == cut["objects"]
        shown = np.asarray(decoded(cut["overlay"]).convert("RGBA"))[..., 3] > 0
        np.testing.assert_array_equal(shown, labels > 0)

    def test_a_region_outside_of_the_image(self, nuclei, tmp_path):
        tifffile.imwrite(tmp_path / "cells.tif", nuclei[0])
        result = self.run(
            "tune", tmp_path / "cells.tif", "--region", 100, 0, 64, 64, "-o", tmp_path / "t.html"
        )
        assert result.exit_code == 1
        assert "reaches beyond the image of 128 × 128 px" in result.output

    def test_a_region_that_shows_nothing_is_said_to(self, tmp_path):
        tifffile.imwrite(tmp_path / "empty.tif", np.full((96, 96), 7, np.uint8))
        result = self.run("tune", tmp_path / "empty.tif", "-o", tmp_path / "t.html")
        assert result.exit_code == 0, result.output
        assert "nothing is found in this region" in result.output
        assert "automatic choice" not in result.output

    def test_several_images_are_not_one(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "stack.tif", np.zeros((3, 64, 64), np.uint8), imagej=True, metadata={"axes": "ZYX"}
        )
        result = self.run("tune", tmp_path / "stack.tif", "--z", "all", "-o", tmp_path / "t.html")
        assert result.exit_code == 2
        assert "choose one of them" in result.output
