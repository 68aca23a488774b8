"""Which form of mask is chosen by the look of the objects."""

import numpy as np
import pytest
from skimage.draw import line

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import make_blobs, make_multi_mnist, make_nuclei
from cellsegmenter.shape import choose_shape


def rods(random_state: int) -> np.ndarray:
    """(1, 120, 120): straight rods, six times as long as wide."""
    random, image = np.random.default_rng(random_state), np.zeros((1, 120, 120), np.float32)
    for row, column in [(20, 20), (20, 70), (60, 20), (60, 70), (95, 30)]:
        dy, dx = random.integers(-10, 10), 24
        for shift in range(5):
            image[0][line(row + shift, column, row + dy + shift, column + dx)] = 1
    return image


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (make_nuclei(4, random_state=0).images[:, None], "blob"),
        (make_blobs(20, random_state=0).images[:, None], "blob"),
        (make_blobs(20, max_overlap=0.6, random_state=0).images[:, None], "blob"),
        (make_multi_mnist(40, background="black", random_state=0).images[:, None], "free"),
        (make_multi_mnist(40, background="grid", random_state=0).images[:, None], "free"),
        ([rods(seed) for seed in range(5)], "free"),
        (np.zeros((2, 1, 64, 64)), "free"),
    ],
    ids=["nuclei", "blobs", "overlapping blobs", "digits", "digits on a grid", "rods", "nothing"],
)
def test_convex_objects_are_blobs_and_others_are_free(images, expected):
    assert choose_shape(images) == expected


@pytest.mark.parametrize(("shape", "expected"), [("auto", "blob"), ("free", "free"), ("blob", "blob")])
def test_fit_takes_the_form_that_suits_unless_told(capsys, shape, expected):
    images = make_nuclei(3, size=96, count=(4, 8), random_state=0).images
    segmenter = CellSegmenter(shape=shape, n_steps=2, random_state=0, verbose=True).fit(images)
    assert segmenter.model_.config.shape == expected
    assert ('shape="blob"' in capsys.readouterr().out) == (shape == "auto")


def test_a_model_that_goes_on_keeps_its_form():
    segmenter = CellSegmenter(shape="free", n_steps=2, random_state=0)
    images = make_nuclei(3, size=96, count=(4, 8), random_state=0).images
    segmenter.fit(images).set_params(shape="auto", warm_start=True).fit(images)
    assert segmenter.model_.config.shape == "free"


def test_an_unknown_form_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"shape='round'.*'blob'"):
        CellSegmenter(shape="round").fit(np.zeros((2, 96, 96)))
