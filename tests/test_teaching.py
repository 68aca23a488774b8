"""The sleep phase of `fit`: what it is taught, what it leaves behind, and what prediction makes of it."""

import copy
import io
import json
import pickle
from contextlib import redirect_stdout
from functools import partial

import numpy as np
import pytest
import torch
from conftest import SLEEPING, SMALL
from reference import DiscFinder, disc_labels, tiny_config
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.special import expit, logit
from sklearn.base import clone

from cellsegmenter import CellSegmenter, fitting, teaching
from cellsegmenter.consensus import AbsoluteResolution, Consensus, ShapeConsensus
from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.inference import InferenceSettings
from cellsegmenter.learning import sleep_checkpoint, teaching_settings, training_settings
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parameters import bounds_of, model_config
from cellsegmenter.recognition.calibration import Calibration
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionConfig
from cellsegmenter.recognition.stars import N_RAYS, Stars, vertices
from cellsegmenter.sleep import phase
from cellsegmenter.sleep.library import IGNORED, TaughtImage
from cellsegmenter.teaching import TeachingSettings, learn_recognition
from cellsegmenter.windows import make_windows

DIAMETER = 16.0
CPU = torch.device("cpu")


# --- a fit that goes on from the model that ships -----------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    nuclei = load_nuclei()[0].astype(np.float32)
    made = make_nuclei(2, size=160, count=(18, 22), brightness=(0.4, 1), touching=0, random_state=0).images
    return [nuclei, *(1000 * image for image in made)]


@pytest.fixture(scope="module")
def fitted(images) -> tuple[CellSegmenter, str]:
    """A model with a recognition network, and what its fit said; not to be changed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(teaching, "_COMPOSITES", 20)
        segmenter = CellSegmenter.pretrained().set_params(
            device="cpu",
            warm_start=True,
            n_steps=1,
            batch_size=2,
            recognition="one_pass",
            recognition_steps=25,
            n_samples=None,
            random_state=0,
            verbose=True,
        )
        segmenter.fit(images)
    segmenter.set_params(verbose=False, recognition="auto", warm_start=False)
    return segmenter, said.getvalue()


@pytest.fixture(scope="module")
def taught(fitted) -> CellSegmenter:
    """The same, trusted far more than after 25 steps, so that it finds something; not to be changed."""
    segmenter = copy.deepcopy(fitted[0])
    segmenter.recognition_.calibration = Calibration(2.5, 1.25, 0.25, 1.3)
    return segmenter


@pytest.fixture(scope="module")
def labels(taught, images) -> np.ndarray:
    return taught.predict(images[0])


@pytest.mark.slow
def test_fit_leaves_a_network_and_says_what_it_learned_from(fitted, images):
    segmenter, said = fitted
    assert "sleep phase: " in said
    network = segmenter.recognition_
    assert not network.training
    assert network.config == RecognitionConfig(1, segmenter.working_diameter_)
    assert network.calibration != Calibration.usual()
    assert network.calibration.stretch >= 1
    np.testing.assert_array_equal(segmenter.recognition_history_["step"], [10, 20, 25])
    loss = segmenter.recognition_history_["loss"]
    assert loss[-1] < loss[0]
    facts = segmenter.card_["recognition"]
    assert facts["images"] == 3
    assert facts["objects_seen"] >= facts["objects_in_library"] >= teaching.LEAST_OBJECTS
    assert facts["composites"] == 20
    assert facts["steps"] == 25
    json.dumps(facts)
    examples = segmenter.recognition_examples_
    assert examples.shape == (6, 2, 128, 128)
    assert examples.dtype == np.uint8
    grey, number = examples[:, 0].astype(float), examples[:, 1]
    assert number.any(axis=(1, 2)).all()
    assert grey[number > 0].mean() > 2 * grey[number == 0].mean()


@pytest.mark.slow
def test_one_pass_is_what_auto_does_where_no_stride_is_given(taught, images, labels):
    consensus = taught.consensus(images[0])
    assert isinstance(consensus.graph, ShapeConsensus)
    assert consensus.n_objects.shape == (32,)
    np.testing.assert_array_equal(consensus.cut().labels, labels)
    assert labels.max() > 10
    np.testing.assert_array_equal(
        copy.copy(taught).set_params(recognition="one_pass").predict(images[0]), labels
    )
    small = images[1][:80, :80]
    for windows in (
        taught.consensus(small, stride=40),
        copy.copy(taught).set_params(stride=40).consensus(small),
        copy.copy(taught).set_params(recognition="windows").consensus(small, stride=40),
    ):
        assert isinstance(windows.graph, Consensus)
        assert windows.n_objects is None
        assert windows.count_interval() is None
    with pytest.raises(
        ValueError, match=r"stride=40 is the distance of sliding windows.*leave one of the two out"
    ):
        copy.copy(taught).set_params(recognition="one_pass").consensus(small, stride=40)
    with pytest.raises(ValueError, match="recognition"):
        copy.copy(taught).set_params(recognition="twice").predict(small)


@pytest.mark.slow
def test_samples_are_counted(taught, images):
    assert taught.consensus(images[0], n_samples=5).n_objects.shape == (5,)
    assert copy.copy(taught).set_params(n_samples=7).consensus(images[0]).n_objects.shape == (7,)
    with pytest.raises(ValueError, match="n_samples"):
        taught.consensus(images[0], n_samples=0)


@pytest.mark.slow
def test_posterior_samples_are_of_whole_images(taught, images):
    one = taught.sample_posterior(images[1], n_samples=3)
    assert one.image_shape == images[1].shape
    assert one.presence.shape[1] == 3
    both = taught.sample_posterior([images[0], images[1]], n_samples=3)
    assert [found.image_shape for found in both] == [image.shape for image in images[:2]]
    np.testing.assert_array_equal(both[1].presence, one.presence)
    assert taught.sample_posterior(images[1], n_samples=None).presence.shape[1] == 1
    with pytest.raises(ValueError, match="n_samples"):
        taught.sample_posterior(images[1], n_samples=0)
    windows = copy.copy(taught).set_params(recognition="windows")
    assert windows.sample_posterior(images[1][:80, :80], n_samples=2).z_what.shape[1] == 2
    with pytest.raises(ValueError, match="more than a window"):
        windows.sample_posterior(images[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
def test_a_kept_model_predicts_the_same(taught, images, labels, tmp_path, how):
    if how == "file":
        taught.save(tmp_path / "model.safetensors")
        again = CellSegmenter.load(tmp_path / "model.safetensors").set_params(device="cpu")
    else:
        again = pickle.loads(pickle.dumps(taught)) if how == "pickle" else copy.deepcopy(taught)
    np.testing.assert_array_equal(again.predict(images[0]), labels)
    assert again.recognition_.calibration == taught.recognition_.calibration
    assert again.recognition_.config == taught.recognition_.config
    for name, value in taught.recognition_.state_dict().items():
        torch.testing.assert_close(again.recognition_.state_dict()[name], value, rtol=0, atol=0)
    assert again.recognition_history_.keys() == taught.recognition_history_.keys()
    for name, values in taught.recognition_history_.items():
        np.testing.assert_allclose(again.recognition_history_[name], values, rtol=1e-4)
    np.testing.assert_array_equal(again.recognition_examples_, taught.recognition_examples_)
    assert again.recognition_examples_.dtype == np.uint8
    assert again.card_ == taught.card_


@pytest.mark.slow
def test_half_the_file_is_nearly_the_model(taught, images, labels, tmp_path):
    taught.save(tmp_path / "whole.safetensors")
    taught.save(tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = CellSegmenter.load(tmp_path / "half.safetensors").set_params(device="cpu")
    assert np.mean((again.predict(images[0]) > 0) == (labels > 0)) > 0.85
    np.testing.assert_array_equal(again.recognition_examples_, taught.recognition_examples_)


@pytest.mark.slow
def test_a_file_of_a_model_before_recognition_slides_windows(taught, images, tmp_path):
    path = tmp_path / "old.safetensors"
    taught.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("recognition")}  # noqa: SIM118
        metadata = file.metadata()
    del metadata["sha256"]  # files had no checksum then
    description = json.loads(metadata["description"])
    for name in ("recognition", "recognition_history_"):
        del description[name]
    for name in ("recognition", "recognition_steps"):
        del description["parameters"][name]
    description["parameters"]["n_samples"] = 1
    save_file(tensors, path, {**metadata, "description": json.dumps(description)})
    old = CellSegmenter.load(path).set_params(device="cpu")
    assert old.recognition_ is None
    assert old.recognition_history_ == {}
    assert old.recognition_examples_.shape == (0, 2, 0, 0)
    crop = images[1][:80, :80]
    windows = copy.copy(taught).set_params(recognition="windows")
    np.testing.assert_array_equal(old.predict(crop), windows.predict(crop))
    with pytest.raises(
        ValueError, match=r'needs a recognition network, and this model has none.*recognition="auto"'
    ):
        old.set_params(recognition="one_pass").predict(crop)


@pytest.mark.slow
def test_a_clone_knows_nothing(taught):
    assert not hasattr(clone(taught), "recognition_")


# --- fits that are killed -----------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture
def fit_apart(apart, sure, monkeypatch):
    """A function that fits with a checkpoint file, or without."""
    monkeypatch.setattr(teaching, "SleepSettings", partial(phase.SleepSettings, checkpoint_interval=10))

    def fit(checkpoint=None) -> CellSegmenter:
        segmenter = CellSegmenter(
            **SLEEPING,
            n_steps=4,
            batch_size=2,
            shape="blob",
            recognition_steps=14,
            checkpoint=checkpoint,
        )
        return segmenter.fit(apart[0])

    return fit


def assert_same_model(one: CellSegmenter, other: CellSegmenter) -> None:
    for name in ("model_", "recognition_"):
        ours, theirs = (getattr(segmenter, name).state_dict() for segmenter in (one, other))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=0, msg=f"{name}{key}")
    assert one.recognition_.calibration == other.recognition_.calibration
    assert one.penalties_ == other.penalties_
    for name in ("history_", "recognition_history_"):
        ours, theirs = (dict(getattr(segmenter, name), seconds=0) for segmenter in (one, other))
        assert ours.keys() == theirs.keys()
        for key, values in ours.items():
            np.testing.assert_array_equal(theirs[key], values, err_msg=f"{name} {key}")
    np.testing.assert_array_equal(one.recognition_examples_, other.recognition_examples_)
    cards = [
        {name: value for name, value in segmenter.card_.items() if name != "seconds"}
        for segmenter in (one, other)
    ]
    assert cards[0] == cards[1]


def test_a_fit_that_is_killed_goes_on_to_the_same_model(fit_apart, tmp_path, monkeypatch):
    expected = fit_apart()
    assert expected.recognition_.calibration.stretch >= 1
    checkpoint = tmp_path / "run.pt"
    # First between the training and the sleep phase, then in the sleep phase.
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "learn_recognition", raises_killed)
        with pytest.raises(Killed):
            fit_apart(checkpoint)
    assert checkpoint.exists()
    assert not sleep_checkpoint(checkpoint).exists()
    steps = []
    of_step = phase.sleep_step

    def until_killed(run, crops, device):
        if run.step == 12:
            raise Killed
        return of_step(run, crops, device)

    with monkeypatch.context() as patch:
        patch.setattr(phase, "sleep_step", until_killed)
        # What was trained is not trained again.
        patch.setattr("cellsegmenter.training.loop.training_step", raises_killed)
        with pytest.raises(Killed):
            fit_apart(checkpoint)
    assert sleep_checkpoint(checkpoint).exists()
    monkeypatch.setattr(phase, "sleep_step", lambda run, *rest: steps.append(run.step) or of_step(run, *rest))
    assert_same_model(fit_apart(checkpoint), expected)
    assert steps == list(range(10, 14))
    # All is done: nothing is learned again.
    steps.clear()
    assert_same_model(fit_apart(checkpoint), expected)
    assert not steps


def raises_killed(*_, **__):
    raise Killed


# --- fits without much to learn from ------------------------------------------------------------------------------


def test_too_little_to_learn_from_is_said(scenes, capsys):
    crops = scenes[0][:2]
    segmenter = CellSegmenter(**SLEEPING, n_steps=1, batch_size=2, shape="blob", verbose=True)
    segmenter.fit(crops)
    assert segmenter.recognition_ is None
    assert (
        "a recognition network needs 30; more steps or images may help; prediction slides windows"
        in capsys.readouterr().out
    )
    assert segmenter.card_["recognition"]["objects_in_library"] < 30
    assert segmenter.recognition_history_ == {}
    consensus = segmenter.set_params(verbose=False).consensus(crops[0])
    assert isinstance(consensus.graph, Consensus)
    with pytest.raises(ValueError, match="has none"):
        segmenter.set_params(recognition="one_pass").consensus(crops[0])


def test_who_asks_for_one_pass_is_warned(scenes):
    segmenter = CellSegmenter(**SLEEPING | {"recognition": "one_pass"}, n_steps=1, batch_size=2, shape="free")
    with pytest.warns(UserWarning, match='more steps or images may help; set recognition="auto"'):
        segmenter.fit(scenes[0][:2])
    assert segmenter.recognition_ is None


@pytest.mark.parametrize(
    ("recognition", "shape", "sleeps"),
    [
        ("auto", "blob", True),
        ("auto", "free", False),
        ("one_pass", "free", True),
        ("windows", "blob", False),
    ],
)
def test_when_a_fit_has_a_sleep_phase(scenes, monkeypatch, recognition, shape, sleeps):
    calls = []
    nothing = teaching.Recognised(
        None, {}, {"objects_in_library": 0, "objects_seen": 0}, np.zeros((0, 2, 0, 0), np.uint8)
    )
    monkeypatch.setattr(fitting, "learn_recognition", lambda *args: calls.append(args) or nothing)
    monkeypatch.setattr(fitting, "_tell", lambda *_: None)
    segmenter = CellSegmenter(**SLEEPING | {"recognition": recognition}, n_steps=1, batch_size=2, shape=shape)
    segmenter.fit(scenes[0][:2])
    assert bool(calls) == sleeps
    if sleeps:
        model, prepared, settings = calls[0]
        assert model.generative is segmenter.model_
        assert not model.generative.training
        assert len(prepared) == 2
        assert settings.n_steps == 1


def test_bad_parameters_are_refused_before_the_training(scenes):
    for changes, message in (
        ({"recognition": "both"}, "recognition"),
        ({"recognition_steps": 0}, "recognition_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            CellSegmenter(**SLEEPING | changes).fit(scenes[0][:1])


@pytest.mark.parametrize(
    ("given", "n_steps", "expected"), [(None, 3000, 1400), (None, 200, 200), (77, 200, 77)]
)
def test_settings_follow_the_training(tmp_path, given, n_steps, expected):
    segmenter = CellSegmenter(
        **SMALL,
        n_steps=n_steps,
        recognition_steps=given,
        n_samples=9,
        checkpoint=tmp_path / "run.pt",
    )
    bounds = bounds_of(segmenter)
    wake = training_settings(segmenter, bounds, "small", [], shape="blob", from_scratch=True, seed=5)
    config = model_config(segmenter, bounds, "small", shape="blob", n_channels=1)
    settings = teaching_settings(segmenter, bounds, wake, config)
    assert settings.n_steps == expected
    assert settings.seed == settings.windows.seed == 5
    assert settings.checkpoint == tmp_path / "run-sleep.pt" == sleep_checkpoint(tmp_path / "run.pt")
    # The published way, whatever the user predicts with.
    assert (settings.windows.stride, settings.windows.n_samples) == (12, 1)


# --- a wake model that is always right ----------------------------------------------------------------------------


def scene(seed: int, shape=(96, 110), n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    discs: list[np.ndarray] = []
    while len(discs) < n:
        disc = np.array([*rng.uniform(12, np.array(shape) - 12), DIAMETER / 2])
        if all(np.hypot(*(disc - other)[:2]) > 1.5 * DIAMETER for other in discs):
            discs.append(disc)
    labels = disc_labels(shape, np.array(discs))
    pixels = 0.6 * (labels > 0) + 0.02 * rng.standard_normal(shape)
    return pixels.astype(np.float32)[None], labels.astype(np.int32)


@pytest.fixture
def wake(monkeypatch):
    """A model and its settings; `known` maps the first pixel of each image to its labels."""
    known: dict[float, np.ndarray] = {}
    squares: list[tuple[int, ...]] = []

    def teach(model, pixels, settings, min_size):
        labels = known[float(pixels[0, 0, 0])]
        squares.append(pixels.shape)
        return TaughtImage(pixels, labels, np.full(labels.max(), 0.95), (labels > 0).astype(np.float32))

    monkeypatch.setattr(teaching, "_teach", teach)
    monkeypatch.setattr(teaching, "_COMPOSITES", 3)
    monkeypatch.setattr(teaching, "new_network", small_network)
    torch.manual_seed(0)
    generative = StructuredVAE(tiny_config()).eval()
    windows = InferenceSettings(
        stride=16, n_samples=1, max_objects=4, overlap_threshold=0.3, intensity="linear"
    )
    model = FittedModel(generative, None, DIAMETER, "linear", CPU)
    return model, TeachingSettings(windows, n_steps=2, seed=0), known, squares


def small_network(model, seed):
    torch.manual_seed(seed)
    return teaching.RecognitionNetwork(RecognitionConfig(1, DIAMETER, width=4))


def taught_scenes(known, n: int, **how) -> list[np.ndarray]:
    images = []
    for seed in range(n):
        pixels, labels = scene(seed, **how)
        known[float(pixels[0, 0, 0])] = labels
        images.append(pixels)
    return images


def test_what_is_learned_from_is_counted(wake):
    model, settings, known, _ = wake
    recognised = learn_recognition(model, taught_scenes(known, 5), settings)
    facts = recognised.facts
    assert facts["images"] == facts["backdrops"] == 5
    assert facts["objects_seen"] == facts["objects_in_library"] == 45
    assert facts["images_held_back"] == 0  # too few to spare one
    assert facts["share_ignored"] < 0.05
    assert recognised.examples.shape == (3, 2, 128, 128)
    np.testing.assert_array_equal(recognised.history["step"], [2])
    assert not recognised.network.training


def test_some_of_many_images_are_held_back(wake, monkeypatch):
    model, settings, known, _ = wake
    learned, judged = [], []
    monkeypatch.setattr(
        teaching, "sleep", lambda network, sources, *_, **__: learned.extend(sources) or [{"step": 2}]
    )
    monkeypatch.setattr(teaching, "_judged", lambda found, image: judged.append(image.pixels) or None)
    monkeypatch.setattr(teaching, "fit_calibration", lambda images: Calibration.usual())
    counted = []
    monkeypatch.setattr(
        teaching,
        "fit_stretch",
        lambda counts, expected, level: counted.append((counts, expected, level)) or 1.7,
    )
    images = taught_scenes(known, 17)
    recognised = learn_recognition(model, images, settings)
    facts = recognised.facts
    assert facts["images_held_back"] == 3
    composites, real = learned
    assert len(composites.images) == 3
    assert len(real.images) == 14
    # Calibration looks at what the network has not seen.
    assert len(judged) == 3
    seen = {float(pixels[0, 0, 0]) for pixels, _ in real.images}
    held_back = {float(pixels[0, 0, 0]) for pixels in judged}
    assert not seen & held_back
    assert len(seen | held_back) == 17
    # So does the count, of the objects that the teacher sees.
    ((counts, expected, level),) = counted
    assert expected == [9, 9, 9]
    assert [of_image.shape for of_image in counts] == [(64,)] * 3
    assert level == 0.9
    assert recognised.network.calibration == Calibration.usual()._replace(stretch=1.7)


def test_few_images_are_learned_from_and_calibrated_by(wake, monkeypatch):
    model, settings, known, _ = wake
    learned, judged = [], []
    monkeypatch.setattr(
        teaching, "sleep", lambda network, sources, *_, **__: learned.extend(sources) or [{"step": 2}]
    )
    monkeypatch.setattr(teaching, "_judged", lambda found, image: judged.append(image.pixels) or None)
    monkeypatch.setattr(teaching, "fit_calibration", lambda images: Calibration.usual())
    images = taught_scenes(known, 5)
    assert learn_recognition(model, images, settings).facts["images_held_back"] == 0
    assert len(learned[1].images) == 5
    firsts = sorted(float(pixels[0, 0, 0]) for pixels in images)
    assert sorted(float(pixels[0, 0, 0]) for pixels in judged) == firsts


def test_a_seed_decides_what_is_learned(wake):
    model, settings, known, _ = wake
    images = taught_scenes(known, 4)
    first, again = (learn_recognition(model, images, settings) for _ in range(2))
    for name, value in first.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value, rtol=0, atol=0)
    assert first.network.calibration == again.network.calibration
    np.testing.assert_array_equal(first.examples, again.examples)


def test_too_few_objects_teach_nothing(wake):
    model, settings, known, _ = wake
    recognised = learn_recognition(model, taught_scenes(known, 3), settings)
    assert recognised.network is None
    assert recognised.history == {}
    assert recognised.facts == {"images": 3, "objects_seen": 27, "objects_in_library": 27}
    assert recognised.examples.shape == (0, 2, 128, 128)


def test_large_images_are_taught_in_squares(wake, monkeypatch):
    model, settings, known, squares = wake
    monkeypatch.setattr(teaching, "_SIDE", 64)
    image = np.zeros((1, 100, 140), np.float32)
    corners = [(row, column) for row in (0, 64) for column in (0, 64, 128)]
    for number, (row, column) in enumerate(corners):
        image[0, row, column] = number + 1
        known[float(number + 1)] = np.zeros((1, 1), np.int32)
    list(teaching.taught_images(model, [image], settings, np.random.default_rng(0)))
    assert sorted(squares) == sorted(
        (1, min(64, 100 - row), min(64, 140 - column)) for row, column in corners
    )


@pytest.mark.parametrize(("n_objects", "expected"), [(0, 3), (1, 5)])
def test_a_search_ends_where_there_is_nothing_or_enough(wake, monkeypatch, n_objects, expected):
    model, settings, known, squares = wake
    per_image = len(make_windows((10, 10), model.generative.config.window_size, settings.windows.stride))
    monkeypatch.setattr(teaching, "_FIRST_LOOK", 2.5 * per_image)
    monkeypatch.setattr(teaching, "_MOST_WINDOWS", 4.5 * per_image)
    labels = np.zeros((10, 10), np.int32)
    labels[2:5, 2:5] = n_objects
    known[0.0] = labels
    images = [np.zeros((1, 10, 10), np.float32)] * 9
    list(teaching.taught_images(model, images, settings, np.random.default_rng(0)))
    assert len(squares) == expected


# --- the truth that calibration is fitted to ----------------------------------------------------------------------


def outline(row: float, column: float, radius: float) -> np.ndarray:
    star = Stars(np.array([[row, column]], np.float32), np.full((1, N_RAYS), radius, np.float32))
    return vertices(star)[0]


def two_discs() -> np.ndarray:
    return disc_labels((80, 80), np.array([[30.0, 30.0, 8.0], [30.0, 46.0, 8.0]])).astype(np.int32)


def test_opinions_of_the_teacher():
    labels = two_discs()
    foreground = 0.9 * (labels > 0)
    foreground[50:, :40], foreground[50:, 40:] = 0.75, 0.25
    taught = TaughtImage(np.zeros((1, 80, 80), np.float32), labels, np.array([0.8, 0.6]), foreground)

    def opinion(*place: float) -> float | None:
        return teaching._opinion(taught, outline(*place))

    def twice_as_sure(belief: float) -> float:
        return float(expit(2 * logit(belief)))

    assert opinion(30, 30, 8) == pytest.approx(twice_as_sure(0.8))
    assert opinion(31, 31, 7) == pytest.approx(twice_as_sure(0.8))
    assert opinion(30, 46, 8) == pytest.approx(twice_as_sure(0.6))
    assert opinion(10, 10, 8) == 0
    assert opinion(66, 60, 8) == pytest.approx(twice_as_sure(0.25))
    # Foreground, but other objects, or none.
    for place in ((30, 38, 8), (30, 30, 4), (66, 15, 8)):
        assert opinion(*place) is None


def test_candidates_are_judged_by_the_teacher():
    pixels, labels = scene(0)
    torch.manual_seed(0)
    network = DiscFinder(RecognitionConfig(1, DIAMETER)).eval()
    model = FittedModel(StructuredVAE(tiny_config()).eval(), network, DIAMETER, "linear", CPU)

    def judged(labels: np.ndarray, foreground: np.ndarray):
        confidence = np.full(labels.max(), 0.9)
        image = TaughtImage(pixels, labels, confidence, foreground)
        return teaching._judged(teaching._candidates_of(model, image), image)

    right = judged(labels, 0.9 * (labels > 0))
    assert len(right.right) == len(right.evidence.score) == 9
    np.testing.assert_allclose(right.right, 0.81 / 0.82)
    without_last = np.where(labels == 9, 0, labels)
    wrong = judged(without_last, 0.9 * (without_last > 0))
    assert len(wrong.right) == 9
    assert np.count_nonzero(wrong.right < 0.1) == 1
    unknown = judged(without_last, 0.9 * (labels > 0))
    assert len(unknown.right) == len(unknown.evidence.witness) == 8


def test_examples_hold_the_numbers_of_their_objects():
    pixels, labels = scene(1, shape=(140, 60), n=4)
    labels[labels == 2] = IGNORED
    labels[labels == 3] = 300
    composite = teaching.Composite(np.concatenate([pixels / 2, pixels]), labels)
    (grey, number), *_ = teaching._examples([composite])
    assert not number[:, 60:].any()
    shown = labels[:128]
    assert set(np.unique(number)) == {0, 1, 1 + 299 % 255, 4}
    np.testing.assert_array_equal(number[:, :60] > 0, shown > 0)
    np.testing.assert_allclose(grey[:, :60] / 255, np.clip(pixels[0, :128], 0, 1), atol=1 / 255)


def test_the_resolution_of_teaching_is_absolute():
    assert isinstance(teaching._RESOLUTION, AbsoluteResolution)


def test_the_interval_counts_what_the_cut_keeps():
    image, _ = load_nuclei()
    consensus = CellSegmenter.pretrained().consensus(image, random_state=0)
    all_of_them, large = consensus.cut(), consensus.cut(min_size=300)
    assert large.count_interval[1] < all_of_them.count_interval[0]
    assert large.count_interval == consensus.count_interval(min_size=300)
    assert large.count_interval[0] <= len(large) <= large.count_interval[1]


def test_the_interval_holds_what_was_found():
    image, _ = load_nuclei()
    consensus = CellSegmenter.pretrained().consensus(image, random_state=0)
    for absolute in (0.2, 0.9, 0.99):
        found = consensus.cut(AbsoluteResolution(absolute))
        assert found.count_interval[0] <= len(found) <= found.count_interval[1]
    with pytest.raises(ValueError, match="level"):
        consensus.count_interval(95)
