"""Fixtures that several test files share."""

import numpy as np
import pytest

from cellsegmenter.datasets import load_nuclei


@pytest.fixture(scope="session")
def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """A corner of the built-in image, 128 × 128 uint8, with its annotation."""
    image, labels = load_nuclei()
    return image[:128, :128], labels[:128, :128]
