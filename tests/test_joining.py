"""Label images of overlapping parts in one, held against whole arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as connected_parts

from cellsegmenter.joining import JoinedLabels
from cellsegmenter.region import Region
from cellsegmenter.store import FolderStore

HEIGHT, WIDTH, BORDER = 40, 44, 21
CORES = [Region(0, 0, HEIGHT, BORDER), Region(0, BORDER, HEIGHT, WIDTH - BORDER)]


def parts_of(random: np.random.Generator) -> list[tuple[np.ndarray, Region, Region]]:
    """Labels, core and frame of two parts that see much the same, each on its own."""
    blots = ndimage.gaussian_filter(random.random((HEIGHT, WIDTH)), 1.5)
    parts = []
    for core in CORES:
        frame = core.grown(6).common(Region(0, 0, HEIGHT, WIDTH))
        seen = blots + 0.3 * ndimage.gaussian_filter(random.random(blots.shape), 1.5)
        objects = connected_parts(seen > np.quantile(seen, 0.6))
        parts.append((connected_parts(objects[frame.slices], connectivity=2), core, frame))
    return parts


def joined_from_whole_arrays(
    parts: list[tuple[np.ndarray, Region, Region]], min_size: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The joined labels, and the part and the label there of each object."""
    labels = np.zeros((HEIGHT, WIDTH), int)
    origin: list[tuple[int, int]] = []
    for number, (found, core, frame) in enumerate(parts):
        before, clipped = labels.copy(), []
        for i in range(1, found.max() + 1):
            own = np.zeros(labels.shape, bool)
            own[frame.slices] = found == i
            row, column = ndimage.center_of_mass(own)
            here = (
                core.row <= row < core.row + core.height and core.column <= column < core.column + core.width
            )
            left = own & (before == 0)
            if not here or 2 * left.sum() <= own.sum():
                continue
            if left.sum() < own.sum():
                clipped.append((i, left))
                continue
            origin.append((number, i))
            labels[own] = len(origin)
        for i, left in clipped:
            pieces, _ = ndimage.label(left, np.ones((3, 3)))
            largest = pieces == np.bincount(pieces[left]).argmax()
            if largest.sum() >= min_size:
                origin.append((number, i))
                labels[largest] = len(origin)
    first = [np.flatnonzero(labels == k + 1)[0] for k in range(len(origin))]
    order = np.argsort(first)
    numbered = np.zeros_like(labels)
    for new, old in enumerate(order):
        numbered[labels == old + 1] = new + 1
    return numbered, [origin[i] for i in order]


def join(
    labels, parts: list[tuple[np.ndarray, Region, Region]], min_size: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    joined = JoinedLabels(labels)
    origin = [
        (number, int(i))
        for number, (found, core, frame) in enumerate(parts)
        for i in joined.add(found, int(found.max()), core, frame, min_size)
    ]
    order = joined.number_by_first_pixel()
    return np.asarray(joined.labels), [origin[i] for i in order]


@given(seed=st.integers(0, 10**6), min_size=st.integers(1, 40))
def test_band_by_band_is_as_whole(seed, min_size):
    parts = parts_of(np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellsegmenter.region._BAND", 7)
        labels, origin = join(np.zeros((HEIGHT, WIDTH), np.int32), parts, min_size)
    expected, expected_origin = joined_from_whole_arrays(parts, min_size)
    np.testing.assert_array_equal(labels, expected)
    assert origin == expected_origin


def test_every_object_is_one_piece_of_the_least_size():
    n_clipped = 0
    for seed in range(40):
        parts = parts_of(np.random.default_rng(seed))
        labels, origin = join(np.zeros((HEIGHT, WIDTH), np.int32), parts, 12)
        for k, (number, i) in enumerate(origin, start=1):
            assert ndimage.label(labels == k, np.ones((3, 3)))[1] == 1
            before, after = (parts[number][0] == i).sum(), (labels == k).sum()
            n_clipped += after < before
            assert after == before or after >= 12
    assert n_clipped > 5


def test_on_disk_is_as_in_memory(tmp_path):
    parts = parts_of(np.random.default_rng(0))
    on_disk = FolderStore(tmp_path / "work", {}).new_image("labels", (HEIGHT, WIDTH), np.int32)
    labels, _ = join(on_disk, parts, 5)
    np.testing.assert_array_equal(labels, join(np.zeros((HEIGHT, WIDTH), np.int32), parts, 5)[0])


def test_parts_without_objects():
    nothing = np.zeros(CORES[0].shape, np.int32)
    joined = JoinedLabels(np.zeros((HEIGHT, WIDTH), np.int32))
    assert len(joined.add(nothing, 0, CORES[0], CORES[0], 1)) == 0
    assert len(joined.number_by_first_pixel()) == 0
    assert joined.labels.max() == 0
