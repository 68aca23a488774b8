"""A canvas that objects are pasted on, with the label of each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label as connected_parts

from cellsegmenter.sleep.library import IGNORED, CutOut

__all__ = ["Canvas", "Piece", "Place", "fits", "paste", "place_piece", "transform", "visible_labels"]

# Areas in squares of a sixteenth of a diameter; see `cellsegmenter.sleep.units`.
_LEAST_VISIBLE = 10.0  # area; objects that show less are background
# Objects that show less than this share and less than this area are ignored.
_HARDLY_VISIBLE_SHARE, _HARDLY_VISIBLE = 0.4, 60.0


class Piece(NamedTuple):
    """A cut-out, turned and made larger or brighter."""

    signal: np.ndarray  # (C, h, w) float32 linear
    mask: np.ndarray  # (h, w) bool
    centre: np.ndarray  # (2,) mean row and column of the mask, px
    area: int  # px

    @property
    def radius(self) -> float:
        return math.sqrt(self.area / math.pi)


class Place(NamedTuple):
    """The part of a piece that a canvas shows, in both."""

    canvas: tuple[slice, slice]  # rows and columns
    piece: tuple[slice, slice]


@dataclass
class Canvas:
    """What has been pasted so far."""

    signal: np.ndarray  # (C, S, S) float32 linear, of all objects without the background
    labels: np.ndarray  # (S, S) int32
    depth: np.ndarray  # (S, S) float32 in 0..1: distance to the object's border over the largest such
    areas: list[int]  # px of the whole mask of each label; 0 for the background

    @classmethod
    def empty(cls, n_channels: int, size: int) -> Canvas:
        return cls(
            np.zeros((n_channels, size, size), np.float32),
            np.zeros((size, size), np.int32),
            np.zeros((size, size), np.float32),
            [0],
        )

    @property
    def size(self) -> int:
        return len(self.labels)

    @property
    def cover(self) -> float:
        return np.count_nonzero(self.labels) / self.labels.size


def transform(
    cut_out: CutOut, zoom: tuple[float, float], angle: float, gain: float, least_area: float
) -> Piece | None:
    """A cut-out made larger by `zoom` along rows and columns, then turned by `angle`, about its middle.

    None if less than `least_area` px is left.
    """
    shape = np.array(cut_out.mask.shape)
    cosine, sine = math.cos(angle), math.sin(angle)
    to_source = np.array([[cosine, -sine], [sine, cosine]]) / np.array(zoom)[:, None]
    side = math.ceil(math.hypot(*shape) * max(zoom)) + 2
    # An odd difference would put the middle between pixels, and blur what is not even turned.
    target = side + (side - shape) % 2
    offset = (shape - 1) / 2 - to_source @ ((target - 1) / 2)
    *signal, mask = (
        ndimage.affine_transform(plane, to_source, offset, tuple(target), order=1)
        for plane in (*cut_out.signal, cut_out.mask)
    )
    inside = mask > 0.5
    area = int(inside.sum())
    if area < max(least_area, 1):
        return None
    centre = np.array([index.mean() for index in np.nonzero(inside)])
    return Piece(gain * np.stack(signal), inside, centre, area)


def place_piece(piece: Piece, middle: np.ndarray, size: int) -> Place | None:
    """Where a piece lies whose mask has this middle, to a whole pixel; None if the canvas shows nothing of it."""
    on_canvas, on_piece = [], []
    for low, length in zip(np.round(middle - piece.centre).astype(int), piece.mask.shape, strict=True):
        start, stop = max(0, int(low)), min(size, int(low) + length)
        if start >= stop:
            return None
        on_canvas.append(slice(start, stop))
        on_piece.append(slice(start - int(low), stop - int(low)))
    return Place((on_canvas[0], on_canvas[1]), (on_piece[0], on_piece[1]))


def fits(canvas: Canvas, piece: Piece, middle: np.ndarray, overlap: float) -> bool:
    """Whether a piece would cover no object by more than `overlap` of the smaller of the two."""
    place = place_piece(piece, middle, canvas.size)
    if place is None:
        return False
    covered = canvas.labels[place.canvas][piece.mask[place.piece]]
    covered = covered[covered > 0]
    if not len(covered):
        return True
    counts = np.bincount(covered)
    met = np.flatnonzero(counts)
    smaller = np.minimum(piece.area, np.array(canvas.areas)[met])
    return bool((counts[met] <= overlap * smaller).all())


def paste(canvas: Canvas, piece: Piece, middle: np.ndarray, *, add: bool) -> None:
    """Paste a piece as the next label.

    Where intensities add up, a pixel belongs to the object in which it lies deeper.  Else it belongs to the brighter.
    """
    number = len(canvas.areas)
    canvas.areas.append(piece.area)
    place = place_piece(piece, middle, canvas.size)
    if place is None:
        return
    before, labels, depths = (
        plane[(..., *place.canvas)] for plane in (canvas.signal, canvas.labels, canvas.depth)
    )
    signal, mask = piece.signal[(..., *place.piece)], piece.mask[place.piece]
    depth = ndimage.distance_transform_edt(np.pad(piece.mask, 1))[1:-1, 1:-1]
    depth = (depth / depth.max())[place.piece]
    wins = depth > depths if add else signal.max(axis=0) > before.max(axis=0)
    wins = mask & ((labels == 0) | wins)
    # Where nothing is yet, noise below the surroundings is kept.
    before[:] = before + signal if add else np.where((before == 0) | (signal > before), signal, before)
    depths[wins] = depth[wins]
    labels[wins] = number


def visible_labels(canvas: Canvas, unit: float) -> np.ndarray:
    """The labels (S, S) int32 without what hardly shows.

    Of an object that others cut into parts, all but the largest part is ignored.
    """
    labels = canvas.labels.copy()
    parts = connected_parts(labels, background=0, connectivity=1)
    owner = np.zeros(parts.max() + 1, np.int64)
    owner[parts.ravel()] = labels.ravel()
    by_area = np.argsort(np.bincount(parts.ravel()), kind="stable")
    largest = np.zeros(len(canvas.areas), np.int64)
    largest[owner[by_area]] = by_area  # the last one stays
    loose = (owner > 0) & (largest[owner] != np.arange(len(owner)))
    labels[loose[parts]] = IGNORED

    shown = np.bincount(labels[labels > 0], minlength=len(canvas.areas))
    hardly = (shown < _HARDLY_VISIBLE_SHARE * np.array(canvas.areas)) & (shown < _HARDLY_VISIBLE * unit**2)
    fate = np.where(hardly, IGNORED, np.arange(len(canvas.areas)))
    fate[shown < _LEAST_VISIBLE * unit**2] = 0
    return np.where(labels > 0, fate[labels], labels).astype(np.int32)
