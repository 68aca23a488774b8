"""A small training learns to find and count; it fails when the decoder is broken, and the bounds drive it."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import make_blobs
from cellsegmenter.metrics import mean_average_precision
from cellsegmenter.model.coders import DecodedObjects, ObjectDecoder

BLOBS = {"size": 64, "count": (1, 4), "radius": (5, 8), "max_overlap": 0.0}
SETTINGS = {
    "density": (1, 4),
    "area": (0.03, 0.15),
    "object_size": (8, 24),
    "window_size": 64,
    "max_objects": 6,
    "n_steps": 300,
    "batch_size": 8,
    "recognition": "windows",  # of the generative model alone
    "random_state": 0,
}


class Outcome(NamedTuple):
    """On images that were not trained on."""

    found: np.ndarray
    true: np.ndarray
    precision: float  # AP at IoU 0.5


def learn(**changes: object) -> Outcome:
    train, test = (make_blobs(n, **BLOBS, random_state=seed) for n, seed in ((300, 0), (60, 1)))
    segmenter = CellSegmenter(**SETTINGS | changes).fit(train.images)
    posterior = segmenter.sample_posterior(test.images, n_samples=None)
    precision = mean_average_precision(list(test.labels), list(posterior.labels[:, 0]))
    return Outcome(posterior.n_objects[:, 0], test.count, precision)


@pytest.fixture(scope="module")
def learned() -> Outcome:
    return learn()


def test_it_learns_to_find_and_to_count(learned):
    assert learned.precision > 0.5
    assert np.corrcoef(learned.found, learned.true)[0, 1] > 0.6
    assert np.abs(learned.found - learned.true).mean() < 1.2


def test_without_a_working_decoder_it_learns_nothing(monkeypatch, learned):
    def blind(self: ObjectDecoder, z_what: torch.Tensor) -> DecodedObjects:
        weight, appearance = original(self, z_what)
        return DecodedObjects(torch.full_like(weight, 0.9), torch.zeros_like(appearance))

    original = ObjectDecoder.forward
    monkeypatch.setattr(ObjectDecoder, "forward", blind)
    assert learn(n_steps=100).precision < 0.2


@pytest.mark.filterwarnings(
    "ignore::cellsegmenter.parameters.BoundsWarning"
)  # one object and that area do not fit
def test_the_bounds_drive_the_count_through_the_constraints():
    few = {"density": (0.1, 1.0), "n_steps": 180}
    constrained, free = learn(**few), learn(**few, sapr=False)
    assert constrained.found.mean() < 1.2  # what the bounds ask for, against an image that holds 2.3
    assert free.found.mean() > 1.4
