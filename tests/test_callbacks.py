"""Looking on while a model is trained: TensorBoard's files, and scikit-learn's callbacks."""

import builtins
import copy
import sys
import warnings

import numpy as np
import pytest
from conftest import SMALL
from sklearn.base import clone

from cellsegmenter import AbsoluteResolution, CellSegmenter

STEPS = 25
BRIEF = SMALL | {"n_steps": STEPS, "batch_size": 2, "resolution": AbsoluteResolution(0.3)}


def scalars(folder):
    """{tag: {step: value}} of what TensorBoard's own reader finds in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it is made of
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]
    }


class TestTensorBoard:
    def test_it_reads_the_history(self, scenes, tmp_path):
        pytest.importorskip("tensorboard")
        folder = tmp_path / "runs" / "first"
        history = CellSegmenter(**BRIEF, tensorboard=folder).fit(scenes[0]).history_
        found = scalars(folder)
        tags = {"loss/reconstruction": "reconstruction", "constraints/objects": "objects"}
        tags |= {"penalty/density": "penalty_density", "schedule/learning_rate": "learning_rate"}
        for tag, name in tags.items():
            assert list(found[tag]) == history["step"].tolist() == [10, 20, 25]
            np.testing.assert_allclose(list(found[tag].values()), history[name], rtol=1e-6)
        assert (
            len(found) == len(history) - 2
        )  # all but the step and the seconds, which TensorBoard has itself

    def test_it_is_written_as_the_training_goes(self, scenes, tmp_path):
        pytest.importorskip("tensorboard")
        seen = []

        class Peek(Recorder):
            def on_fit_task_end(self, estimator, context):
                seen.append(sorted(scalars(tmp_path).get("loss/loss", {})))

        pytest.importorskip("sklearn.callback")
        CellSegmenter(**BRIEF, tensorboard=tmp_path).set_callbacks(Peek()).fit(scenes[0])
        assert seen[:2] == [[10], [10, 20]]

    def test_the_missing_package_is_named_before_the_training(self, tmp_path, monkeypatch):
        monkeypatch.setattr("cellsegmenter.parameters.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"tensorboard='.*logs' needs .*pip install tensorboard"):
            CellSegmenter(tensorboard=tmp_path / "logs").fit("not even looked at")
        assert not (tmp_path / "logs").exists()

    def test_a_folder_that_cannot_be_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="is a file, not a folder"):
            CellSegmenter(tensorboard=tmp_path / "file" / "logs").fit("not even looked at")

    def test_nothing_of_it_is_imported_unasked(self, scenes, monkeypatch):
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        load = builtins.__import__

        def watched(name, *arguments, **options):
            assert not name.startswith(("tensorboard", "torch.utils.tensorboard"))
            return load(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", watched)
        CellSegmenter(**BRIEF | {"n_steps": 1}).fit(scenes[0])


class Recorder:
    """A callback of scikit-learn's that keeps what it is told."""

    def __init__(self):
        self.told = []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(("begin", context.task_name, context.max_subtasks))

    def on_fit_task_end(self, estimator, context):
        self.told.append(("end", context.task_name, context.task_id))


class Fitted(Recorder):
    """Keeps the estimators that it is given, as if the training had ended there."""

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.told.append((context.task_name, X, fitted_estimator))


class Stop(Recorder):
    """Ends the training after its second row."""

    def on_fit_task_end(self, estimator, context):
        return context.parent is not None and context.task_id == 1


class TestScikitLearnCallbacks:
    @pytest.fixture(autouse=True)
    def _since_1_9(self):
        pytest.importorskip("sklearn.callback")

    def test_they_hear_of_every_row(self, scenes):
        recorder = Recorder()
        segmenter = CellSegmenter(**BRIEF).set_callbacks(recorder)
        assert segmenter.fit(scenes[0]) is segmenter
        rows = [told for i in range(3) for told in (("begin", "10 steps", 0), ("end", "10 steps", i))]
        assert recorder.told == ["setup", ("begin", "fit", 3), *rows, ("end", "fit", 0), "teardown"]

    def test_they_see_the_model_as_if_it_ended_there(self, scenes):
        fitted = Fitted()
        segmenter = CellSegmenter(**BRIEF).set_callbacks(fitted).fit(scenes[0])
        [*rows, (name, X, last)] = [told for told in fitted.told if told[0] not in ("begin", "s", "t")]
        assert name == "fit"
        assert X is scenes[0]
        assert last.model_ is segmenter.model_
        for n, (_, _, row) in enumerate(rows, start=1):
            assert row.history_["step"].tolist() == segmenter.history_["step"][:n].tolist()
            assert row.model_ is not segmenter.model_
            assert row.predict(scenes[0][0]).shape == scenes[0][0].shape
        np.testing.assert_array_equal(rows[-1][2].predict(scenes[0][1]), segmenter.predict(scenes[0][1]))
        assert (rows[0][2].noise_scale_, rows[0][2].card_["steps"]) == (segmenter.noise_scale_, 10)

    def test_they_do_not_change_the_training(self, scenes):
        plain, watched = CellSegmenter(**BRIEF), CellSegmenter(**BRIEF).set_callbacks(Fitted())
        for one, two in zip(
            plain.fit(scenes[0]).model_.parameters(), watched.fit(scenes[0]).model_.parameters(), strict=True
        ):
            assert one.equal(two)

    def test_they_can_end_it(self, scenes):
        segmenter = CellSegmenter(**BRIEF).set_callbacks(Stop()).fit(scenes[0])
        assert segmenter.history_["step"].tolist() == [10, 20]
        assert segmenter.card_["steps"] == 20
        segmenter.predict(scenes[0][0])

    def test_a_training_that_fails_ends_them_too(self, scenes, monkeypatch):
        recorder = Recorder()
        monkeypatch.setattr("cellsegmenter.training.loop.training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            CellSegmenter(**BRIEF).set_callbacks(recorder).fit(scenes[0])
        assert recorder.told == ["setup", ("begin", "fit", 3), "teardown"]

    def test_a_clone_and_a_copy_keep_them(self):
        segmenter = CellSegmenter(**BRIEF).set_callbacks(Recorder())
        assert clone(segmenter)._skl_callbacks == segmenter._skl_callbacks
        assert len(copy.deepcopy(segmenter)._skl_callbacks) == 1
