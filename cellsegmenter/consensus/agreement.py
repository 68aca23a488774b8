"""How well a consensus agrees with the single posterior samples it was made from (S9, automatic mode).

The paper maximises the mutual information between the two.  Plain mutual information never decreases as the
segmentation gets finer, so its maximum is always the finest cut; normalised by the mean of the two entropies
(NMI), and with objects below the minimum size dropped, it peaks where the simulated truth does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.special import xlogy

from cellsegmenter.types import CERTAIN, Instances

__all__ = ["SampleAgreement", "hard_assignment"]


def hard_assignment(membership: sparse.csc_array, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segmentation of single posterior samples: m* = argmax over k = 0..K of π_k (Sec. 4).

    Parameters
    ----------
    membership : (n_pixels, n) sparse csc array, Π in 255ths
    group : (n,) int array
        Instances of equal group come from the same window and sample, and compete for pixels.

    Returns
    -------
    pixel, instance : two (m,) arrays
        The pixels that go to an instance, in each group; the rest of the window is background.  Of equals
        the first wins; background, π_0 = 1 - Σ π_k, wins when equal.
    """
    instance = np.repeat(np.arange(membership.shape[1]), np.diff(membership.indptr))
    key = group[instance].astype(np.int64) * membership.shape[0] + membership.indices
    value = membership.data.astype(np.int32)
    order = np.lexsort((-value, key))  # the most probable instance first
    key, value = key[order], value[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    background = CERTAIN - np.add.reduceat(value, first) if len(first) else value
    winner = order[first[value[first] > background]]
    return membership.indices[winner], instance[winner]


class SampleAgreement:
    """Mean NMI of a label image with the posterior samples of some windows; prepared once, asked often.

    Parameters
    ----------
    instances : Instances
    windows : (n_windows,) int array
        The windows to compare in; each with all of its samples.
    """

    def __init__(self, instances: Instances, windows: np.ndarray) -> None:
        height, width = instances.image_shape
        n_groups = len(windows) * instances.n_samples
        place = np.full(len(instances.window_origin), -1, dtype=np.int64)
        place[windows] = np.arange(len(windows))
        used = np.flatnonzero(place[instances.window] >= 0)
        group = place[instances.window[used]] * instances.n_samples + instances.sample[used]
        self._pixel, self._instance = hard_assignment(instances.membership[:, used], group)
        self._groups = _indicator(group, np.arange(len(used)), (n_groups, len(used)))
        # The pixels of every window, background included, within the image.
        origin = instances.window_origin[windows]
        low = np.maximum(origin, 0)
        high = np.minimum(origin + instances.window_size, (height, width))
        shown = [
            (np.arange(r0, r1)[:, None] * width + np.arange(c0, c1)).ravel()
            for (r0, c0), (r1, c1) in zip(low, high, strict=True)
        ]
        self._shown = np.concatenate([*shown, np.zeros(0, np.int64)])
        self._window = np.repeat(np.arange(len(windows)), [len(pixels) for pixels in shown])
        self._spread = _indicator(
            np.arange(n_groups), np.arange(n_groups) // instances.n_samples, (n_groups, len(windows))
        )
        self._n_pixels = np.repeat([len(pixels) for pixels in shown], instances.n_samples)

    def __call__(self, labels: np.ndarray) -> float:
        """Σ 2 I(labels, sample) / Σ (H(labels) + H(sample)) over windows and samples, weighted by pixels.

        That is the mean NMI with weights (H + H), and not the plain mean: a window that shows nothing but a
        few pixels of a rim has NMI 0 or 1 by their mere presence, and enough of those windows make the
        plain mean peak where the rims, and then the small cells, are gone (measured on simulated discs).

        Parameters
        ----------
        labels : (height, width) int array
            0 is background, which counts as a class.
        """
        flat = labels.ravel()
        n_labels = int(flat.max()) + 1
        n_instances = self._groups.shape[1]
        window_by_label = _indicator(self._window, flat[self._shown], (self._spread.shape[1], n_labels))
        group_by_label = self._spread @ window_by_label
        instance_by_label = _indicator(self._instance, flat[self._pixel], (n_instances, n_labels))
        background_by_label = group_by_label - self._groups @ instance_by_label
        instance_size = sparse.csr_array(instance_by_label.sum(axis=1)[:, None])
        background_size = sparse.csr_array(background_by_label.sum(axis=1)[:, None])

        # Entropies times the number of pixels: N log N - Σ n log n.
        whole = xlogy(self._n_pixels, self._n_pixels)
        of_labels = whole - _sum_xlogx(group_by_label)
        of_sample = whole - self._groups @ _sum_xlogx(instance_size) - _sum_xlogx(background_size)
        jointly = whole - self._groups @ _sum_xlogx(instance_by_label) - _sum_xlogx(background_by_label)
        # Rounded once, whatever the order of the windows, which is that of the tiles.
        both = math.fsum(of_labels + of_sample)
        # Labels and samples without any object agree.
        return 2 * math.fsum(of_labels + of_sample - jointly) / both if both > 1e-9 else 1.0


def _indicator(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """Counts of the pairs (row, column)."""
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=shape)


def _sum_xlogx(counts: sparse.csr_array) -> np.ndarray:
    """Σ n log n over each row."""
    terms = sparse.csr_array((xlogy(counts.data, counts.data), counts.indices, counts.indptr), counts.shape)
    return terms.sum(axis=1)
