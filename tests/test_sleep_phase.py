"""The sleep phase learns to tell touching objects apart, repeatably, and goes on where it was interrupted."""

import numpy as np
import pytest
import torch
from reference import disc_labels
from skimage.measure import label as connected_parts

from cellsegmenter.recognition.blocks import read_around
from cellsegmenter.recognition.candidates import propose
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork, StarMap
from cellsegmenter.recognition.sampling import OVERLAP, most_probable
from cellsegmenter.recognition.suppression import overlapping_pairs
from cellsegmenter.region import Region
from cellsegmenter.sleep import phase
from cellsegmenter.sleep.crops import CropSource
from cellsegmenter.sleep.phase import SleepSettings, recognition_loss, sleep
from cellsegmenter.training.checkpoint import CheckpointError

DIAMETER = 14.0
CONFIG = RecognitionConfig(1, DIAMETER, width=8)
SIDE = 160
CPU = torch.device("cpu")


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy discs, alone and in pairs that touch; no other two do."""
    rng = np.random.default_rng(seed)
    discs: list[np.ndarray] = []
    while len(discs) < 22:
        middle, angle = rng.uniform(12, SIDE - 12, 2), rng.uniform(0, 2 * np.pi)
        half = 0.46 * DIAMETER * np.array([np.sin(angle), np.cos(angle)])
        middles = [middle] if rng.random() < 0.4 else [middle - half, middle + half]
        new = [np.array([*place, DIAMETER / 2]) for place in middles]
        if all(np.hypot(*(one - other)[:2]) > 1.25 * DIAMETER for one in new for other in discs):
            discs += new
    labels = disc_labels((SIDE, SIDE), np.array(discs))
    pixels = 0.5 * (labels > 0) + 0.05 * rng.standard_normal(labels.shape)
    return pixels.astype(np.float32)[None], labels


def sources(n: int = 3) -> list[CropSource]:
    return [
        CropSource([scene(seed) for seed in range(first, first + n)], DIAMETER, "linear", CONFIG, size=48)
        for first in (0, 100)
    ]


def new_network(seed: int = 0) -> RecognitionNetwork:
    torch.manual_seed(seed)
    return RecognitionNetwork(CONFIG)


def count(network: RecognitionNetwork, pixels: np.ndarray) -> int:
    """Objects that greedy suppression leaves."""
    whole = Region(0, 0, *pixels.shape[1:])
    around = read_around(pixels, whole, halo=CONFIG.halo, padding=16, multiple=CONFIG.multiple)
    row, column = (
        np.arange(n) + first for n, first in zip(around.pixels.shape[1:], around.corner, strict=True)
    )
    known = ((row >= 0) & (row < whole.height))[:, None] & (column >= 0) & (column < whole.width)
    stars, score = propose(network.eval(), around, known, whole, "linear", CPU)
    return int(most_probable(score + 1, overlapping_pairs(stars, OVERLAP)).present.sum())


def test_it_learns_to_part_discs_that_touch():
    network = new_network()
    images = [scene(seed) for seed in range(500, 503)]
    truth = np.array([labels.max() for _, labels in images])
    merged = np.array([connected_parts(labels > 0).max() for _, labels in images])
    assert (truth - merged > 4).all()  # a threshold cannot count them
    before = np.array([count(network, pixels) for pixels, _ in images])
    settings = SleepSettings(n_steps=160, batch_size=4, learning_rate=8e-3)
    history = sleep(network, sources(), settings, device=CPU, given={})
    after = np.array([count(network, pixels) for pixels, _ in images])
    assert np.abs(before - truth).min() > 20
    assert np.abs(after - truth).max() <= 1
    assert not network.training
    assert [row["step"] for row in history] == list(range(10, 170, 10))
    assert history[-1]["loss"] < 0.4 * history[0]["loss"]
    assert set(history[0]) == {"step", "seconds", "loss", "objectness", "outlines", "learning_rate"}


# Repeatable and resumable


def trained(tmp_path=None, *, seed: int = 0, weights: int = 0, given=None, **changes) -> RecognitionNetwork:
    network = new_network(weights)
    settings = SleepSettings(
        **{
            "n_steps": 25,
            "batch_size": 2,
            "seed": seed,
            "checkpoint": None if tmp_path is None else tmp_path / "sleep.pt",
            "checkpoint_interval": 10,
        }
        | changes
    )
    network.history = sleep(network, sources(1), settings, device=CPU, given={} if given is None else given)
    return network


def assert_same(one: RecognitionNetwork, other: RecognitionNetwork) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_seed_decides_all():
    first = trained()
    assert_same(trained(), first)
    other = trained(seed=1).state_dict()
    assert not torch.equal(other["out.weight"], first.state_dict()["out.weight"])


class Killed(BaseException):
    pass


def killed_at(step: int, monkeypatch) -> None:
    """The process ends in this step."""
    of_step = phase.sleep_step

    def sleep_step(run, crops, device):
        if run.step == step:
            raise Killed
        return of_step(run, crops, device)

    monkeypatch.setattr(phase, "sleep_step", sleep_step)


def test_it_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    expected = trained()
    with monkeypatch.context() as patch:
        killed_at(17, patch)
        with pytest.raises(Killed):
            trained(tmp_path)
    steps = []
    of_step = phase.sleep_step
    monkeypatch.setattr(phase, "sleep_step", lambda run, *rest: steps.append(run.step) or of_step(run, *rest))
    resumed = trained(tmp_path, weights=5)  # the checkpoint's weights count, not these
    assert steps == list(range(10, 25))
    assert_same(resumed, expected)
    for ours, theirs in zip(resumed.history, expected.history, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    # What is finished is not done again.
    steps.clear()
    assert_same(trained(tmp_path, weights=6), expected)
    assert not steps


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_steps": 30}, "n_steps"),
        ({"batch_size": 4}, "batch_size"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"given": {"images": "others", "library": 5}}, "images"),
    ],
)
def test_a_checkpoint_of_another_sleep_phase_is_refused(tmp_path, changes, named):
    given = {"given": {"images": "these", "library": 5}}
    trained(tmp_path, **(given | {"n_steps": 10}))
    with pytest.raises(
        CheckpointError, match=f"differs in {'.*' if named != 'n_steps' else ''}{named}.*delete it"
    ):
        trained(tmp_path, **(given | {"n_steps": 10} | changes))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    trained(tmp_path, n_steps=10)
    settings = SleepSettings(n_steps=10, batch_size=2, checkpoint=tmp_path / "sleep.pt")
    wider = RecognitionNetwork(RecognitionConfig(1, DIAMETER, width=10))
    with pytest.raises(CheckpointError, match="width"):
        sleep(wider, sources(1), settings, device=CPU, given={})


def test_a_loss_that_is_not_finite_ends_it():
    pixels, labels = scene(0)
    pixels = np.full_like(pixels, np.inf)
    source = CropSource([(pixels, labels)], DIAMETER, "linear", CONFIG, size=48)
    with pytest.raises(FloatingPointError, match="not finite in step 0; check the images"):
        sleep(new_network(), [source], SleepSettings(n_steps=2, batch_size=2), device=CPU, given={})


# The loss


def loss_by_points(seen: StarMap, objectness, radii, known, diameter: float) -> tuple[float, float]:
    """Cross-entropy and error of the outlines, point by point."""
    entropy, n_known, error, weight = 0.0, 0, 0.0, 0.0
    for place in np.ndindex(objectness.shape):
        if not known[place]:
            continue
        batch, row, column = place
        prob = 1 / (1 + np.exp(-float(seen.logit[place])))
        target = float(objectness[place])
        entropy -= target * np.log(prob) + (1 - target) * np.log(1 - prob)
        n_known += 1
        for ray in range(32):
            difference = abs(
                float(seen.radii[batch, ray, row, column]) - float(radii[batch, ray, row, column])
            )
            error += target * difference / (diameter / 2)
            weight += target
    return entropy / max(n_known, 1), error / weight if weight else 0.0


def made_up(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    seen = StarMap(4 * uniform(2, 5, 6) - 2, 10 * uniform(2, 32, 5, 6))
    objectness = (uniform(2, 5, 6) - 0.4).clamp_min(0)
    return seen, objectness, 10 * uniform(2, 32, 5, 6), uniform(2, 5, 6) > 0.3


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_its_points(seed):
    seen, objectness, radii, known = made_up(seed)
    loss, row = recognition_loss(seen, objectness, radii, known, DIAMETER)
    entropy, error = loss_by_points(seen, objectness, radii, known, DIAMETER)
    assert row["objectness"] == pytest.approx(entropy, rel=1e-5)
    assert row["outlines"] == pytest.approx(error, rel=1e-5)
    assert loss.item() == row["loss"] == pytest.approx(entropy + 1.6 * error, rel=1e-5)


def test_nothing_is_asked_for_where_the_label_is_ignored():
    seen, objectness, radii, known = made_up()
    loss, _ = recognition_loss(seen, objectness, radii, known, DIAMETER)
    elsewhere = ~known
    other = StarMap(
        torch.where(elsewhere, seen.logit + 5, seen.logit),
        torch.where(elsewhere[:, None], seen.radii + 5, seen.radii),
    )
    assert recognition_loss(other, objectness, radii, known, DIAMETER)[0] == loss
    nothing = torch.zeros_like(known)
    assert recognition_loss(seen, objectness, radii, nothing, DIAMETER)[0] == 0


def test_outlines_count_only_where_there_is_an_object():
    seen, objectness, radii, known = made_up()
    background = (objectness == 0)[:, None]
    other = seen._replace(radii=torch.where(background, seen.radii + 5, seen.radii))
    loss, _ = recognition_loss(seen, objectness, radii, known, DIAMETER)
    assert recognition_loss(other, objectness, radii, known, DIAMETER)[0] == loss
