"""One label image of the label images of parts that overlap at their borders, band by band.

An object belongs to the part in whose core its centroid lies, so that it is whole on both sides of a border between
parts and, where they agree, counted once.  Where both sides claim an object, the part that comes first has it; where
they see it so differently that each has its centroid on the other's side, it is lost (6 of 5,474 on the mosaic, at a
stride of 40).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage.measure import label as connected_parts

from cellsegmenter.region import Region
from cellsegmenter.store import Image

__all__ = ["JoinedLabels"]


class JoinedLabels:
    """Takes the objects of one part after the other.

    Parameters
    ----------
    labels : Image (height, width) int32
        Zeros; what the objects are written to.
    """

    def __init__(self, labels: Image) -> None:
        self.labels = labels
        self._first: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._n_objects = 0

    def add(self, found: Image, n_found: int, core: Region, frame: Region, min_size: int) -> np.ndarray:
        """Write the objects of a part that are its own and not taken yet.

        Parameters
        ----------
        found : Image of the frame's shape
            Labels 1 .. n_found.
        n_found : int
        core, frame : Region
            px of the joined image: where the centroids of the part's objects lie, and what `found` shows.
        min_size : int
            px; of an object that loses pixels to another part at least so many have to be left.

        Returns
        -------
        (n,) int array of the labels in `found`, in the order in which they were written.
        """
        sums = self._sums(found, n_found, frame)
        own = sums.in_region(core) & (2 * sums.taken < sums.area)
        whole = np.flatnonzero(own & (sums.taken == 0))
        self._first.append(self._write(found, n_found, frame, whole))
        clipped = np.flatnonzero(own & (sums.taken > 0))
        pieces = self._free_pixels(found, n_found, frame, clipped)
        kept = [i for i, piece in zip(clipped, pieces, strict=True) if self._write_piece(piece, min_size)]
        return np.concatenate([whole, np.array(kept, np.int64)])

    def number_by_first_pixel(self) -> np.ndarray:
        """Number all objects by their first pixel, row-major, and give the (n,) positions that they were written in."""
        order = np.argsort(np.concatenate(self._first), kind="stable")
        number = np.zeros(len(order) + 1, np.int32)
        number[order + 1] = np.arange(1, len(order) + 1)
        for band in Region(0, 0, *self.labels.shape).bands():
            self.labels[band.slices] = number[self.labels[band.slices]]
        return order

    def _sums(self, found: Image, n_found: int, frame: Region) -> _Sums:
        """Of each label 0 .. n_found; of 0 nothing."""
        area, taken, row_sum, column_sum = np.zeros((4, n_found + 1))
        for band in frame.bands():
            row, column = np.nonzero(shown := found[band.within(frame).slices])
            its = shown[row, column]
            is_taken = self.labels[band.slices][row, column] > 0
            area += np.bincount(its, minlength=n_found + 1)
            taken += np.bincount(its[is_taken], minlength=n_found + 1)
            row_sum += np.bincount(its, weights=row + band.row, minlength=n_found + 1)
            column_sum += np.bincount(its, weights=column + band.column, minlength=n_found + 1)
        return _Sums(area, taken, np.stack([row_sum, column_sum], axis=1))

    def _write(self, found: Image, n_found: int, frame: Region, chosen: np.ndarray) -> np.ndarray:
        """Write some labels (n,) of a part where nothing is yet; gives the flat index of the first pixel of each."""
        number = np.zeros(n_found + 1, np.int32)
        number[chosen] = self._n_objects + 1 + np.arange(len(chosen))
        first = np.full(len(chosen), np.iinfo(np.int64).max)
        for band in frame.bands():
            written = number[found[band.within(frame).slices]]
            self.labels[band.slices] += written
            row, column = np.nonzero(written)
            flat = (row + band.row) * np.int64(self.labels.shape[1]) + column + band.column
            its, index = np.unique(written[row, column], return_index=True)
            first[its - self._n_objects - 1] = np.minimum(first[its - self._n_objects - 1], flat[index])
        self._n_objects += len(chosen)
        return first

    def _free_pixels(self, found: Image, n_found: int, frame: Region, chosen: np.ndarray) -> list[np.ndarray]:
        """For each of some labels (n,) of a part the (m, 2) row and column of its pixels where nothing is yet."""
        place = np.full(n_found + 1, -1)
        place[chosen] = np.arange(len(chosen))
        parts = [np.zeros((0, 3), np.int64)]
        for band in frame.bands() if len(chosen) else ():
            its = place[found[band.within(frame).slices]]
            row, column = np.nonzero((its >= 0) & (self.labels[band.slices] == 0))
            parts.append(np.stack([its[row, column], row + band.row, column + band.column], axis=1))
        pixels = np.concatenate(parts)
        return [pixels[pixels[:, 0] == i, 1:] for i in range(len(chosen))]

    def _write_piece(self, pixel: np.ndarray, min_size: int) -> bool:
        """Write the largest connected piece of an object's pixels (m, 2), if it is large enough."""
        corner, end = pixel.min(0), pixel.max(0) + 1
        place = Region(*corner.tolist(), *(end - corner).tolist())
        canvas = np.zeros(place.shape, bool)
        canvas[tuple((pixel - corner).T)] = True
        pieces = connected_parts(canvas, connectivity=2)
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        if largest.sum() < min_size:
            return False
        self._n_objects += 1
        self.labels[place.slices] = np.where(largest, self._n_objects, self.labels[place.slices])
        row, column = np.argwhere(largest)[0] + corner
        self._first.append(np.array([row * self.labels.shape[1] + column]))
        return True


class _Sums(NamedTuple):
    """Of each label of a part: its pixels, those that another part has taken, and the sum of all positions."""

    area: np.ndarray  # (n + 1,)
    taken: np.ndarray  # (n + 1,)
    position: np.ndarray  # (n + 1, 2) row and column, px of the joined image

    def in_region(self, region: Region) -> np.ndarray:
        """(n + 1,) whether the centroid lies there; never of a label without pixels."""
        centroid = self.position / np.maximum(self.area, 1)[:, None]
        inside = (centroid >= region.corner) & (centroid < region.corner + region.shape)
        return inside.all(1) & (self.area > 0)
