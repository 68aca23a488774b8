"""The shipped model tells at which scale, in which polarity and at how many scales it sees an image best."""

import math
import warnings

import numpy as np
import pytest

from cellsegmenter import CellSegmenter, scale_search
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.diameter import TileDiameters, estimate_diameter
from cellsegmenter.metrics import average_precision
from cellsegmenter.polarity import Inverted
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.scale_search import Sighting, check_diameter, see, see_by_estimate
from cellsegmenter.scales import said_of_scale

INVERTED = "objects are darker than their surroundings: the image is inverted"


@pytest.fixture(scope="module")
def built_in() -> CellSegmenter:
    return CellSegmenter.pretrained().set_params(device="cpu", random_state=0)


@pytest.fixture(scope="module")
def model(built_in) -> FittedModel:
    return built_in._ready_model()


def field(diameter, *, size: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of nuclei, and their labels."""
    made = make_nuclei(
        1, size=size, count=(count, count), diameter=diameter, brightness=(0.5, 1), random_state=seed
    )
    return made.images[0], made.labels[0]


def mean_diameter(labels: np.ndarray) -> float:
    return float(np.mean(np.sqrt(4 / np.pi * np.bincount(labels.ravel())[1:])))


# --- one size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("diameter", "size", "count"), [(12, 160, 30), (30, 220, 14), (70, 360, 8)])
def test_the_diameter_of_nuclei_is_found(built_in, model, diameter, size, count):
    image, labels = field(diameter, size=size, count=count)
    seen = see(model, image[None], "auto", "auto")
    assert len(seen.views) == len(seen.diameters) == len(seen.scales) == 1
    assert seen.diameters[0] == pytest.approx(mean_diameter(labels), rel=0.25)
    assert seen.scales[0] == pytest.approx(model.working_diameter / seen.diameters[0])
    assert any(f"objects are about {seen.diameters[0]:.3g} px across" in note for note in seen.notes)
    assert seen.doubts == ()
    assert INVERTED not in seen.notes
    assert average_precision(labels, built_in.predict(image)) > 0.9


def test_a_wrong_estimate_is_put_right(model, monkeypatch):
    image, labels = field(16, size=200, count=30)
    for wrong in (70.0, math.nan):
        monkeypatch.setattr(
            scale_search, "tile_diameters", lambda image, d=wrong: TileDiameters(d, ((100, 100),))
        )
        (found,) = see(model, image[None], "auto", "bright").diameters
        assert found == pytest.approx(mean_diameter(labels), rel=0.3)


@pytest.mark.parametrize("nucleoli", [0, 3])
def test_parts_of_large_nuclei_are_not_taken_for_nuclei(model, nucleoli):
    made = make_nuclei(
        1, size=320, count=(9, 9), diameter=60, brightness=(0.5, 1), nucleoli=nucleoli, random_state=0
    )
    (found,) = see(model, made.images[0][None], "auto", "bright").diameters
    assert found == pytest.approx(mean_diameter(made.labels[0]), rel=0.25)


# --- polarity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("diameter", "size", "count"), [(12, 160, 30), (30, 200, 12)])
def test_dark_objects_are_seen_as_bright_ones(built_in, diameter, size, count):
    image, labels = field(diameter, size=size, count=count)
    bright, dark = (built_in.consensus(one) for one in (image, 1 - image))
    assert dark.seen.notes[0] == INVERTED
    assert dark.seen.notes[1:] == bright.seen.notes
    assert dark.seen.diameters[0] == pytest.approx(mean_diameter(labels), rel=0.25)
    bright_labels, dark_labels = (np.asarray(consensus.cut().labels) for consensus in (bright, dark))
    assert dark_labels.max() == bright_labels.max()
    assert np.mean(bright_labels != dark_labels) < 1e-3  # the last bits of the pixels are others


def test_a_given_polarity_is_not_asked_for(model, monkeypatch):
    image, _ = field(12, size=120, count=15)
    monkeypatch.setattr(scale_search._Search, "_look", lambda *_: pytest.fail("it looked at the image"))
    bright, dark = (see(model, image[None], 12, polarity) for polarity in ("bright", "dark"))
    assert INVERTED not in bright.notes
    assert dark.notes[0] == INVERTED
    np.testing.assert_allclose(dark.repaired[...], -image[None], atol=0.2)
    assert bright.views[0][...].max() > 0.9


@pytest.mark.parametrize("dark", [False, True])
def test_the_polarity_is_found_where_the_diameter_is_given(model, dark):
    image, labels = field(16, size=160, count=20)
    seen = see(model, (1 - image if dark else image)[None], mean_diameter(labels), "auto")
    assert (INVERTED in seen.notes) is dark


def test_an_inverted_image_is_read_slice_by_slice():
    image = np.random.default_rng(0).random((2, 20, 30)).astype(np.float32)
    inverted = Inverted(image)
    assert (inverted.shape, inverted.ndim, inverted.dtype) == (image.shape, 3, np.float32)
    np.testing.assert_array_equal(inverted[:, 3:9, 5:20], -image[:, 3:9, 5:20])
    np.testing.assert_array_equal(Inverted(inverted)[...], image)


# --- several sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "size", "count"),
    [
        pytest.param(
            [8, 40],
            420,
            60,
            marks=pytest.mark.xfail(strict=True, reason="small ones explain little"),
        ),
        ([8] * 12 + [40], 360, 130),
    ],
    ids=["as many", "few large ones"],
)
def test_small_and_large_nuclei_are_both_found(built_in, model, sizes, size, count):
    image, labels = field(sizes, size=size, count=count)
    seen = see(model, image[None], "auto", "auto")
    assert len(seen.diameters) > 1
    assert seen.diameters == tuple(sorted(seen.diameters))
    assert any("objects of several sizes: looked for at" in note for note in seen.notes)
    assert average_precision(labels, built_in.predict(image)) >= 0.85


def test_nuclei_of_one_size_are_looked_for_at_one_scale(model):
    for seed in range(3):
        image, _ = field(14, size=200, count=35, seed=seed)
        assert len(see(model, image[None], "auto", "bright").diameters) == 1


def test_windows_see_one_scale(model):
    image, _ = field([8] * 12 + [40], size=360, count=130)
    assert len(see(model, image[None], "auto", "bright", one_pass=False).diameters) == 1


def test_several_given_diameters_are_all_looked_for(built_in, model, monkeypatch):
    image, labels = field([8, 40], size=420, count=60)
    monkeypatch.setattr(scale_search._Search, "_look", lambda *_: pytest.fail("it looked at the image"))
    seen = see(model, image[None], [40, 8], "auto")
    assert seen.diameters == (8, 40)
    assert [view.original_shape for view in seen.views] == [image.shape] * 2
    found = [built_in.consensus(image, diameter=sizes).cut().labels for sizes in ([40, 8], 8, 40)]
    both, small, large = (average_precision(labels, one) for one in found)
    assert both > 0.9
    assert max(small, large) < 0.8


# --- nothing to see -------------------------------------------------------------------------------------

NOTHING = {
    "black": np.zeros((96, 96)),
    "grey": np.full((100, 120), 7, np.uint8),
    "noise": np.random.default_rng(0).normal(100, 10, (128, 128)),
    "counts": np.random.default_rng(0).poisson(3, (128, 110)),
    "a ramp": np.tile(np.linspace(0, 1, 120), (90, 1)),
    "no data": np.full((64, 64), np.nan),
    "one pixel": np.ones((1, 1)),
    "a row": np.random.default_rng(0).normal(100, 10, (1, 50)),
    "tiny": np.random.default_rng(0).normal(100, 10, (5, 7)),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_nothing_nothing_is_found(built_in, name):
    """The only warnings are those for the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=UserWarning, module="cellsegmenter")
        labels = built_in.predict(NOTHING[name])
    assert (labels.shape, labels.max()) == (NOTHING[name].shape, 0)


# --- what is said, of scores that are made up -------------------------------------------------------------


@pytest.fixture
def scored(model, monkeypatch):
    """A function that searches an image whose scores, and sizes of what is found, are functions of the diameter."""

    def search(score, *, estimate=math.nan, ratio=lambda d: 1.0):
        tried = []

        def sighting(self, diameters, across=0.0, places=()):
            tried.append(diameters)
            return Sighting(score(diameters[0]), ratio(diameters[0]))

        monkeypatch.setattr(scale_search._Search, "sighting", sighting)
        monkeypatch.setattr(
            scale_search, "tile_diameters", lambda image: TileDiameters(estimate, ((90, 90),))
        )
        image = np.random.default_rng(0).random((1, 400, 400)).astype(np.float32)
        return see(model, image, "auto", "bright", one_pass=False), {d for (d,) in tried}

    return search


def peak(at: float, height: float):
    return lambda d: height * math.exp(-((math.log(d / at) / 0.4) ** 2))


def test_what_is_sure_of_the_estimate_looks_at_nothing_else(scored):
    seen, tried = scored(peak(20, 0.8), estimate=20)
    assert seen.diameters == (20,)
    assert tried == {20, 50}
    assert "objects are about 20 px across (score 0.80 of 1)" in seen.notes
    assert seen.doubts == ()


@pytest.mark.parametrize("estimate", [math.nan, 10, 100])
def test_otherwise_the_best_scale_is_taken(scored, estimate):
    seen, tried = scored(peak(40, 0.8), estimate=estimate)
    assert seen.diameters[0] == pytest.approx(40, rel=0.15)
    assert min(tried) < 8.1
    assert max(tried) > 100
    assert seen.doubts == ()


def test_what_finds_other_sizes_than_it_expects_is_not_sure(scored):
    seen, tried = scored(peak(40, 0.9), estimate=28, ratio=lambda d: 1.6 if d < 30 else 1.0)
    assert seen.diameters[0] == pytest.approx(40, rel=0.15)
    assert len(tried) > 5


def test_the_estimate_stays_unless_another_scale_is_clearly_better(scored):
    seen, _ = scored(lambda d: 0.5 + 0.009 * (d > 100), estimate=17)
    assert seen.diameters == (17,)


def test_two_scales_that_are_about_as_good_are_a_doubt(scored):
    seen, _ = scored(lambda d: max(peak(12, 0.55)(d), peak(70, 0.54)(d)), estimate=12)
    (doubt,) = seen.doubts
    assert seen.diameters == (12,)
    assert "objects of 12 px and of" in doubt
    assert "are about as likely (scores 0.55 and 0.5" in doubt
    assert "if they are of the second size, set the diameter to" in doubt


def test_that_hardly_anything_is_known_is_a_doubt(scored):
    seen, _ = scored(peak(30, 0.2), estimate=30)
    (doubt,) = seen.doubts
    assert "at no scale does the model find much that it knows (score 0.20 at 30 px)" in doubt
    assert "set the diameter" in doubt


@pytest.mark.parametrize("estimate", [25, math.nan])
def test_that_nothing_is_known_is_a_doubt_only_where_something_stands_out(scored, estimate):
    seen, _ = scored(lambda d: 0.0, estimate=estimate)
    np.testing.assert_equal(seen.diameters, (estimate,))
    words = ("no objects that the model knows were found at any scale",)
    assert seen.doubts == (() if math.isnan(estimate) else words)


def test_the_user_is_warned_of_doubts(built_in, monkeypatch):
    image, _ = field(14, size=120, count=12)
    monkeypatch.setattr(scale_search, "_SURE", 2)
    monkeypatch.setattr(scale_search, "_HARDLY", 2)
    with pytest.warns(UserWarning, match="at no scale does the model find much that it knows"):
        built_in.predict(image)


# --- what a user gives ----------------------------------------------------------------------------------


def test_no_scale_is_looked_for_where_a_diameter_is_given(built_in, model, monkeypatch):
    monkeypatch.setattr(scale_search._Search, "_look", lambda *_: pytest.fail("it looked at the image"))
    image, _ = field(12, size=120, count=15)
    for diameter, expected in (
        (13, (13,)),
        (None, (math.nan,)),
        ((20, 8.5), (8.5, 20)),
        (np.array([9]), (9,)),
    ):
        seen = see(model, image[None], diameter, "auto")
        np.testing.assert_equal(seen.diameters, expected)
        assert seen.doubts == ()
    assert built_in.consensus(image, diameter=13).seen.diameters == (13,)


def test_without_a_network_to_ask_the_classical_estimate_is_taken(trained, monkeypatch):
    image, _ = field(12, size=120, count=15)
    monkeypatch.setattr(scale_search._Search, "__init__", lambda *_, **__: pytest.fail("it was asked"))
    seen = see(trained._ready_model(), image[None], "auto", "auto")
    how = {"working_diameter": trained.working_diameter_, "intensity": "log"}
    expected = see_by_estimate(image[None], "auto", "auto", **how)
    assert seen.diameters == expected.diameters == (estimate_diameter(expected.repaired),)
    dark = see_by_estimate(1 - image[None], "auto", "dark", **how)
    assert dark.notes[0] == INVERTED
    assert dark.diameters == pytest.approx(seen.diameters, rel=0.02)


def test_diameters_are_checked():
    assert check_diameter(12) == (12.0,)
    assert (
        check_diameter([30, 8]) == check_diameter((8, 30)) == check_diameter(np.array([8, 30])) == (8.0, 30.0)
    )
    assert math.isnan(*check_diameter(None))
    for wrong, message in (
        ("large", "diameter='large' is unknown"),
        ([], r"diameter=\[\] holds no number"),
        ([8, -1], "diameter is -1; it must be at least 1"),
        ([8, "x"], "diameter is 'x'"),
        (math.nan, "diameter is nan"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            check_diameter(wrong)


def test_the_scales_are_put_into_words():
    assert said_of_scale([math.nan], 16) == said_of_scale([16], 16) == ""
    assert said_of_scale([32], 16) == "rescaled by 0.5 to the model's diameter of 16.0 px"
    assert said_of_scale([8, 32], 16) == "rescaled by 2 and 0.5 to the model's diameter of 16.0 px"
