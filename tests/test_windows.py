"""Every pixel is seen equally often, and windows show what reflection padding shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import pixel_index

from cellsegmenter.windows import first_window, make_tiling, make_windows, random_crop, reflect_index


class SliceOnly:
    """An array-like that can only be sliced, and remembers how much was read."""

    def __init__(self, data):
        self.data, self.shape, self.largest_read = data, data.shape, 0

    def __getitem__(self, key):
        assert all(isinstance(part, slice) for part in key)
        part = self.data[key]
        self.largest_read = max(self.largest_read, part.size)
        return part


def read_alone(grid, image, index):
    """The windows at `index`, each read by itself."""
    first = np.array([0])
    return np.concatenate([grid.take(np.array([i])).read(image).windows(first) for i in index])


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), stride=st.integers(1, 9), times=st.integers(1, 4))
def test_every_pixel_is_visited_equally_often(height, width, stride, times):
    grid = make_windows((height, width), stride * times, stride)
    index = pixel_index(grid, np.arange(len(grid)))
    visits = np.bincount(index[index >= 0], minlength=height * width)
    assert np.all(visits == times**2)
    assert grid.n_visits == times**2


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 12), width=st.integers(1, 12), stride=st.integers(1, 5), times=st.integers(1, 4))
def test_windows_equal_numpy_reflection_padding(height, width, stride, times):
    size = stride * times
    image = np.arange(2 * height * width).reshape(2, height, width)
    grid = make_windows((height, width), size, stride)
    padded = np.pad(image, ((0, 0), (size, 2 * size), (size, 2 * size)), mode="reflect")
    every = np.arange(len(grid))
    windows = grid.read(image).windows(every)
    np.testing.assert_array_equal(windows, read_alone(grid, image, every))
    for window, (row, column) in zip(windows, grid.origin, strict=True):
        top, left = row + size, column + size
        np.testing.assert_array_equal(window, padded[:, top : top + size, left : left + size])


def test_window_content_agrees_with_pixel_index():
    image = np.random.default_rng(0).random((1, 33, 47))
    grid = make_windows((33, 47), 16, 4)
    every = np.arange(len(grid))
    index, windows = pixel_index(grid, every), grid.read(image).windows(every)
    inside = index >= 0
    np.testing.assert_array_equal(windows[:, 0][inside], image.ravel()[index[inside]])


def test_of_lazy_arrays_only_what_windows_show_is_read():
    lazy = SliceOnly(np.random.default_rng(0).random((3, 200, 200)))
    grid = make_windows((200, 200), 20, 10)
    grid.take(np.array([22, 23])).read(lazy)
    assert lazy.largest_read == 3 * 20 * 30
    lazy.largest_read = 0
    read_alone(grid, lazy, np.arange(50))
    random_crop(lazy, 20, np.random.default_rng(0))
    assert lazy.largest_read <= 3 * 20 * 20


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    stride=st.integers(1, 5),
    times=st.integers(1, 4),
    tile_size=st.integers(1, 60),
)
def test_tiles_share_out_pixels_and_whole_batches(height, width, stride, times, tile_size):
    size = stride * times
    tiling = make_tiling((height, width), size, stride, tile_size)
    counts = np.zeros((height, width), int)
    for tile in range(len(tiling)):
        top, bottom, left, right = tiling.box(tile)
        counts[top:bottom, left:right] += 1
    assert np.all(counts == 1)
    grid = make_windows((height, width), size, stride)
    owner = tiling.tile_of(grid.origin)
    for batch in grid.batches():
        assert len(np.unique(owner[batch])) == 1
    for tile in range(len(tiling)):
        top, bottom, left, right = tiling.box(tile)
        inside = np.all((grid.origin < (bottom, right)) & (grid.origin + size > (top, left)), axis=1)
        assert set(owner[inside]) <= set(tiling.sources(tile))


def test_reflection_may_exceed_the_image():
    np.testing.assert_array_equal(reflect_index(np.arange(-5, 7), 3), [1, 0, 1, 2] * 3)
    np.testing.assert_array_equal(reflect_index(np.arange(-3, 3), 1), np.zeros(6))


def test_random_crops_lie_inside_and_reach_the_corners():
    image = np.arange(30 * 20).reshape(1, 30, 20)
    rng = np.random.default_rng(0)
    crops = [random_crop(image, 18, rng) for _ in range(400)]
    assert {int(crop[0, 0, 0]) for crop in crops} >= {0, 12 * 20 + 2}
    for crop in crops[:20]:
        row, column = divmod(int(crop[0, 0, 0]), 20)
        np.testing.assert_array_equal(crop, image[:, row : row + 18, column : column + 18])


def test_the_first_window_begins_with_the_image_and_goes_on_in_reflection():
    image = np.arange(2 * 6 * 5).reshape(2, 6, 5)
    np.testing.assert_array_equal(
        first_window(image, 8), np.pad(image, [(0, 0), (0, 2), (0, 3)], mode="reflect")
    )
    np.testing.assert_array_equal(first_window(image, 4), image[:, :4, :4])


def test_random_crop_of_a_small_image_keeps_all_of_it():
    image = np.arange(12.0).reshape(1, 3, 4)
    crop = random_crop(image, 9, np.random.default_rng(1))
    assert crop.shape == (1, 9, 9)
    assert set(crop.ravel()) == set(image.ravel())


def test_errors_name_parameter_value_and_remedy():
    with pytest.raises(
        ValueError, match=r"stride=30 does not divide window_size=80.*for example stride=(20|40)"
    ):
        make_windows((100, 100), 80, 30)
    with pytest.raises(ValueError, match="image_shape"):
        make_windows((0, 10), 8, 4)
    with pytest.raises(ValueError, match="stride=0"):
        make_windows((10, 10), 8, 0)
    with pytest.raises(ValueError, match="channels first"):
        make_windows((10, 10), 8, 4).read(np.zeros((10, 10)))
