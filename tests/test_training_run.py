"""What a run does over its steps: schedules, the watch for collapse, checkpoints that continue a run exactly."""

import functools
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import tiny_config

from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.training import checkpoint as checkpoint_module
from cellsegmenter.training import loop as loop_module
from cellsegmenter.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from cellsegmenter.training.constraints import PENALTY_RANGE, PosteriorConstraints
from cellsegmenter.training.loop import TrainingSettings, train
from cellsegmenter.training.objective import Objective, ObjectiveSettings
from cellsegmenter.training.schedule import (
    RunLength,
    average_decay,
    evidence_share,
    learning_rate,
    lessons_begun,
    warmup_weight,
)
from cellsegmenter.training.watch import CollapseWatch

# Schedules


def test_the_warmup_holds_then_falls_to_zero():
    weights = np.array([warmup_weight(step, 3000) for step in range(3000)])
    assert 0 < weights[0] <= 1
    assert weights[-1] == 0
    assert (np.diff(weights) <= 0).all()
    falling = np.flatnonzero(np.diff(weights) < 0)
    assert falling[0] > 10
    np.testing.assert_allclose(np.diff(weights)[falling], np.diff(weights)[falling[0]], rtol=1e-6)  # linearly


@pytest.mark.parametrize("n_steps", [100, 1000, 3000, 20000])
def test_no_run_ends_before_its_lessons(n_steps):
    begin = next(step for step in range(n_steps) if lessons_begun(step, n_steps))
    assert evidence_share(begin, n_steps) == 1
    length = RunLength(n_steps)
    for step in range(0, n_steps, 10):
        length.update(step, [1.0] * (step // 10 + 1))  # converged from the start
    assert begin + 0.3 * min(n_steps, 2000) <= length.end


def test_evidence_rises_from_its_first_part_to_the_whole_and_stays():
    shares = np.array([evidence_share(step, 1000) for step in range(1000)])
    assert 0 < shares[0] < 0.5
    assert (np.diff(shares[:400]) > 0).all()
    assert (shares[400:] == 1).all()


def test_the_learning_rate_rises_stays_and_decays():
    length = RunLength(n_steps=2000)
    rates = np.array([learning_rate(step, length, peak=0.01) for step in range(2001)])
    assert rates.max() == pytest.approx(0.01)
    assert 0 < rates[0] < 0.2 * 0.01
    assert (rates[100 : length.flat] == rates.max()).all()
    assert (np.diff(rates[length.flat :]) <= 0).all()
    assert 0 < rates[-1] < 0.1 * 0.01


def test_the_average_of_the_weights_grows_slower():
    decays = [average_decay(step) for step in range(2000)]
    assert decays[0] < 0.5
    assert 0.9 < decays[-1] < 1
    assert (np.diff(decays) >= 0).all()


def losses(step: int, *, falling: bool) -> list[float]:
    """A row every ten steps of an L_rec that falls to the end, or has long been flat."""
    at = np.arange(10, step + 1, 10)
    return list(1000.0 / at) if falling else list(1.0 + 0.0 * at)


@pytest.mark.parametrize("falling", [True, False])
def test_a_run_decays_early_only_when_it_has_converged(falling):
    length = RunLength(n_steps=20_000)
    length.update(3000, losses(3000, falling=falling))
    if falling:
        assert (length.flat, length.end) == (10_000, 20_000)
    else:
        assert (length.flat, length.end) == (3000, 6000)
        length.update(4000, losses(4000, falling=False))
        assert length.end == 6000, "decided once"


def test_a_run_is_never_prolonged_nor_ended_at_once():
    early, late = RunLength(n_steps=20_000), RunLength(n_steps=4000)
    early.update(100, losses(100, falling=False))
    late.update(3000, losses(3000, falling=False))
    assert early.end == 20_000
    assert late.end == 4000


@pytest.mark.parametrize(("n_steps", "end"), [(1900, 1900), (1910, 1900), (2300, 1900), (1000, 1000)])
def test_runs_of_up_to_1900_steps_keep_their_length_however_flat(n_steps, end):
    length = RunLength(n_steps)
    for step in range(10, n_steps + 1, 10):
        length.update(step, losses(step, falling=False))
    assert length.end == end


# The watch


def watch(counts: list[float], **settings) -> list[str | None]:
    settings = {"expected": (4.0, 8.0), "max_objects": 20, "patience": 10} | settings
    watcher = CollapseWatch(**settings)
    return [watcher.update(count) for count in counts]


@pytest.mark.parametrize(("count", "verdict"), [(0.0, "empty"), (20.0, "full")])
def test_the_watch_names_a_collapse_once_it_lasts(count, verdict):
    verdicts = watch([count] * 15)
    assert verdicts[:9] == [None] * 9
    assert verdicts[9] == verdict
    assert verdicts[10:] == [None] * 5, "a recovery gets time"


def test_a_run_that_falls_into_a_collapse_is_recognised():
    for end, verdict in ((0.0, "empty"), (20.0, "full")):
        verdicts = watch([6.0] * 20 + [end] * 300)
        assert verdicts[:20] == [None] * 20
        assert verdict in verdicts


@pytest.mark.parametrize("count", [1.0, 4.0, 6.0, 8.0, 15.0])
def test_the_watch_is_silent_about_any_other_count(count):
    assert watch([count] * 500) == [None] * 500


def test_the_watch_is_silent_about_single_batches():
    assert watch([6.0, 6.0, 0.0, 6.0, 20.0, 6.0] * 50) == [None] * 300


def test_a_full_window_that_the_user_expects_is_no_collapse():
    assert watch([20.0] * 50, expected=(15.0, 20.0)) == [None] * 50


# Checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "run.pt"
    state = {"weights": {"a": torch.arange(3.0)}, "step": 7, "history": [{"loss": 0.5}], "name": None}
    write_checkpoint(path, state)
    read = read_checkpoint(path)
    assert torch.equal(read["weights"]["a"], state["weights"]["a"])
    assert (read["step"], read["history"], read["name"]) == (7, [{"loss": 0.5}], None)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_killed_while_writing_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    write_checkpoint(path, {"step": 1})

    def killed(state: dict, where: Path) -> None:
        Path(where).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path)["step"] == 1


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "foreign", "other version"])
def test_a_file_that_is_no_checkpoint_is_refused_with_a_remedy(tmp_path, damage):
    path = tmp_path / "run.pt"
    write_checkpoint(path, {"step": 1, "weights": torch.zeros(100)})
    if damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "foreign":
        torch.save([1, 2, 3], path)
    else:
        torch.save({"format": -1, "step": 1}, path)
    with pytest.raises(CheckpointError, match=r"run\.pt.*; delete it"):
        read_checkpoint(path)


@pytest.mark.parametrize("save", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
def test_reading_a_checkpoint_never_runs_its_code(tmp_path, save):
    path, trace = tmp_path / "run.pt", tmp_path / "trace"
    save({"format": 1, "payload": Payload(trace)}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_missing_checkpoint_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nothing.pt")


# The loop


class Images(list):
    """Two noisy images with bright squares; reading fails after `n_crops` crops, like a run that is killed."""

    def __init__(self, n_crops: float = np.inf) -> None:
        random = np.random.default_rng(0)
        pictures = 0.1 * random.random((2, 1, 48, 40)).astype(np.float32)
        pictures[:, :, 8:18, 8:18] += 1
        pictures[:, :, 26:36, 24:34] += 0.7
        super().__init__(pictures)
        self.left = n_crops

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def run(
    images: Images,
    *,
    seed: int = 0,
    update: str = "mean_field",
    noise_scale: float = 0.1,
    sizes: dict | None = None,
    **settings,
):
    """A short training; the model and its history."""
    torch.manual_seed(seed)
    model = StructuredVAE(tiny_config(**(sizes or {})))
    bounds = {"reconstruction": (0.0, 1.0), "density": (0.2, 0.5), "area": (0.05, 0.3)}
    objective = Objective(
        PosteriorConstraints(bounds),
        ObjectiveSettings(noise_scale=noise_scale, overlap_threshold=0.4, presence_update=update),
    )
    defaults = {
        "n_steps": 30,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "max_objects": 6,
        "density": (1.0, 3.0),
        "seed": seed,
        "progress": False,
        "checkpoint_interval": 10,
    }
    history = train(
        model, objective, images, TrainingSettings(**defaults | settings), device=torch.device("cpu")
    )
    return model, objective, history


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize("update", ["mean_field", "straight_through"])
def test_a_killed_run_continues_as_if_it_had_not_stopped(tmp_path, update):
    whole_model, whole_objective, whole_history = run(Images(), update=update, augment=True)

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(Images(n_crops=3 * 17), update=update, augment=True, checkpoint=checkpoint)
    assert read_checkpoint(checkpoint)["step"] == 10
    model, objective, history = run(Images(), update=update, augment=True, checkpoint=checkpoint)

    assert without_times(history) == without_times(whole_history)
    for resumed, whole in ((model, whole_model), (objective, whole_objective)):
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (without_times(run(Images(), seed=seed, n_steps=10)[2]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint = tmp_path / "run.pt"
    run(Images(), n_steps=10, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=r"run\.pt.*delete it"):
        run(Images(), n_steps=10, checkpoint=checkpoint, sizes={"latent_dim": 4})


def test_the_history_tells_what_happened():
    _, _, history = run(Images(), n_steps=20)
    assert len(history) == 2
    low, high = PENALTY_RANGE
    for row in history:
        assert all(np.isfinite(value) for value in row.values())
        assert 0 <= row["objects"] <= 6
        assert 0 <= row["area"] <= 1
        assert low * (1 - 1e-6) <= row["penalty_area"] <= high


def test_penalties_stay_in_their_range_however_fast_they_move(monkeypatch):
    monkeypatch.setattr(loop_module, "_PENALTY_RATE", 1.0)
    _, objective, _ = run(Images(), n_steps=10)
    low, high = PENALTY_RANGE
    penalties = [objective.constraints.penalty(name).item() for name in objective.constraints.names]
    assert all(low * (1 - 1e-5) <= penalty <= high * (1 + 1e-5) for penalty in penalties)
    assert any(penalty == pytest.approx(bound) for penalty in penalties for bound in PENALTY_RANGE)


def test_training_explains_the_images_better():
    _, _, history = run(Images(), n_steps=60, learning_rate=3e-3)
    assert history[-1]["reconstruction"] < 0.85 * history[0]["reconstruction"]


@pytest.mark.parametrize("touching", [False, True])
def test_lessons_are_part_of_the_loss_once_evidence_counts_in_full(monkeypatch, touching):
    def rows(weight: float) -> list[dict[str, float]]:
        asked.clear()
        monkeypatch.setattr(loop_module, "HISTORY_INTERVAL", 1)
        monkeypatch.setattr(
            loop_module, "lesson_loss", lambda model, lesson: weight + 0 * model.box_code.bias.sum()
        )
        return run(Images(), n_steps=10, touching_lessons=touching)[2]

    def spied(*arguments, touching, original=loop_module.put_beside):
        asked.append(touching)
        return original(*arguments, touching=touching)

    asked: list[bool] = []
    monkeypatch.setattr(loop_module, "put_beside", spied)
    without, with_lessons = rows(0.0), rows(7.0)
    assert asked == [touching] * 6
    assert [row["lesson"] for row in with_lessons] == [0.0] * 4 + [7.0] * 6
    difference = [ours["loss"] - theirs["loss"] for ours, theirs in zip(with_lessons, without, strict=True)]
    np.testing.assert_allclose(difference, [0.0] * 4 + [7.0] * 6, atol=1e-4)


def test_the_papers_presence_knows_no_lessons():
    assert all(row["lesson"] == 0 for row in run(Images(), n_steps=20, update="straight_through")[2])


@pytest.mark.parametrize(
    ("logit", "verdict"), [(-50.0, "no object anywhere"), (50.0, "as many objects as fit")]
)
def test_a_collapse_is_reported_and_left_behind(monkeypatch, logit, verdict):
    """The presence network starts collapsed; the watch resets it and starts the warm-up anew."""
    initialise = loop_module.Run.__init__

    def collapsed(run: loop_module.Run, model: StructuredVAE, *arguments: object) -> None:
        torch.nn.init.constant_(model.proposal_head.out.bias[:1], logit)
        initialise(run, model, *arguments)

    monkeypatch.setattr(loop_module.Run, "__init__", collapsed)
    # Without a warm-up, that finds objects in an empty window; and with two slots, that fill a tiny one, as three
    # objects on average, to which the reset returns, often do: so the run ends before the patience does once more.
    monkeypatch.setattr(loop_module, "CollapseWatch", functools.partial(CollapseWatch, patience=5))
    monkeypatch.setattr(loop_module, "warmup_weight", lambda step, n_steps: 0.0)
    settings = {"max_objects": 2, "density": (1.0, 1.5)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _, _ = run(Images(), n_steps=9, learning_rate=1e-4, **settings)
    messages = [str(warning.message) for warning in caught if warning.category is loop_module.CollapseWarning]
    assert len(messages) == 1
    assert verdict in messages[0]
    with torch.no_grad():
        proposals = model.proposal_head(torch.zeros(1, model.proposal_head.mlp[0].in_channels, 4, 4))
    prob = torch.sigmoid(proposals.presence_logit)
    assert 0.01 < prob.mean() < 0.6


def test_a_gradient_that_is_not_finite_stops_the_run_with_a_remedy():
    with pytest.raises(FloatingPointError, match=r"not finite in step.*learning_rate"):
        run(Images(), noise_scale=1e-30)
