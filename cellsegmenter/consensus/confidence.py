"""How sure an object is: in how many looks, and how exactly, it was seen.

A visit v is a window and one of its posterior samples.  Of an object C the window sees the part C_v, often not all.
With M_Ci = Σ_{p in C} Π_pi the mass of C in instance i, and A_i = Σ_p Π_pi all of that instance's,

    confidence(C) = Σ_v |C_v| max_{i in v} IoU_i(C_v) / Σ_v |C_v|,     IoU_i(C_v) = M_Ci / (|C_v| + A_i - M_Ci).

It takes a random pixel of the object and a random visit to it, and asks how well the best of the visit's instances
coincides with what the visit can see of the object; 0 where it drew nothing there.  So

* it is 1 if and only if every visit draws all it sees of the object as one instance, and nothing else with it;
* a merger (A_i large) and a split (M_Ci small) count against the object.  Mean co-membership over pairs of its own
  pixels does not notice a merger, as it never looks beyond them;
* a window that cuts the object is not held against it: it is compared with the part that it shows.  As slivers say
  little, a window counts by the share of the object that it sees.  Each pixel has the same number of visits, so that
  Σ_v |C_v| = |C| visits, and no window needs to be left out by a threshold.

It was chosen among ten definitions by how well it ranks right objects above wrong ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.edges import Visits
from cellsegmenter.types import CERTAIN

__all__ = ["Drawn", "mean_best_iou", "visible_sizes", "window_numbers"]


class Drawn(NamedTuple):
    """Who drew each of m instances, and how large."""

    window: np.ndarray  # (m,) int64, see `window_numbers`
    sample: np.ndarray  # (m,) int: posterior sample
    mass: np.ndarray  # (m,) int64: A_i, in 255ths of a pixel


def window_numbers(corner: np.ndarray, visits: Visits, image_shape: tuple[int, int]) -> np.ndarray:
    """(n,) int64 numbers of the windows at some corners (n, 2), row and column in px, that no tiling changes."""
    first, lattice = _lattice(visits, image_shape)
    return np.ravel_multi_index(tuple((visits.cell(corner) - first).T), lattice)


def visible_sizes(
    label: np.ndarray, position: np.ndarray, n: int, visits: Visits, image_shape: tuple[int, int]
) -> sparse.csr_array:
    """(n, windows) int64 |C_v|: how many pixels of each of n objects each window sees.

    Parameters
    ----------
    label : (pixels,) int array
        0 .. n - 1, the object that each pixel belongs to.
    position : (pixels, 2) int array
        Row and column in the image, px.
    n : int
    visits : Visits
    image_shape : (height, width) in px
    """
    first, lattice = _lattice(visits, image_shape)
    shape = (n, lattice[0] * lattice[1])
    cell = np.ravel_multi_index(tuple((visits.cell(position) - first).T), lattice)
    # Cell by cell, as the same windows see all of a cell: they begin there or up to `per_axis` cells before.
    in_cell = sparse.coo_array(sparse.csr_array((np.ones(len(cell), np.int64), (label, cell)), shape=shape))
    back = np.arange(visits.per_axis)
    back = (back[:, None] * lattice[1] + back).ravel()
    row, column = in_cell.coords
    seen_by = (np.repeat(row, len(back)), (column[:, None] - back).ravel())
    return sparse.csr_array((np.repeat(in_cell.data, len(back)), seen_by), shape=shape)


def mean_best_iou(
    mass: sparse.csr_array, visible: sparse.csr_array, drawn: Drawn, n_samples: int
) -> np.ndarray:
    """(n,) float confidence of each object, see the top of this file.

    Parameters
    ----------
    mass : (n, m) sparse array
        M_Ci in 255ths of a pixel.
    visible : (n, windows) sparse int array
        |C_v|, in rows sorted by window; so that sums do not depend on how instances are numbered, that is on tiles.
    drawn : Drawn
    n_samples : int
        Posterior samples of each window.
    """
    seen, entries = visible.tocoo(), mass.tocoo()
    row, column = entries.coords
    n_windows = np.int64(visible.shape[1])
    place = np.searchsorted(
        seen.coords[0] * n_windows + seen.coords[1], row * n_windows + drawn.window[column]
    )
    overlap = entries.data
    iou = overlap / (CERTAIN * seen.data[place] + drawn.mass[column] - overlap)
    best = np.zeros(len(seen.data) * n_samples)
    np.maximum.at(best, place * n_samples + drawn.sample[column], iou)
    of_window = best.reshape(-1, n_samples).sum(axis=1)
    agreed = np.bincount(seen.coords[0], weights=seen.data * of_window, minlength=visible.shape[0])
    return agreed / (n_samples * visible.sum(axis=1))


def _lattice(visits: Visits, image_shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The cell that the first window begins in, and in how many cells along each axis windows that see the image do."""
    first, last = visits.cell(np.array([(0, 0), np.subtract(image_shape, 1)]))
    first = first - visits.per_axis + 1
    rows, columns = (last - first + 1).tolist()
    return first, (rows, columns)
