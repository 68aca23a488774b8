"""The estimator: what fits, predicts, transforms, samples, saves; images of every shape go in."""

import functools
import json
import pickle
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL
from joblib import parallel_config
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import AbsoluteResolution, CellSegmenter, fitting, learning, serialization
from cellsegmenter import inference as inference_module
from cellsegmenter import parameters as parameters_module
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.learning import Learned
from cellsegmenter.metrics import average_precision
from cellsegmenter.model import structured_vae as structured_vae_module
from cellsegmenter.model.boxes import intersection_over_minimum
from cellsegmenter.preparation import prepare_image
from cellsegmenter.region import Region
from cellsegmenter.serialization import ModelFileError
from cellsegmenter.training import loop as loop_module
from cellsegmenter.training.checkpoint import CheckpointError
from cellsegmenter.training.constraints import PENALTY_RANGE
from cellsegmenter.training.loop import TrainingSettings
from cellsegmenter.training.watch import CollapseWatch
from cellsegmenter.types import Boxes
from cellsegmenter.windows import WindowGrid, make_windows

BRIEF = SMALL | {"n_steps": 5, "batch_size": 2, "resolution": AbsoluteResolution(0.3)}


class Lazy:
    """An array-like that remembers how many pixels were read at once, and in all."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = self.n_read = 0

    def __getitem__(self, key):
        part = self.array[key]
        self.n_read += part.size
        self.largest = max(self.largest, part.size)
        return part


def weights_of(segmenter):
    return segmenter.model_.state_dict()


def assert_same_weights(one, other):
    assert weights_of(one).keys() == weights_of(other).keys()
    for name, value in weights_of(one).items():
        assert torch.equal(value, weights_of(other)[name]), name


def assert_consecutive(labels):
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))


# --- parameters ------------------------------------------------------------------------------------------


def test_init_stores_its_arguments_and_does_nothing_else():
    nonsense = {name: object() for name in CellSegmenter().get_params()}
    segmenter = CellSegmenter(**nonsense)
    assert vars(segmenter) == nonsense
    assert segmenter.get_params() == nonsense


def test_fit_leaves_the_parameters_and_the_images_alone(scenes):
    density, images = [3, 6], scenes[0].copy()
    segmenter = CellSegmenter(**BRIEF | {"density": density, "random_state": None})
    before = segmenter.get_params()
    segmenter.fit(images)
    assert segmenter.get_params() == before
    assert segmenter.density is density
    assert density == [3, 6]
    np.testing.assert_array_equal(images, scenes[0])


def test_clone_has_the_parameters_and_no_model(trained):
    copied = clone(trained)
    assert copied.get_params() == trained.get_params()
    assert not hasattr(copied, "model_")
    assert copied.set_params(density=(1, 2), stride=None).get_params()["density"] == (1, 2)


def test_fit_returns_itself_and_leaves_global_generators_alone(scenes):
    np.random.seed(5)  # noqa: NPY002 - the global generator is what this test is about
    torch.manual_seed(5)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    segmenter = CellSegmenter(**BRIEF)
    assert segmenter.fit(scenes[0]) is segmenter
    segmenter.predict(scenes[0][0])
    segmenter.sample(1)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


# --- what fit leaves -------------------------------------------------------------------------------------


def test_a_model_without_labels_finds_the_nuclei(trained, scenes):
    images, labels = scenes[0][:5], scenes[1][:5]
    assert trained.score(images, labels) > 0.3
    expected = np.mean(
        [average_precision(t, p) for t, p in zip(labels, trained.predict(images), strict=True)]
    )
    assert trained.score(images, labels) == pytest.approx(expected)


def test_fitted_attributes(trained):
    assert trained.n_channels_in_ == 1
    assert trained.noise_scale_ > 0
    assert trained.working_diameter_ == pytest.approx(np.sqrt(4 / np.pi * 0.2 * 48**2 / 4.5))
    assert set(trained.penalties_) == {"reconstruction", "density", "area"}
    low, high = PENALTY_RANGE
    assert all(low * 0.999 <= value <= high * 1.001 for value in trained.penalties_.values())
    assert trained.card_["trained_on"] == "12 grey images of 64 × 64 px, float32"
    json.dumps(trained.card_)


def test_history(trained):
    history = trained.history_
    assert {"step", "loss", "reconstruction", "objects", "area", "penalty_density"} <= set(history)
    assert {len(values) for values in history.values()} == {24}
    np.testing.assert_allclose(history["step"], 10.0 * np.arange(1, 25))
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["reconstruction"][-1] < history["reconstruction"][0] / 2
    assert (np.diff(history["seconds"]) > 0).all()
    low, high = PENALTY_RANGE
    for name in trained.penalties_:
        assert history[f"penalty_{name}"].min() >= low * 0.999
        assert history[f"penalty_{name}"].max() <= high * 1.001


# --- the same again --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_model_and_predictions(scenes):
    images = scenes[0]
    one, two = (CellSegmenter(**BRIEF).fit(images) for _ in range(2))
    assert_same_weights(one, two)
    np.testing.assert_array_equal(one.predict(images[:2]), two.predict(images[:2]))
    other = CellSegmenter(**BRIEF | {"random_state": 1}).fit(images)
    assert any(not torch.equal(v, weights_of(other)[name]) for name, v in weights_of(one).items())


def test_random_state_may_be_a_generator_or_none(scenes, segmenter):
    one, two = (CellSegmenter(**BRIEF | {"random_state": np.random.RandomState(3)}) for _ in range(2))
    assert_same_weights(one.fit(scenes[0]), two.fit(scenes[0]))
    samples = [segmenter.set_params(random_state=None).sample(1).images for _ in range(2)]
    assert not np.array_equal(*samples)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7])
def test_no_two_objects_share_more_of_their_boxes_than_the_user_allows(scenes, segmenter, threshold):
    window = scenes[0][0, :48, :48]
    found = segmenter.set_params(overlap_threshold=threshold).sample_posterior(window, n_samples=20)
    largest = 0.0
    for present, boxes in zip(found.presence[0], found.boxes[0], strict=True):
        on = Boxes(*torch.from_numpy(boxes[present]).T)
        overlap = intersection_over_minimum(on, on).fill_diagonal_(0)
        largest = max(largest, float(overlap.max()) if len(overlap) else 0.0)
    assert largest <= threshold + 1e-6
    if threshold == 0.7:
        assert largest > 0.2  # the smaller thresholds do something


def instances_of(segmenter, image, **changes):
    settings = segmenter._window_settings(0)
    settings = type(settings)(**vars(settings) | changes)
    prepared = prepare_image(segmenter._one_image(image)[0], diameter=segmenter.working_diameter_)
    grid = make_windows(prepared.shape[-2:], segmenter.model_.config.window_size, settings.stride)
    frame = Region(0, 0, *grid.image_shape)
    found = inference_module._infer(
        segmenter.model_, grid.read(prepared), settings, torch.device("cpu"), frame
    )
    corner = found.window_origin[found.window]
    order = np.lexsort((*found.boxes[:, :2].T, found.sample, *corner.T))
    return (
        found.presence_prob[order],
        found.boxes[order],
        found.membership[:, order].toarray(),
        found.z_what[order],
    )


@pytest.mark.parametrize("batch", [(1, 1), (2, 3)])
def test_random_numbers_belong_to_the_windows_place(trained, scenes, batch, monkeypatch):
    # In bfloat16 the rounding depends on the size of a batch, and now and then that tips a coin.
    monkeypatch.setattr(structured_vae_module, "autocast_for", lambda _: nullcontext())
    expected = instances_of(trained, scenes[0][0])
    monkeypatch.setattr("cellsegmenter.windows._BATCH_ROWS", batch[0])
    monkeypatch.setattr("cellsegmenter.windows._BATCH_COLUMNS", batch[1])
    for one, two in zip(expected, instances_of(trained, scenes[0][0]), strict=True):
        np.testing.assert_allclose(one.astype(float), two, atol=1 if one.dtype == np.uint8 else 1e-3)


def test_labels_do_not_depend_on_the_order_of_the_windows(trained, scenes, monkeypatch):
    expected = trained.predict(scenes[0][:3])

    def shuffled(image_shape, window_size, stride):
        grid = make_windows(image_shape, window_size, stride)
        order = np.random.default_rng(0).permutation(len(grid))
        return WindowGrid(grid.image_shape, grid.window_size, grid.stride, grid.origin[order])

    monkeypatch.setattr(inference_module, "make_windows", shuffled)
    np.testing.assert_array_equal(trained.predict(scenes[0][:3]), expected)


def test_an_image_is_labelled_the_same_alone_and_among_others(trained, scenes):
    images = scenes[0][:3]
    together = trained.predict(images)
    for image, labels in zip(images, together, strict=True):
        np.testing.assert_array_equal(trained.predict(image), labels)
    np.testing.assert_array_equal(trained.predict(images[::-1]), together[::-1])


# --- going on --------------------------------------------------------------------------------------------


def test_warm_start_goes_on_from_the_model_at_hand(trained, segmenter, scenes):
    segmenter.set_params(warm_start=True, n_steps=10, learning_rate=1e-6, density=(2, 8))
    model = segmenter.model_
    segmenter.fit(scenes[0])
    assert segmenter.model_ is not model  # a fit that fails half-way leaves the model at hand as it was
    for name, value in trained.model_.named_parameters():
        torch.testing.assert_close(weights_of(segmenter)[name], value, atol=1e-2, rtol=1e-2)
    assert segmenter.score(scenes[0][:4], scenes[1][:4]) > 0.3


def test_going_on_needs_no_warm_up_and_harms_nothing(trained, segmenter, scenes):
    """With the first steps of a training from scratch a model that is trained would find nothing for a while."""
    before = trained.score(scenes[0][:4], scenes[1][:4])
    segmenter.set_params(warm_start=True, n_steps=20, random_state=3).fit(scenes[0])
    assert segmenter.history_["warmup"].max() == 0
    assert segmenter.history_["learning_rate"].max() <= 0.2 * 5e-3
    assert segmenter.score(scenes[0][:4], scenes[1][:4]) > before - 0.2
    assert "went on from a model" in segmenter.card_["trained_on"]


def test_going_on_keeps_the_network_of_the_model_whatever_the_device(segmenter, scenes, monkeypatch):
    """A model from a CPU goes on where "auto" would take another network."""
    monkeypatch.setattr(parameters_module, "resolve_device", lambda device: torch.device("cuda"))
    segmenter.set_params(warm_start=True, network="auto", n_steps=None, batch_size=None)
    asked = []

    def only_asked(model, objective, images, settings, *rest):
        asked.append(settings)
        return Learned({}, {})

    monkeypatch.setattr(fitting, "learn", only_asked)
    segmenter.fit(scenes[0])
    assert (asked[0].n_steps, asked[0].batch_size) == (3000, 16)  # of "small"
    with pytest.raises(ValueError, match="another unet_channels"):
        segmenter.set_params(network="reference").fit(scenes[0])


def test_a_loaded_model_is_not_gone_on_from_unasked(segmenter, tmp_path, monkeypatch):
    segmenter.set_params(warm_start=True).save(tmp_path / "model.safetensors")
    assert CellSegmenter.load(tmp_path / "model.safetensors").warm_start is False
    monkeypatch.setattr(serialization, "_NOT_SAVED", ())  # as files of an earlier version
    segmenter.save(tmp_path / "old.safetensors")
    monkeypatch.undo()
    assert CellSegmenter.load(tmp_path / "old.safetensors").warm_start is False


def test_warm_start_refuses_another_architecture(segmenter, scenes):
    segmenter.set_params(warm_start=True, n_steps=1, latent_dim=5)
    with pytest.raises(
        ValueError, match=r"warm_start=True cannot go on.*another latent_dim;.*warm_start=False"
    ):
        segmenter.fit(scenes[0])
    assert segmenter.set_params(warm_start=False).fit(scenes[0]).model_.config.latent_dim == 5


def test_fit_without_warm_start_starts_anew(scenes):
    segmenter = CellSegmenter(**BRIEF).fit(scenes[0])
    first = {name: value.clone() for name, value in weights_of(segmenter).items()}
    segmenter.fit(scenes[0])
    assert all(torch.equal(value, first[name]) for name, value in weights_of(segmenter).items())


def test_predictions_follow_the_model_and_not_later_parameters(trained, segmenter, scenes):
    segmenter.set_params(window_size=64, latent_dim=9, object_size=(6, 30), area=(0.3, 0.4))
    np.testing.assert_array_equal(segmenter.predict(scenes[0][0]), trained.predict(scenes[0][0]))
    assert segmenter.transform(scenes[0][0]).shape[1] == 4
    assert segmenter.sample_posterior(scenes[0][0, :48, :48], n_samples=1).z_what.shape[-1] == 4


@pytest.fixture
def frequent(monkeypatch):
    """Checkpoints every ten steps."""
    monkeypatch.setattr(
        learning, "TrainingSettings", functools.partial(TrainingSettings, checkpoint_interval=10)
    )


def interrupt(monkeypatch, step):
    """The training is killed in this step; undone with the context."""

    def killed(run, image, original=loop_module.training_step):
        if run.step == step:
            raise KeyboardInterrupt
        return original(run, image)

    monkeypatch.setattr(loop_module, "training_step", killed)


def test_an_interrupted_fit_goes_on_where_its_checkpoint_is(scenes, tmp_path, monkeypatch, frequent):
    settings = BRIEF | {"n_steps": 30}
    whole = CellSegmenter(**settings).fit(scenes[0])
    checkpoint = tmp_path / "folder" / "run.ckpt"
    segmenter = CellSegmenter(**settings, checkpoint=str(checkpoint))
    with monkeypatch.context() as context:
        interrupt(context, 17)
        with pytest.raises(KeyboardInterrupt):
            segmenter.fit(scenes[0])
    assert not hasattr(segmenter, "model_")
    segmenter.fit(scenes[0])
    assert_same_weights(segmenter, whole)
    assert segmenter.penalties_ == whole.penalties_
    for name, values in whole.history_.items():
        if name != "seconds":
            np.testing.assert_array_equal(segmenter.history_[name], values)
    assert (np.diff(segmenter.history_["seconds"]) > 0).all()
    assert not list(checkpoint.parent.glob("*.part*"))


def test_a_checkpoint_of_other_bounds_or_settings_is_refused(scenes, tmp_path, frequent):
    settings = BRIEF | {"n_steps": 10, "checkpoint": tmp_path / "run.ckpt"}
    CellSegmenter(**settings).fit(scenes[0])
    for changed, named in (
        ({"density": (2, 7)}, "density"),  # the same mean, and so the same model
        ({"area": (0.1, 0.3)}, "area"),
        ({"object_size": (8, 24)}, "object_size"),
        ({"batch_size": 3}, "batch_size"),
        ({"n_steps": 20}, "n_steps"),
        ({"presence_update": "straight_through"}, "presence_update"),
        ({"noise_scale": 0.2}, "noise_scale"),
        ({"intensity": "linear"}, "intensity"),
    ):
        with pytest.raises(
            CheckpointError,
            match=rf"run\.ckpt' belongs to a run that differs in (bounds of )?{named}; delete it",
        ):
            CellSegmenter(**settings | changed).fit(scenes[0])
    # A seed is none of them: the checkpoint has the state of the generators.
    CellSegmenter(**settings | {"random_state": None}).fit(scenes[0])


def test_a_checkpoint_of_other_images_is_refused(scenes, tmp_path):
    images, checkpoint = scenes[0], tmp_path / "run.ckpt"
    settings = BRIEF | {"checkpoint": checkpoint}
    CellSegmenter(**settings).fit(images[:4])
    for others in (images[4:8], images[:3], images[3::-1], 1.01 * images[:4], images[:4, :60]):
        with pytest.raises(CheckpointError, match=r"differs in images; delete it.*another name"):
            CellSegmenter(**settings).fit(others)
    CellSegmenter(**settings).fit([image for image in images[:4]])  # the same ones, given in another way


def test_a_run_goes_on_with_the_noise_scale_that_it_began_with(scenes, tmp_path, monkeypatch, frequent):
    """Without a seed another one would be estimated from other crops."""
    settings = BRIEF | {"n_steps": 20, "random_state": None, "checkpoint": tmp_path / "run.ckpt"}
    scales = iter([0.05, 0.06, 0.07])
    monkeypatch.setattr(fitting, "noise_scale_of", lambda *arguments: next(scales))
    used = []

    def watched(run, image, original=loop_module.training_step):
        used.append(run.objective.settings.noise_scale)
        if len(used) == 15:
            raise KeyboardInterrupt
        return original(run, image)

    monkeypatch.setattr(loop_module, "training_step", watched)
    with pytest.raises(KeyboardInterrupt):
        CellSegmenter(**settings).fit(scenes[0])
    resumed = CellSegmenter(**settings).fit(scenes[0])
    finished = CellSegmenter(**settings).fit(scenes[0])
    assert set(used) == {0.05}
    assert resumed.noise_scale_ == finished.noise_scale_ == 0.05


def test_a_collapsed_training_says_so_and_recovers(scenes, monkeypatch):
    def collapsed(config, seed):
        model = build(config, seed)
        model.proposal_head.out.bias.data[0] = -50.0
        return model

    build = learning.new_model
    monkeypatch.setattr(fitting, "new_model", collapsed)
    monkeypatch.setattr(loop_module, "CollapseWatch", functools.partial(CollapseWatch, patience=10))
    # The warm-up would hide that the network itself finds nothing.
    monkeypatch.setattr(loop_module, "warmup_weight", lambda step, n_steps: 0.0)
    segmenter = CellSegmenter(**BRIEF | {"n_steps": 30})
    with pytest.warns(
        loop_module.CollapseWarning, match="no object anywhere.*check that density, area"
    ) as caught:
        segmenter.fit(scenes[0])
    assert len(caught) == 1
    objects = segmenter.history_["objects"]
    assert objects[0] == 0
    assert objects[-1] > 1


# --- files -----------------------------------------------------------------------------------------------


def test_pickling_gives_the_same_predictions(trained, scenes):
    again = pickle.loads(pickle.dumps(trained))
    assert again.get_params() == trained.get_params()
    np.testing.assert_array_equal(again.predict(scenes[0][:2]), trained.predict(scenes[0][:2]))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Files that torch writes say of tensors that they were on a GPU, until a module is brought down by `cpu()`."""
    brought_down = []

    def cpu(module):
        brought_down.append(module)
        return module

    monkeypatch.setattr(torch.nn.Module, "cpu", cpu)
    monkeypatch.setattr(
        torch.serialization, "location_tag", lambda _: "cpu" if brought_down else "cuda:0", raising=True
    )
    return brought_down


def test_a_pickle_from_a_gpu_opens_where_there_is_none(trained, scenes, as_on_a_gpu):
    assert b"cuda:0" in pickle.dumps(trained.model_)
    written = pickle.dumps(trained)
    assert b"cuda:0" not in written
    assert trained.model_ not in as_on_a_gpu  # the estimator at hand stays where it is
    np.testing.assert_array_equal(pickle.loads(written).predict(scenes[0][0]), trained.predict(scenes[0][0]))


def test_a_checkpoint_from_a_gpu_goes_on_where_there_is_none(scenes, tmp_path, as_on_a_gpu):
    path = tmp_path / "run.ckpt"
    first = CellSegmenter(**BRIEF, checkpoint=path).fit(scenes[0])
    assert b"cuda:0" in path.read_bytes()
    assert_same_weights(CellSegmenter(**BRIEF, checkpoint=path).fit(scenes[0]), first)


def test_the_device_is_looked_for_when_it_is_used(segmenter, scenes):
    elsewhere = pickle.loads(pickle.dumps(segmenter.set_params(device="cuda:99")))
    with pytest.raises(ValueError, match=r"device='cuda:99' cannot be used here.*device='auto' or 'cpu'"):
        elsewhere.predict(scenes[0][0])
    elsewhere.set_params(device="cpu").predict(scenes[0][0])


def test_save_and_load_give_the_same_predictions(trained, scenes, tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    trained.save(path)
    again = CellSegmenter.load(path)
    assert again.get_params() == trained.get_params() | {"device": "auto"}
    assert_same_weights(again, trained)
    for name in ("n_channels_in_", "noise_scale_", "working_diameter_", "penalties_", "card_"):
        assert getattr(again, name) == getattr(trained, name)
    np.testing.assert_allclose(again.history_["loss"], trained.history_["loss"], rtol=1e-4)
    again.set_params(device="cpu")
    np.testing.assert_array_equal(again.predict(scenes[0][:2]), trained.predict(scenes[0][:2]))
    np.testing.assert_array_equal(again.transform(scenes[0][0]), trained.transform(scenes[0][0]))
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_saved_model_can_be_read_by_those_who_may_read_the_folder(trained, tmp_path):
    trained.save(tmp_path / "model.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_half_precision_halves_the_file_and_keeps_the_predictions(trained, scenes, tmp_path):
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    trained.save(full)
    trained.save(str(half), half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    again = CellSegmenter.load(half).set_params(device="cpu")
    assert {value.dtype for value in weights_of(again).values() if value.is_floating_point()} == {
        torch.float32
    }
    images = scenes[0][:4]
    scores = [
        average_precision(t, p) for t, p in zip(trained.predict(images), again.predict(images), strict=True)
    ]
    assert np.mean(scores) > 0.9
    saved_again = tmp_path / "again.safetensors"
    again.save(saved_again, half=True)
    np.testing.assert_array_equal(CellSegmenter.load(saved_again).predict(images), again.predict(images))


def test_parameters_survive_saving_whatever_their_type(segmenter, tmp_path):
    given = {
        "density": np.array([3.0, 6.0]),
        "object_size": [8, 20],
        "n_samples": np.int64(2),
        "resolution": AbsoluteResolution(0.25),
        "random_state": np.random.RandomState(1),
        "checkpoint": tmp_path / "run.ckpt",
        "n_jobs": 2,
    }
    segmenter.set_params(**given).save(tmp_path / "model.safetensors")
    again = CellSegmenter.load(tmp_path / "model.safetensors")
    assert again.density == (3.0, 6.0)
    assert again.object_size == (8, 20)
    assert again.n_samples == 2
    assert again.resolution == AbsoluteResolution(0.25)
    # What belongs to a machine or a moment does not travel.
    assert (again.random_state, again.checkpoint, again.n_jobs) == (None, None, 1)


class Bomb:
    """A pickle that sets off when it is opened."""

    def __reduce__(self):
        return (pytest.fail, ("loading a model executed code",))


def header_only(path):
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"})


def bare_description(path, description):
    save_file(
        {"x": torch.zeros(2)}, path, metadata={"format": "cellsegmenter-model-1", "description": description}
    )


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "no readable model file"),
        (lambda path: torch.save({"model": Bomb()}, path), "no readable model file"),
        (lambda path: path.write_text("a text"), "no readable model file"),
        (lambda path: path.write_bytes(b""), "no readable model file"),
        (header_only, "another program"),
        (lambda path: bare_description(path, "{}"), "not hold a model of this version"),
        (lambda path: bare_description(path, "{"), "no readable description"),
        (
            lambda path: bare_description(path, '{"parameters": {"colour": 1}}'),
            "not hold a model of this version",
        ),
    ],
)
def test_what_is_no_model_file_is_refused_and_never_executed(tmp_path, write, message):
    path = tmp_path / "model.safetensors"
    write(path)
    with pytest.raises(ModelFileError, match=message) as error:
        CellSegmenter.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", [4, 200, 0.5, 0.999])
def test_truncated_model_files_are_refused(trained, tmp_path, kept):
    path = tmp_path / "model.safetensors"
    trained.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ModelFileError, match="no readable model file"):
        CellSegmenter.load(path)


def test_weights_of_another_model_are_refused(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    trained.save(path)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors.popitem()
    del metadata["sha256"]  # as files of earlier versions
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ModelFileError, match="Missing key"):
        CellSegmenter.load(path)


def test_a_changed_weight_is_noticed(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    trained.save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        CellSegmenter.load(path)


def test_a_missing_model_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors' does not exist"):
        CellSegmenter.load(tmp_path / "nowhere.safetensors")


def test_the_pretrained_model(nuclei):
    try:
        segmenter = CellSegmenter.pretrained()
    except FileNotFoundError:
        pytest.skip("the model is not in this checkout")
    image, labels = nuclei
    segmenter.set_params(diameter="auto", random_state=0, device="cpu")
    assert segmenter.score(image, labels) > 0.4
    assert segmenter.card_["labels_used"].startswith("none")


# --- what goes in ----------------------------------------------------------------------------------------


def test_layouts_of_the_same_image_give_the_same_labels(trained, scenes):
    image = scenes[0][0]
    expected = trained.predict(image)
    for same in (
        image.tolist(),
        torch.from_numpy(image),
        pd.DataFrame(image),
        Lazy(image),
        np.asfortranarray(image),
    ):
        labels = trained.predict([same])[0] if isinstance(same, list) else trained.predict(same)
        np.testing.assert_array_equal(labels, expected)


def test_intensities_may_have_any_scale(trained, scenes):
    image = scenes[0][0].astype(np.float64)
    expected = trained.predict(image)
    for other in (image * 1e-6, image * 1e6, np.uint16(np.rint(image / image.max() * 60000))):
        assert average_precision(expected, trained.predict(other)) > 0.7


def test_lists_of_images_of_different_sizes(scenes):
    images = [scenes[0][0], scenes[0][1][:50, :61], scenes[0][2][:20, :30], scenes[0][3][:1, :40]]
    segmenter = CellSegmenter(**BRIEF).fit(images)
    labels = segmenter.predict(images)
    assert isinstance(labels, list)
    assert [found.shape for found in labels] == [image.shape for image in images]
    assert segmenter.predict(tuple(images[:1]))[0].shape == (64, 64)


@pytest.mark.parametrize(
    ("shape", "n_times"),
    [
        ("blob", 2.4),  # for its statistics and its haze, and a square of it for the sleep phase
        ("auto", 4.2),  # and to look at its objects, which takes statistics of its own
    ],
)
def test_lazy_arrays_are_read_in_pieces_and_not_for_every_window(shape, n_times):
    pixels = np.random.default_rng(0).poisson(3, (2100, 2100)).astype(np.uint16)
    pixels[1000:1010, 500:510] += 300
    lazy = Lazy(pixels)
    CellSegmenter(**BRIEF | {"n_steps": 2}, shape=shape).fit(lazy)
    assert lazy.n_read < n_times * pixels.size
    assert lazy.largest < pixels.size / 4


def test_zarr_arrays(trained, scenes):
    zarr = pytest.importorskip("zarr")
    images = scenes[0][:2]
    np.testing.assert_array_equal(
        trained.predict(zarr.array(images, chunks=(1, 32, 32))), trained.predict(images)
    )


def test_channels(scenes):
    images = np.stack([scenes[0], scenes[0][::-1]], axis=-1)[:4]
    segmenter = CellSegmenter(**BRIEF, channel_axis=-1).fit(images)
    assert segmenter.n_channels_in_ == 2
    labels = segmenter.predict(images)
    assert labels.shape == (4, 64, 64)
    np.testing.assert_array_equal(segmenter.predict(images[0]), labels[0])
    first = clone(segmenter).set_params(channel_axis=1).fit(np.moveaxis(images, -1, 1))
    assert_same_weights(first, segmenter)
    np.testing.assert_array_equal(first.predict(np.moveaxis(images, -1, 1)), labels)
    table = segmenter.set_params(min_size=1).detect(images[:2])
    assert {"mean_intensity-0", "mean_intensity-1"} <= set(table)
    assert segmenter.sample(2).images.shape == (2, 2, 48, 48)


def test_diameter_rescales_and_labels_keep_the_images_shape(segmenter, scenes):
    image = np.kron(scenes[0][0], np.ones((2, 2)))
    truth = np.kron(scenes[1][0], np.ones((2, 2), int))
    segmenter.set_params(diameter=2 * segmenter.working_diameter_)
    labels = segmenter.predict(image)
    assert labels.shape == (128, 128)
    assert_consecutive(labels)
    assert average_precision(truth, labels) > 0.4
    assert segmenter.set_params(diameter="auto").predict(np.zeros((70, 50))).max() == 0


# --- what comes out --------------------------------------------------------------------------------------


def test_labels(trained, scenes):
    images = scenes[0][:3]
    labels = trained.predict(images)
    assert (labels.shape, labels.dtype) == ((3, 64, 64), np.int32)
    for found in labels:
        assert_consecutive(found)
    assert labels.max() > 1
    single = trained.predict(images[0])
    assert (single.shape, single.dtype) == ((64, 64), np.int32)
    listed = trained.predict(list(images))
    assert isinstance(listed, list)
    np.testing.assert_array_equal(listed, labels)


def test_fit_predict_and_fit_transform(scenes):
    images = scenes[0][:2]
    segmenter = CellSegmenter(**BRIEF)
    np.testing.assert_array_equal(segmenter.fit_predict(images), segmenter.predict(images))
    np.testing.assert_array_equal(clone(segmenter).fit_transform(images), segmenter.transform(images))


def test_detect_and_transform_have_a_row_per_object_in_label_order(trained, scenes):
    images = scenes[0][:3]
    labels, table, codes = trained.predict(images), trained.detect(images), trained.transform(images)
    counts = labels.max(axis=(1, 2))
    np.testing.assert_array_equal(table["image"], np.repeat(np.arange(3), counts))
    np.testing.assert_array_equal(table["label"], np.concatenate([np.arange(1, n + 1) for n in counts]))
    names = ["image", "label", "bbox-0", "bbox-1", "bbox-2", "bbox-3", "centroid-0", "centroid-1", "area"]
    assert list(table)[: len(names)] == names
    assert list(table)[-5:] == ["confidence", "z_0", "z_1", "z_2", "z_3"]
    assert "area_um2" in trained.detect(images, pixel_size=0.5)
    assert (codes.shape, codes.dtype) == ((counts.sum(), 4), np.float32)
    np.testing.assert_array_equal(codes, np.stack([table[f"z_{d}"] for d in range(4)], axis=1))
    for row in range(len(codes)):
        image = table["image"][row]
        mask = labels[image] == table["label"][row]
        rows, columns = np.nonzero(mask)
        assert table["area"][row] == mask.sum()
        assert table["mean_intensity"][row] == pytest.approx(images[image][mask].mean(), rel=1e-4)
        assert table["centroid-0"][row] == pytest.approx(rows.mean())
        assert table["centroid-1"][row] == pytest.approx(columns.mean())
        assert (table["bbox-0"][row], table["bbox-3"][row]) == (rows.min(), columns.max() + 1)
        assert 0 < table["confidence"][row] <= 1
    assert trained.get_feature_names_out().tolist() == ["z_0", "z_1", "z_2", "z_3"]


def test_pandas_output_is_indexed_by_image_and_label(segmenter, scenes):
    images = scenes[0][:2]
    codes, table = segmenter.transform(images), segmenter.detect(images)
    frame = segmenter.set_output(transform="pandas").transform(images)
    assert frame.index.names == ["image", "label"]
    assert frame.index.tolist() == list(zip(table["image"], table["label"], strict=True))
    assert list(frame.columns) == ["z_0", "z_1", "z_2", "z_3"]
    np.testing.assert_array_equal(frame.to_numpy(), codes)


def test_pipelines_cluster_objects(trained, segmenter, scenes):
    images = scenes[0][:4]
    n_objects = len(trained.detect(images)["label"])
    pipeline = make_pipeline(segmenter, StandardScaler(), KMeans(3, random_state=0, n_init=1))
    pipeline.set_params(cellsegmenter__n_steps=2, cellsegmenter__warm_start=True)
    clusters = pipeline.fit_predict(images)
    assert clusters.ndim == 1
    assert abs(len(clusters) - n_objects) < n_objects / 2
    assert set(clusters) == {0, 1, 2}


def test_an_image_without_objects_is_a_result(trained, scenes):
    background = np.random.default_rng(0).normal(100, 3, (64, 64))
    for empty in (np.zeros((64, 64)), np.full((40, 70), 7, np.uint8), background):
        labels = trained.predict(empty)
        assert (labels.shape, labels.dtype, labels.max()) == (empty.shape, np.int32, 0)
        table = trained.detect(empty)
        assert list(table) == list(trained.detect(scenes[0][0]))
        assert {len(column) for column in table.values()} == {0}
        assert trained.transform(empty).shape == (0, 4)
    between = trained.detect([background, scenes[0][0], background])
    assert set(between["image"]) == {1}


def test_an_image_without_objects_gives_an_empty_frame(segmenter):
    frame = segmenter.set_output(transform="pandas").transform(np.zeros((48, 48)))
    assert frame.shape == (0, 4)
    assert frame.index.names == ["image", "label"]


def test_consensus_is_what_predict_cuts(trained, scenes):
    image = scenes[0][0]
    consensus = trained.consensus(image)
    segmentation = consensus.cut(trained.resolution)
    np.testing.assert_array_equal(segmentation.labels, trained.predict(image))
    assert segmentation.resolution.absolute == 0.3
    # A published-style number for this image is the same cut.
    np.testing.assert_array_equal(consensus.cut(segmentation.resolution.gamma).labels, segmentation.labels)
    table = trained.table(segmentation, image)
    np.testing.assert_array_equal(table["z_0"], trained.detect(image)["z_0"])
    automatic, cut = trained.predict(image, resolution="auto"), consensus.cut("auto")
    np.testing.assert_array_equal(automatic, cut.labels)
    chosen = trained.consensus(image).automatic_resolution()  # without a cut
    assert (chosen.absolute, chosen.agreement) == (cut.resolution.absolute, cut.resolution.agreement)


def test_min_size(segmenter, scenes):
    assert segmenter.set_params(min_size=10**6).predict(scenes[0][0]).max() == 0
    areas = segmenter.set_params(min_size=60).detect(scenes[0][:3])["area"]
    assert len(areas)
    assert areas.min() >= 60


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_min_size_is_in_pixels_of_the_image_at_any_scale(segmenter, scenes, factor):
    segmenter.set_params(diameter=factor * segmenter.working_diameter_)
    cut = segmenter.consensus(scenes[0][0]).cut
    areas = np.bincount(cut(min_size=0).labels.ravel())[1:]
    for least in np.unique(areas[areas > 10]):  # the next larger one is where rounding would show
        for min_size in (int(least), int(least) + 1):
            kept = np.bincount(cut(min_size=min_size).labels.ravel())[1:]
            assert (kept >= min_size).all()
            assert len(kept) >= (areas >= 1.3 * min_size).sum()


def test_a_region_at_another_scale_shows_the_pixels_of_the_whole(segmenter):
    """At a scale just below 1 a region can have as many rows as its graph, and still not the same ones."""
    image = make_nuclei(1, size=200, count=(40, 40), diameter=12, brightness=(0.5, 1), random_state=2).images[
        0
    ]
    segmenter.set_params(diameter=segmenter.working_diameter_ / 0.99)
    region = Region(20, 20, 120, 120)
    alone = segmenter.consensus(image, region=region)
    assert alone.graph.image_shape == region.shape
    shown, whole = (
        np.asarray(consensus.cut(AbsoluteResolution(0.3)).foreground_prob)
        for consensus in (alone, segmenter.consensus(image))
    )
    # The last bit of a sample can differ, see `test_a_region_shows_what_the_whole_image_does`; a shift shows in every
    # edge.
    assert (shown != whole[region.slices]).sum() < 1e-3 * shown.size


def test_processes_give_the_same_labels(trained, segmenter, scenes):
    expected = trained.predict(scenes[0][0])
    with parallel_config(backend="threading"):
        np.testing.assert_array_equal(segmenter.set_params(n_jobs=2).predict(scenes[0][0]), expected)


# --- the generative model --------------------------------------------------------------------------------


def test_posterior_samples(trained, scenes):
    windows = scenes[0][:3, :48, :48]
    samples = trained.sample_posterior(windows, n_samples=5)
    slots = samples.presence.shape[2]
    assert samples.presence.shape == samples.presence_prob.shape == (3, 5, slots)
    assert samples.presence.dtype == bool
    assert samples.boxes.shape == (3, 5, slots, 4)
    assert samples.z_what.shape == (3, 5, slots, 4)
    assert samples.mixing_prob.shape == (3, 5, slots, 48, 48)
    assert samples.background.shape == samples.reconstruction.shape == (3, 5, 1, 48, 48)
    total = samples.mixing_prob.sum(axis=2)
    assert samples.mixing_prob.min() >= 0
    assert total.max() <= 1 + 1e-5
    assert not samples.mixing_prob[~samples.presence].any()
    assert len(np.unique(samples.presence.sum(axis=2))) > 1  # samples differ
    np.testing.assert_array_equal(trained.sample_posterior(windows, n_samples=5).boxes, samples.boxes)


def test_the_most_probable_posterior(trained, scenes):
    most_probable = trained.sample_posterior(scenes[0][0, :48, :48], n_samples=None)
    assert most_probable.presence.shape[:2] == (1, 1)
    np.testing.assert_array_equal(
        most_probable.presence, most_probable.presence_prob * most_probable.presence > 0.5
    )


def test_the_posterior_of_an_image_smaller_than_a_window_is_at_the_images_pixels(trained, scenes):
    small = scenes[0][0, :40, :36]
    found = trained.sample_posterior([small, small], n_samples=None)
    assert found.reconstruction.shape == (2, 1, 1, 48, 48)
    assert found.presence[0].any()
    for values in found:
        np.testing.assert_array_equal(values[0], values[1])
    seen = found.reconstruction[0, 0, 0, :40, :36]
    assert np.corrcoef(seen.ravel(), small.ravel())[0, 1] > 0.8


def test_codes_decode(trained, scenes):
    codes = trained.transform(scenes[0][:2])
    decoded = trained.inverse_transform(codes)
    n, raster = len(codes), trained.model_.config.raster
    assert decoded.appearance.shape == (n, 1, raster, raster)
    assert decoded.mixing_weight.shape == (n, raster, raster)
    assert decoded.mixing_weight.min() >= 0
    assert decoded.mixing_weight.max() <= 1
    assert decoded.appearance.dtype == decoded.mixing_weight.dtype == np.float32
    assert trained.inverse_transform(codes[:0]).mixing_weight.shape == (0, raster, raster)
    frame = pd.DataFrame(codes)
    np.testing.assert_array_equal(trained.inverse_transform(frame).mixing_weight, decoded.mixing_weight)


def test_many_codes_are_decoded_a_few_at_a_time(trained, monkeypatch):
    codes = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    at_once = trained.inverse_transform(codes)
    monkeypatch.setattr("cellsegmenter.generation._DECODED_AT_ONCE", 3)
    for few, all_ in zip(trained.inverse_transform(codes), at_once, strict=True):
        np.testing.assert_allclose(few, all_, atol=1e-6)


def test_new_images(trained):
    images, labels = trained.sample(4)
    assert (images.shape, images.dtype) == ((4, 1, 48, 48), np.float32)
    assert (labels.shape, labels.dtype) == ((4, 48, 48), np.int32)
    assert labels.min() == 0
    assert labels.max() >= 1
    np.testing.assert_array_equal(trained.sample(4).images, images)


def test_many_new_images_are_drawn_a_few_at_a_time(trained, monkeypatch):
    monkeypatch.setattr("cellsegmenter.generation.BATCH_SIZE", 2)
    images, labels = trained.sample(5)
    assert images.shape == (5, 1, 48, 48)
    assert labels.shape == (5, 48, 48)
    assert len(np.unique(images.reshape(5, -1), axis=0)) == 5


# --- what is said ----------------------------------------------------------------------------------------


def test_verbose_says_how_the_images_were_understood(segmenter, scenes, capsys):
    segmenter.predict(scenes[0][0])
    assert capsys.readouterr().out == ""
    segmenter.set_params(verbose=True).predict(scenes[0][0])
    said = capsys.readouterr().out
    assert "1 grey image of 64 × 64 px" in said
    assert "objects at" in said


def test_nothing_warns(scenes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CellSegmenter(**BRIEF).fit(scenes[0]).detect(scenes[0][:2])


@pytest.mark.parametrize(
    "parameters",
    [
        {"sapr": False},
        {"appearance": "free"},
        {"presence_update": "straight_through"},
        {"augment": True},
        {"overlap_penalty": 1.0},
        {"overlap_threshold": 0.8},
        {"intensity": "linear"},
        {"diameter": "auto"},
        {"diameter": 20},
        {"noise_scale": 0.1},
        {"density": (0, 1), "area": (0.01, 0.05)},
    ],
    ids=str,
)
def test_variants_train(scenes, parameters):
    segmenter = CellSegmenter(**BRIEF | {"n_steps": 10} | parameters).fit(scenes[0])
    assert np.isfinite(segmenter.history_["loss"]).all()
    assert segmenter.predict(scenes[0][0]).shape == (64, 64)
    if "noise_scale" in parameters:
        assert segmenter.noise_scale_ == 0.1
    if "sapr" in parameters:
        assert set(segmenter.penalties_.values()) == {0.0}
