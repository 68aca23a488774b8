"""Fixtures that several test files share."""

import copy

import numpy as np
import pytest
import torch
from skimage.segmentation import relabel_sequential

from cellsegmenter import AbsoluteResolution, CellSegmenter, teaching
from cellsegmenter.datasets import load_nuclei, make_nuclei
from cellsegmenter.sleep.library import TaughtImage

# Sums over threads depend on their number; one thread is also the fastest for windows this small.
torch.set_num_threads(1)

SMALL = {
    "density": (3, 6),
    "area": (0.15, 0.25),
    "object_size": (8, 20),
    "window_size": 48,
    "latent_dim": 4,
    "network": "small",
    "stride": 24,
    "device": "cpu",
    "recognition": "windows",
    "random_state": 0,
}
# The same with a sleep phase, if there are enough objects.
SLEEPING = SMALL | {"recognition": "auto", "stride": None}


@pytest.fixture(scope="session")
def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """A corner of the built-in image, 128 × 128 uint8, with its annotation."""
    image, labels = load_nuclei()
    return image[:128, :128], labels[:128, :128]


@pytest.fixture(scope="session")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    """Twelve images (64 × 64 px) of a few bright nuclei, with their labels."""
    images, labels, *_ = make_nuclei(
        12, size=64, count=(4, 7), diameter=12, brightness=(0.5, 1), random_state=0
    )
    return images, labels


@pytest.fixture(scope="session")
def apart() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two images of 30 bright nuclei each, none of which touch, with their labels; of different shapes."""
    images, labels, *_ = make_nuclei(
        2, size=192, count=(30, 30), diameter=12.6, brightness=(0.6, 1), touching=0, random_state=0
    )
    return [images[0], images[1][:180]], [labels[0], labels[1][:180]]


@pytest.fixture
def sure(apart, monkeypatch) -> None:
    """The sleep phase of a fit to `apart` is taught what is true, and makes few composites."""
    truth = {labels.shape: relabel_sequential(labels)[0].astype(np.int32) for labels in apart[1]}

    def teach(model, pixels, settings, min_size):
        labels = truth[pixels.shape[1:]]
        return TaughtImage(pixels, labels, np.full(labels.max(), 0.95), (labels > 0).astype(np.float32))

    monkeypatch.setattr(teaching, "_teach", teach)
    monkeypatch.setattr(teaching, "_COMPOSITES", 6)


@pytest.fixture(scope="session")
def trained(scenes) -> CellSegmenter:
    """A model that finds most nuclei of `scenes`, after some seconds of training; not to be changed."""
    segmenter = CellSegmenter(
        **SMALL, n_steps=240, batch_size=8, n_samples=4, resolution=AbsoluteResolution(0.3)
    )
    return segmenter.fit(scenes[0])


@pytest.fixture
def segmenter(trained) -> CellSegmenter:
    """A copy of `trained` that a test may change."""
    return copy.deepcopy(trained)
