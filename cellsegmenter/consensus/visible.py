"""What posterior samples show of their shapes, and how objects compare with it.

In a sample each cell belongs to one of the shapes that are on, or to the background.  The cells that a shape gets are
its *visible part*.  Most samples show the same visible parts, so each is kept once, with the samples that show it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import xlogy

__all__ = ["Visible", "agreement_with_samples", "code_shape", "match_share", "merge_alike", "visible_parts"]

_SAMPLES_AT_ONCE = 8


class Visible(NamedTuple):
    """The distinct visible parts of all shapes in all samples."""

    cells: sparse.csr_array  # (n_visible, n_cells) int64: 1 where a cell belongs to a visible part
    shape: np.ndarray  # (n_visible,) int64: whose part it is
    samples: sparse.csr_array  # (S, n_visible) int64: 1 where a sample shows it

    @property
    def n_samples(self) -> int:
        return int(self.samples.shape[0])

    @property
    def times(self) -> np.ndarray:
        """(n_visible,) int64: how many samples show each."""
        return self.samples.sum(axis=0)


def visible_parts(covering: sparse.csr_array, rank: np.ndarray, present: np.ndarray) -> Visible:
    """The visible parts of shapes.

    Parameters
    ----------
    covering : (n_cells, n) sparse array
        The shapes that cover each cell.
    rank : (n,) int array
        Of the shapes that are on, the one of the lowest rank has the cell; of equal ranks, the first.
    present : (n, S) bool array
        Which shapes are on in each sample.
    """
    n_cells, n = covering.shape
    cell = np.repeat(np.arange(n_cells), np.diff(covering.indptr))
    order = np.lexsort((covering.indices, rank[covering.indices], cell))
    shape = covering.indices[order].astype(np.int64)
    start = covering.indptr[:-1].astype(np.int64)
    is_on = np.ascontiguousarray(present.T)
    n_samples = len(is_on)

    def owned(sample: int) -> np.ndarray:
        """The entries of `cell` and `shape` that hold in a sample."""
        place = np.where(is_on[sample][shape], np.arange(len(shape)), len(shape))
        first = np.minimum.reduceat(place, start) if len(start) else place
        return first[first < len(shape)]

    # A visible part is known by the sum of its keys.
    rng = np.random.default_rng(0)
    cell_key = rng.integers(1, 2**64, n_cells, dtype=np.uint64)
    shape_key = rng.integers(1, 2**64, n, dtype=np.uint64)
    total = np.zeros((n_samples, n), np.uint64)
    for sample in range(n_samples):
        entries = owned(sample)
        np.add.at(total[sample], shape[entries], cell_key[cell[entries]])
    sample_of, shape_of = np.nonzero(total)
    sums = total[sample_of, shape_of] + shape_key[shape_of]
    _, shown_first, number = np.unique(sums, return_index=True, return_inverse=True)
    n_visible = len(shown_first)

    number_of = np.full((n_samples, n), -1)
    number_of[sample_of, shape_of] = number
    first_sample = sample_of[shown_first]
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for sample in range(n_samples):
        entries = owned(sample)
        visible = number_of[sample, shape[entries]]
        new = first_sample[visible] == sample
        rows.append(visible[new])
        columns.append(cell[entries[new]])
    return Visible(
        _ones(np.concatenate(rows), np.concatenate(columns), (n_visible, n_cells)),
        shape_of[shown_first],
        _ones(sample_of, number, (n_samples, n_visible)),
    )


def merge_alike(visible: Visible) -> tuple[Visible, np.ndarray]:
    """Make one cell of those that belong to the same shape in every sample.

    A shape that is on in every sample hides the shapes under it, and then most of its cells are alike.

    Returns
    -------
    Visible
        Of the merged cells.
    number : (n_cells,) int array
        The merged cell that each cell is in; merged cells are in the order of their first.
    """
    # Such cells lie in the same visible parts.
    key = np.random.default_rng(0).integers(1, 2**64, len(visible.shape), dtype=np.uint64)
    total = visible.cells.T.astype(np.uint64) @ key
    _, first, number = np.unique(total, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return visible._replace(cells=visible.cells[:, first[order]]), np.argsort(order)[number]


def match_share(
    visible: Visible, cell_size: np.ndarray, objects: sparse.csr_array, presence_prob: np.ndarray
) -> np.ndarray:
    """(n_objects,) share of samples with a visible part whose IoU with the object exceeds a half.

    Parameters
    ----------
    visible : Visible
    cell_size : (n_cells,) int array
        px.
    objects : (n_cells, n_objects) sparse int array
        Pixels of each cell in each object.
    presence_prob : (n,) array
        How probably each shape is on.  Where samples show it in several visible parts, they share it.
    """
    common = sparse.coo_array(visible.cells @ objects)
    part, number = common.coords
    shown = np.bincount(visible.shape, weights=visible.times, minlength=len(presence_prob))
    share = visible.times * (presence_prob / np.maximum(shown, 1))[visible.shape]
    part_size, object_size = visible.cells @ cell_size, objects.sum(axis=0)
    matches = 3 * common.data > part_size[part] + object_size[number]  # 2 I > union, in whole numbers
    # The visible parts of one sample are disjoint, so no more than one of them matches.
    hits = np.bincount(number[matches], weights=share[part[matches]], minlength=objects.shape[1])
    return np.minimum(hits, 1.0)


def code_shape(visible: Visible, objects: sparse.csr_array) -> np.ndarray:
    """(n_objects,) int64: the shape that has most of the object's pixels over all samples, of equals the first.

    Parameters are those of `match_share`.  Every object has a pixel that some sample covers.
    """
    common = sparse.coo_array(visible.cells @ objects)
    part, number = common.coords
    shape = visible.shape[part]
    pixels = sparse.coo_array(
        sparse.csr_array(
            (common.data * visible.times[part], (number, shape)),
            shape=(objects.shape[1], int(shape.max(initial=-1)) + 1),
        )
    )
    number, shape = pixels.coords
    order = np.lexsort((shape, -pixels.data, number))
    first = np.flatnonzero(np.diff(number[order], prepend=-1))
    return shape[order[first]]


def agreement_with_samples(
    visible: Visible,
    cell_size: np.ndarray,
    labels: sparse.csr_array,
    label_size: np.ndarray,
) -> float:
    """Σ 2 I(labels, sample) / Σ (H(labels) + H(sample)) over the samples; as in `SampleAgreement`.

    Parameters
    ----------
    visible : Visible
    cell_size : (n_cells,) int array
        px.
    labels : (n_cells, n_labels) sparse int array
        Pixels of each cell with each label; label 0 is background, which counts as a class.
    label_size : (n_labels,) int array
        Pixels with each label, covered or not.
    """
    times, n_samples, n_pixels = visible.times, visible.n_samples, int(label_size.sum())
    common = sparse.csr_array(visible.cells @ labels)
    common.sort_indices()
    part_size = visible.cells @ cell_size
    # Entropies times the number of pixels, N log N - Σ n log n, summed over samples.
    whole = n_samples * float(xlogy(n_pixels, n_pixels))
    of_labels = whole - n_samples * _xlogx(label_size)
    of_samples = whole - _xlogx(part_size, times) - _xlogx(n_pixels - visible.samples @ part_size)
    rows = np.repeat(np.arange(common.shape[0]), np.diff(common.indptr))
    jointly = whole - _xlogx(common.data, times[rows])
    for first in range(0, n_samples, _SAMPLES_AT_ONCE):
        covered = visible.samples[first : first + _SAMPLES_AT_ONCE] @ common
        jointly -= _xlogx(label_size - covered.toarray())
    both = of_labels + of_samples
    # Labels and samples without any object agree.
    return 2 * (both - jointly) / both if both > 1e-6 else 1.0


def _xlogx(values: np.ndarray, weights: float | np.ndarray = 1) -> float:
    """Σ w n log n."""
    return float(np.sum(weights * xlogy(values, values)))


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row), np.int64), (row, column)), shape=shape)
