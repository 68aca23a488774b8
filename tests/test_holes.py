"""Dark holes in objects are filled; gaps between objects are left."""

import numpy as np
import pytest
from scipy.ndimage import grey_closing

from cellsegmenter.holes import _lines, fill_holes, hole_length


def discs(*centres, radius=12, shape=(64, 64)):
    row, column = np.mgrid[: shape[0], : shape[1]]
    inside = [np.hypot(row - y, column - x) <= radius for y, x in centres]
    return np.any(inside, axis=0)[None].astype(np.float32)


def test_it_is_the_least_of_the_closings_along_eight_lines():
    image = np.random.default_rng(0).random((2, 40, 33)).astype(np.float32)
    footprints = []
    for line in _lines(7):
        footprint = np.zeros((7, 7), bool)
        footprint[tuple(np.array(line).T + 3)] = True
        footprints.append(footprint)
    assert len(footprints) == 8
    slow = [np.min([grey_closing(plane, footprint=one) for one in footprints], axis=0) for plane in image]
    # At the edge a filter mirrors what it has found there, and the line with it.
    inner = np.s_[:, 6:-6, 6:-6]
    np.testing.assert_array_equal(fill_holes(image, 7)[inner], np.stack(slow)[inner])


def test_a_hole_is_filled_and_nothing_else_changes():
    image = discs((32, 32))
    holed = image - 0.8 * discs((30, 34), radius=2.5)
    np.testing.assert_array_equal(fill_holes(holed, 7), image)


@pytest.mark.parametrize("angle", np.pi * np.arange(8) / 8)
def test_a_gap_between_two_discs_stays_in_every_direction(angle):
    apart = 13.5 * np.array([np.sin(angle), np.cos(angle)])  # a gap of 3 px between discs of 12 px radius
    image = discs(32 + apart, 32 - apart)
    assert fill_holes(image, 7)[0, 32, 32] == 0


def test_a_part_is_filled_as_the_whole():
    image = np.random.default_rng(1).random((1, 60, 60)).astype(np.float32)
    part = fill_holes(image[:, 10:50, 10:50], 7)
    np.testing.assert_array_equal(part[:, 7:-7, 7:-7], fill_holes(image, 7)[:, 17:43, 17:43])


def test_the_length_grows_with_the_objects():
    assert [hole_length(diameter) for diameter in (2, 16, 32)] == [1, 7, 13]
    image = discs((32, 32))
    assert fill_holes(image, 1) is image
