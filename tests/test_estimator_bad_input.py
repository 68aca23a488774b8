"""What a user may get wrong: each a clear error before the work, naming what, its value and the remedy."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from sklearn.exceptions import NotFittedError

from cellsegmenter import AbsoluteResolution, CellSegmenter, learning, segmenting
from cellsegmenter.consensus import ResolutionError
from cellsegmenter.io import ImageFileError

NOISE = np.random.default_rng(0).normal(100, 5, (64, 64))


@pytest.fixture
def no_training(monkeypatch):
    """Training fails, so that a test which passes shows that the refusal came first."""
    monkeypatch.setattr(learning, "train", lambda *_, **__: pytest.fail("the training began"))


def with_pixel(value, dtype=float):
    image = NOISE.astype(dtype)
    image[7, 9] = value
    return image


# --- images ----------------------------------------------------------------------------------------------

BAD_IMAGES = {
    "infinity": (
        with_pixel(np.inf),
        ValueError,
        r"X contains infinity: 1 pixels, the first at \(7, 9\); replace them by NaN, which stands for no data",
    ),
    "beyond float32": (
        with_pixel(1e39),
        ValueError,
        "1 pixels, the first at .*divide what float32 cannot hold",
    ),
    "minus infinity": (with_pixel(-np.inf), ValueError, "X contains infinity"),
    "infinity in a list": ([NOISE, with_pixel(np.inf)], ValueError, r"X\[1\] contains infinity"),
    "infinity beside what is masked": (
        np.ma.masked_less(with_pixel(np.inf), 90),
        ValueError,
        r"X contains infinity: 1 pixels, the first at \(7, 9\)",
    ),
    "one row": (np.zeros(64), ValueError, r"X has 1 dimensions, shape \(64,\).*Accepted are"),
    "five dimensions": (np.zeros((1, 1, 1, 9, 9)), ValueError, "5 dimensions"),
    "rgb": (
        np.zeros((64, 64, 3)),
        ValueError,
        "one image with 3 channel.*64 grey images; set channel_axis=-1",
    ),
    "two channels": (np.zeros((64, 64, 2)), ValueError, "one image with 2 channel.*set channel_axis"),
    "batch with channels": (np.zeros((2, 64, 64, 2)), ValueError, "4 dimensions.*set channel_axis"),
    "list of batches": (
        [np.zeros((2, 64, 64))],
        ValueError,
        r"X\[0\] has shape \(2, 64, 64\).*not one image",
    ),
    "no images": (np.zeros((0, 64, 64)), ValueError, "holds no images; give at least one"),
    "empty list": ([], ValueError, "X is an empty list; give at least one image"),
    "no pixels": (np.zeros((0, 64)), ValueError, "no pixels"),
    "objects": (np.array([[1, None]]), TypeError, "X has dtype object; give numbers"),
    "complex": (NOISE.astype(complex), TypeError, "X has dtype complex128; pixels must be real numbers"),
    "text": (np.full((9, 9), "a"), TypeError, "dtype <U1"),
    "a path": ("cells.tif", TypeError, r"X is 'cells.tif', which is a path.*io.read_image\('cells.tif'\)"),
    "paths": ([Path("cells.tif")], TypeError, r"X\[0\] is 'cells.tif', which is a path"),
    "none": (None, TypeError, "X has dtype object"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_are_refused_in_fit_and_in_predict(name, trained, no_training):
    X, error, message = BAD_IMAGES[name]
    with pytest.raises(error, match=message):
        CellSegmenter(**SMALL).fit(X)
    for method in (trained.predict, trained.detect, trained.transform, trained.sample_posterior):
        with pytest.raises(error, match=message):
            method(X)


class Lazy:
    """An array-like that is only looked at slice by slice."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, key):
        return self.array[key]


def test_pixels_of_lazy_arrays_are_checked_when_read(trained):
    with pytest.raises(ValueError, match=r"X\[1\] contains infinity: 1 pixels, the first at \(0, 7, 9\)"):
        trained.predict(Lazy(np.stack([NOISE, with_pixel(np.inf)])))


def without_data(image, kind):
    """A float copy of an image with a hole, as NaN, masked or masked over NaN."""
    hole = np.zeros(image.shape, bool)
    hole[10:25, 30:50] = True
    if kind == "nan":
        return np.where(hole, np.nan, image)
    return np.ma.masked_array(np.where(hole, np.inf if kind == "masked infinity" else 0, image), hole)


@pytest.mark.parametrize("kind", ["nan", "masked", "masked infinity"])
def test_pixels_without_data_are_left_out(trained, scenes, kind):
    holes = without_data(scenes[0][0], kind)
    labels = trained.predict(holes)
    assert labels.max() > 0
    assert not labels[10:25, 30:50].any()
    np.testing.assert_array_equal(labels, trained.predict(without_data(scenes[0][0], "nan")))
    np.testing.assert_array_equal(labels, trained.predict(Lazy(without_data(scenes[0][0], "nan"))))
    assert trained.sample_posterior(holes[:48, :48], n_samples=1).background.shape == (1, 1, 1, 48, 48)
    assert np.isfinite(trained.transform(holes)).all()
    assert all(np.isfinite(column).all() for column in trained.detect(holes).values())


def test_pixels_without_data_do_not_poison_a_fit(scenes):
    images = [without_data(image, "nan") for image in scenes[0][:3]]
    segmenter = CellSegmenter(**SMALL, n_steps=10, batch_size=2).fit(images)
    assert np.isfinite(segmenter.history_["loss"]).all()
    assert all(np.isfinite(value.numpy()).all() for value in segmenter.model_.state_dict().values())


@pytest.mark.parametrize("X", [np.full((64, 64), np.nan), np.ma.masked_all((64, 64))], ids=["nan", "masked"])
def test_an_image_without_any_data_has_no_objects_and_teaches_nothing(X, trained, no_training):
    assert trained.predict(X).max() == 0
    with pytest.raises(ValueError, match="X shows nothing to learn from"):
        CellSegmenter(**SMALL).fit(X)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((3, 64, 64)),
        np.full((64, 64), 7, np.uint8),
        [np.zeros((50, 50)), np.ones((60, 60))],
        np.ones((1, 1)),
    ],
    ids=["black", "one grey", "black and white", "one pixel"],
)
def test_nothing_can_be_learned_from_constant_images(X, no_training):
    with pytest.raises(
        ValueError, match=r"X shows nothing to learn from.*one value.*check that the right channel"
    ):
        CellSegmenter(**SMALL).fit(X)
    with pytest.raises(ValueError, match="X shows nothing to learn from"):
        CellSegmenter(**SMALL, noise_scale=0.1).fit(X)


def test_a_few_constant_images_among_others_are_fine(scenes):
    segmenter = CellSegmenter(**SMALL, n_steps=10, batch_size=2).fit([np.zeros((64, 64)), *scenes[0][:2]])
    assert np.isfinite(segmenter.history_["loss"]).all()
    assert all(np.isfinite(value.numpy()).all() for value in segmenter.model_.state_dict().values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (5, 7), (47, 49)])
def test_images_smaller_than_a_window(trained, shape):
    image = np.random.default_rng(0).random(shape)
    assert trained.predict(image).shape == shape
    assert trained.sample_posterior(image[:48, :48], n_samples=1).background.shape == (1, 1, 1, 48, 48)


def test_extreme_values_neither_crash_nor_poison(trained, scenes):
    for image in (scenes[0][0].astype(float) * 1e35, with_pixel(1e30), np.uint64(NOISE) * np.uint64(10**16)):
        labels = trained.predict(image)
        assert labels.min() >= 0
    segmenter = CellSegmenter(**SMALL, n_steps=10, batch_size=2).fit(with_pixel(1e30))
    assert np.isfinite(segmenter.history_["loss"]).all()


def test_channels_have_to_be_those_of_the_fit(segmenter):
    segmenter.set_params(channel_axis=-1)
    for method in (segmenter.predict, segmenter.detect, segmenter.sample_posterior, segmenter.consensus):
        with pytest.raises(ValueError, match=r"X has 2 channel\(s\) where 1 are needed; choose the channels"):
            method(np.zeros((48, 48, 2)))
    with pytest.raises(ValueError, match=r"X\[1\] has 3 channel\(s\) where 2 are needed"):
        segmenter.fit([np.ones((48, 48, 2)), np.ones((48, 48, 3))])
    with pytest.raises(ValueError, match="channel_axis=7 is not an axis"):
        segmenter.set_params(channel_axis=7).fit(np.zeros((48, 48, 2)))


def test_methods_of_one_image_refuse_several(trained):
    for several in (np.zeros((2, 48, 48)), [NOISE, NOISE]):
        with pytest.raises(ValueError, match=r"one image is needed, not .*; call it for each"):
            trained.consensus(several)
    segmentation = trained.consensus(NOISE).cut()
    with pytest.raises(ValueError, match="one image is needed"):
        trained.table(segmentation, [NOISE])


def test_posterior_samples_need_images_that_fit_into_a_window(trained):
    with pytest.raises(
        ValueError, match="X has 64 × 64 px, more than a window of 48 px; crop it, or use consensus"
    ):
        trained.sample_posterior(NOISE)


def test_annotations_have_to_match(trained, scenes):
    images, labels = scenes
    with pytest.raises(ValueError, match="y has 1 label images for the 2 images of X"):
        trained.score(images[:2], labels[:1])
    with pytest.raises(ValueError, match=r"shape \(64, 30\)"):
        trained.score(images[0], labels[0, :, :30])


# --- parameters ------------------------------------------------------------------------------------------

BAD_PARAMETERS = [
    ({"density": (-1, 2)}, "the minimum of density is -1; it must be at least 0"),
    ({"density": (6, 3)}, r"density=\(6, 3\) is reversed; write density=\(3, 6\)"),
    ({"density": 5}, r"density=5 is not a pair; write density=\(min, max\)"),
    ({"density": (3, "6")}, "the maximum of density is '6'; give a number"),
    ({"density": (3, np.nan)}, "the maximum of density is nan; give a finite number"),
    ({"density": (0, 0)}, "asks for no object at all; give a positive maximum"),
    (
        {"density": (3, 30), "max_objects": 10},
        r"density=\(3, 30\) exceeds max_objects=10.*use max_objects=45",
    ),
    ({"density": (3, 300)}, r"density=\(3, 300\) exceeds the 36 points of the object grid"),
    ({"area": (0.2, 0.1)}, r"area=\(0.2, 0.1\) is reversed"),
    ({"area": (-0.1, 0.1)}, "the minimum of area is -0.1; it must be at least 0"),
    ({"area": (0.2, 20)}, "the maximum of area is 20; it must be at most 1"),
    ({"area": (0, 0)}, "asks for no foreground"),
    (
        {"area": (0, 1e-5)},
        r"area=\(0, 1e-05\) with density=.* speaks of objects 0\.057 px across.*give area as",
    ),
    ({"object_size": (20, 8)}, r"object_size=\(20, 8\) is reversed"),
    ({"object_size": (8, 60)}, "the maximum of object_size is 60; it must be at most 48"),
    ({"object_size": (8, 8)}, "leaves boxes no choice"),
    ({"window_size": 50}, "window_size=50 must be a multiple of 16.*use 48"),
    ({"window_size": 16}, "window_size is 16; it must be at least 32"),
    ({"window_size": 48.5}, "window_size is 48.5; give a whole number"),
    ({"max_objects": 0}, "max_objects is 0; it must be at least 1"),
    ({"latent_dim": 0}, "latent_dim is 0"),
    ({"n_steps": 0}, "n_steps is 0; it must be at least 1"),
    ({"n_steps": 1.5}, "n_steps is 1.5; give a whole number"),
    ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
    ({"learning_rate": 0}, "learning_rate is 0"),
    ({"learning_rate": -1}, "learning_rate is -1"),
    ({"noise_scale": 0}, "noise_scale is 0"),
    ({"overlap_penalty": -1}, "overlap_penalty is -1"),
    ({"overlap_threshold": 1.5}, "overlap_threshold is 1.5; it must be at most 1"),
    ({"overlap_threshold": "none"}, "overlap_threshold='none' is unknown; use one of 'auto'"),
    ({"network": "huge"}, "network='huge' is unknown; use one of 'auto', 'reference', 'small'"),
    ({"appearance": None}, "appearance=None is unknown; use one of 'smooth', 'free'"),
    ({"presence_update": "x"}, "presence_update='x' is unknown"),
    ({"intensity": "x"}, "intensity='x' is unknown"),
    ({"diameter": "large"}, "diameter='large' is unknown"),
    ({"diameter": -3}, "diameter is -3; it must be at least 1"),
    ({"diameter": [16, 0.5]}, "diameter is 0.5; it must be at least 1"),
    ({"diameter": [16, "large"]}, "diameter is 'large'; give a number"),
    ({"diameter": []}, r"diameter=\[\] holds no number; give a diameter in px, or several"),
    ({"polarity": "grey"}, "polarity='grey' is unknown; use one of 'auto', 'bright', 'dark'"),
    ({"device": "abacus"}, "device='abacus' cannot be used here.*use device='auto' or 'cpu'"),
    ({"device": None}, "(?s)device=None cannot be used here"),
    ({"random_state": -1}, "random_state is -1; it must be at least 0"),
    ({"random_state": "x"}, "random_state='x' is no seed; give a whole number"),
    ({"channel_axis": 0}, "X has 2 dimensions.*channel_axis=0; leave channel_axis out for a grey image"),
]

# These are looked at by `fit` too: nobody wants to hear of them after the training.
BAD_PREDICTION = [
    ({"stride": 0}, "stride is 0; it must be at least 1"),
    ({"stride": 7}, "stride=7 does not divide window_size=48.*for example stride=6"),
    ({"stride": 96}, "stride is 96; it must be at most 48"),
    ({"stride": 12.5}, "stride is 12.5; give a whole number"),
    ({"n_samples": 0}, "n_samples is 0; it must be at least 1"),
    ({"n_samples": 2.5}, "n_samples is 2.5; give a whole number"),
    ({"recognition": "both"}, "recognition='both'"),
    (
        {"recognition": "one_pass"},
        'stride=24 is the distance of sliding windows|recognition="one_pass" needs a recognition network',
    ),
    ({"min_size": "a"}, "min_size is 'a'; give a whole number"),
    ({"min_size": -1}, "min_size is -1; it must be at least 0"),
    ({"n_jobs": 0}, "n_jobs is 0; give a number of processes, or -1"),
    ({"resolution": "foo"}, "resolution='foo' must be \"auto\", a positive number"),
    ({"resolution": -3}, "resolution=-3 must be"),
    ({"resolution": 0}, "resolution=0 must be"),
    ({"resolution": np.nan}, "resolution=nan must be"),
    ({"resolution": True}, "resolution=True must be"),
    ({"resolution": None}, "resolution=None must be"),
    ({"resolution": [1, 2]}, r"resolution=\[1, 2\] must be"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS + BAD_PREDICTION, ids=str)
def test_parameters_are_refused_before_the_training(parameters, message, no_training):
    segmenter = CellSegmenter(**SMALL | parameters)
    with pytest.raises((ValueError, TypeError), match=message):
        segmenter.fit(NOISE)
    assert not hasattr(segmenter, "model_")


@pytest.mark.parametrize(("parameters", "message"), BAD_PREDICTION, ids=str)
def test_parameters_are_refused_before_the_inference(parameters, message, segmenter, monkeypatch):
    monkeypatch.setattr(segmenting, "infer_tiles", lambda *_, **__: pytest.fail("the inference began"))
    segmenter.set_params(**parameters)
    for method in (segmenter.predict, segmenter.detect, segmenter.transform, segmenter.consensus):
        with pytest.raises((ValueError, TypeError), match=message):
            method(NOISE)


def test_resolutions_of_a_call_are_refused_too(trained, monkeypatch):
    monkeypatch.setattr(segmenting, "infer_tiles", lambda *_, **__: pytest.fail("the inference began"))
    with pytest.raises(ValueError, match="resolution='sharp' must be"):
        trained.predict(NOISE, resolution="sharp")
    with pytest.raises(ValueError, match=r"AbsoluteResolution\(value=7\) must be above 0 and at most 1"):
        trained.predict(NOISE, resolution=AbsoluteResolution(7))
    with pytest.raises(ValueError, match="n_samples is 0"):
        trained.consensus(NOISE, n_samples=0)
    with pytest.raises(ValueError, match="stride=9 does not divide"):
        trained.consensus(NOISE, stride=9)


@pytest.mark.parametrize(
    ("min_size", "message"), [(-5, "min_size is -5; it must be at least 0"), (2.5, "give a whole number")]
)
def test_the_min_size_of_a_cut_is_checked(trained, scenes, min_size, message):
    consensus = trained.consensus(scenes[0][0], random_state=0)
    with pytest.raises((ValueError, TypeError), match=message):
        consensus.cut(min_size=min_size)


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_a_work_folder_needs_a_seed_before_anything_is_written(segmenter, scenes, tmp_path, random_state):
    folder = tmp_path / "work"
    segmenter.set_params(random_state=random_state)
    with pytest.raises(ValueError, match=r"random_state=(None|RandomState).* work_folder=.*random_state=0"):
        segmenter.consensus(scenes[0][0], work_folder=folder)
    assert not folder.exists()
    segmenter.consensus(scenes[0][0], work_folder=folder, random_state=np.int64(0))
    segmenter.set_params(random_state=0).consensus(scenes[0][0], work_folder=folder)


def test_a_published_resolution_too_large_for_the_image_suggests_another(trained, scenes):
    message = r"resolution=1e\+06 leaves no object.*64 × 64 px.*Use resolution="
    with pytest.raises(ResolutionError, match=message) as error:
        trained.predict(scenes[0][0], resolution=1e6)
    suggestion = error.value.suggestion
    assert trained.predict(scenes[0][0], resolution=AbsoluteResolution(suggestion.absolute)).max() > 0
    assert trained.predict(scenes[0][0], resolution=suggestion.gamma).max() > 0


def test_a_published_resolution_on_an_empty_image_is_no_error(trained):
    assert trained.predict(np.zeros((64, 64)), resolution=500).max() == 0
    assert trained.predict(np.zeros((64, 64)), resolution="auto").max() == 0


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        (np.zeros((2, 5)), r"Z has shape \(2, 5\); give codes of shape \(n, 4\)"),
        (np.zeros(4), "Expected 2D array"),
        (np.full((2, 4), np.nan), "Input Z contains NaN"),
        ([["a"] * 4], "could not convert"),
    ],
)
def test_codes_are_checked(trained, Z, message):
    with pytest.raises(ValueError, match=message):
        trained.inverse_transform(Z)


@pytest.mark.parametrize("n_samples", [0, -1, 2.5])
def test_numbers_of_samples_are_checked(trained, n_samples):
    for method in (trained.sample, lambda n_samples: trained.sample_posterior(NOISE[:48, :48], n_samples)):
        with pytest.raises((ValueError, TypeError), match=f"n_samples is {n_samples}"):
            method(n_samples)


# --- order of calls, and files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.predict(NOISE),
        lambda s: s.transform(NOISE),
        lambda s: s.detect(NOISE),
        lambda s: s.consensus(NOISE),
        lambda s: s.table(None, NOISE),
        lambda s: s.score(NOISE, NOISE),
        lambda s: s.sample_posterior(NOISE),
        lambda s: s.inverse_transform(np.zeros((1, 20))),
        lambda s: s.sample(),
        lambda s: s.save("model.safetensors"),
        lambda s: s.get_feature_names_out(),
    ],
)
def test_everything_needs_a_model_first(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFittedError, match="not fitted yet; call fit"):
        call(CellSegmenter())
    assert not list(tmp_path.iterdir())


UNWRITABLE = r"is a folder; name a file|is a file, not a folder"


def unwritable_paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "a_file").touch()
    return [tmp_path, tmp_path / "a_file" / "model.safetensors"]


def test_a_model_cannot_be_saved_anywhere(trained, tmp_path):
    for path in unwritable_paths(tmp_path):
        with pytest.raises(ImageFileError, match=UNWRITABLE) as error:
            trained.save(path)
        assert str(path) in str(error.value)


def test_checkpoints_are_refused_before_the_training(tmp_path, no_training):
    for path in unwritable_paths(tmp_path):
        with pytest.raises(ImageFileError, match=UNWRITABLE):
            CellSegmenter(**SMALL, checkpoint=path).fit(NOISE)


def test_a_fit_that_fails_leaves_the_model_at_hand(segmenter, scenes):
    before = segmenter.predict(scenes[0][0])
    with pytest.raises(ValueError, match="X contains infinity"):
        segmenter.fit(with_pixel(np.inf))
    np.testing.assert_array_equal(segmenter.predict(scenes[0][0]), before)
