"""Fixtures that several test files share."""

import copy

import numpy as np
import pytest
import torch

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import load_nuclei, make_nuclei

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
    "random_state": 0,
}


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
