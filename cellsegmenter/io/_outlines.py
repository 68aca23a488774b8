"""Outlines of labelled objects as polygons along the pixels' edges.

The pixel in row r and column c covers x from c to c + 1 and y from r to r + 1, so that (0, 0) is the image's
corner, as in QuPath and ImageJ, and a polygon holds exactly the centres of its object's pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

__all__ = ["Outline", "object_outlines"]

# Steps along the edges of pixels as (x, y), each a quarter turn clockwise (y points down) from the one before.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


class Outline(NamedTuple):
    """One object; it has several polygons if its parts touch at corners only."""

    label: int
    polygons: list[
        list[np.ndarray]
    ]  # of each polygon its outer ring, then its holes; rings (n, 2) int of (x, y)


def object_outlines(labels: np.ndarray) -> Iterator[Outline]:
    """The outline of every object, in the order of the labels.

    Parameters
    ----------
    labels : ndarray (H, W) of int
        0 background.

    Yields
    ------
    Outline
        Rings are simple (no corner twice) and not closed; outer rings run clockwise on the screen, holes the
        other way.  Polygons are valid in the sense of OGC.
    """
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            rows, columns = box
            polygons = _polygons(labels[box] == label)
            corner = np.array([columns.start, rows.start])
            yield Outline(label, [[ring + corner for ring in rings] for rings in polygons])


def _polygons(mask: np.ndarray) -> list[list[np.ndarray]]:
    """A polygon, its outer ring first, for each part of a mask that hangs together by pixels' edges."""
    parts, n_parts = ndimage.label(mask)
    outer: list[np.ndarray | None] = [None] * n_parts
    holes: list[list[np.ndarray]] = [[] for _ in range(n_parts)]
    for part, ring in _rings(mask, parts):
        x, y = ring[:, 0], ring[:, 1]
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0:
            outer[part] = ring
        else:
            holes[part].append(ring)
    return [[ring, *inner] for ring, inner in zip(outer, holes, strict=True) if ring is not None]


def _rings(mask: np.ndarray, parts: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(part of the mask, ring) for all boundaries, walked with the object on the right.

    Where pixels touch at a corner only, the walk turns right, that is it stays with its pixel.  A walk that
    comes to a corner for a second time has closed a ring there, which is cut off: so each part has one outer
    ring, and holes that touch it do so in a point.
    """
    width = mask.shape[1] + 1  # corners of pixels are numbered row by row
    leaving = _edges_that_leave(mask)
    moves = [dx + dy * width for dx, dy in STEPS]
    todo = np.flatnonzero(leaving & 1)  # every boundary has an edge that runs to the right
    leaving_list, done = leaving.tolist(), set()
    for start in todo.tolist():
        if start in done:
            continue
        part = int(parts[start // width, start % width]) - 1
        path, place = [start], {start: 0}
        corner, direction = start, 0
        while True:
            if direction == 0:
                done.add(corner)
            corner += moves[direction]
            out = leaving_list[corner]
            turned = next(d % 4 for d in (direction + 1, direction, direction + 3) if out >> d % 4 & 1)
            if turned != direction:
                if corner in place:
                    ring = path[place[corner] :]
                    yield part, np.array([(at % width, at // width) for at in ring])
                    for at in ring[1:]:
                        del place[at]
                    del path[place[corner] + 1 :]
                else:
                    place[corner] = len(path)
                    path.append(corner)
            direction = turned
            if corner == start and direction == 0:
                break


def _edges_that_leave(mask: np.ndarray) -> np.ndarray:
    """For each corner of pixels, flat, the directions of the boundary's edges from it: bit d for STEPS[d]."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    leaving = np.zeros((height + 1, width + 1), np.uint8)
    leaving[:-1, :-1] |= np.where(inside & ~padded[:-2, 1:-1], 1, 0).astype(np.uint8)  # above the pixel
    leaving[:-1, 1:] |= np.where(inside & ~padded[1:-1, 2:], 2, 0).astype(np.uint8)  # right of it
    leaving[1:, 1:] |= np.where(inside & ~padded[2:, 1:-1], 4, 0).astype(np.uint8)  # below it
    leaving[1:, :-1] |= np.where(inside & ~padded[1:-1, :-2], 8, 0).astype(np.uint8)  # left of it
    return leaving.ravel()
