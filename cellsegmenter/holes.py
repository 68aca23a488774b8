"""Dark holes in objects, such as nucleoli, at which a network would part them.

A closing along a line fills what is dark and shorter than the line, if it is bright on both sides.  A hole is so in
every direction; a gap between two objects is not along the gap.  So the least of the closings along eight directions
fills holes and leaves gaps.

57 training images of nuclei, lines of 7 px at a working diameter of 16 px, AP@0.5: .853 without, .853 with it (.835
with lines of 9 px).  Made nuclei with three dark nucleoli each, SNR 2: .47 and .88.
"""

from __future__ import annotations

import numpy as np

__all__ = ["fill_holes", "hole_length"]

_LENGTH = 7 / 16  # of a line, in diameters of an object
_DIRECTIONS = 8


def hole_length(diameter: float) -> int:
    """px, odd, of the lines that suit objects of a diameter; 1 fills nothing."""
    return 2 * round((_LENGTH * diameter - 1) / 2) + 1


def fill_holes(image: np.ndarray, length: int) -> np.ndarray:
    """An image (C, H, W) whose dark holes of less than `length` px are filled; pixels as far away decide.

    A closing is the least of the greatest along a line; of shifted images, which is faster than a filter.
    """
    if length < 3:
        return image
    reach = length // 2
    padded = np.pad(image, [(0, 0), (2 * reach, 2 * reach), (2 * reach, 2 * reach)], mode="symmetric")
    filled = np.full_like(image, np.inf)
    for line in _lines(length):
        closed = _along(np.minimum, _along(np.maximum, padded, line, reach), line, reach)
        np.minimum(filled, closed, out=filled)
    return filled


def _along(extreme: np.ufunc, image: np.ndarray, line: list[tuple[int, int]], reach: int) -> np.ndarray:
    """The extreme of an image along a line around each pixel that is `reach` px or more from the border."""
    height, width = (side - 2 * reach for side in image.shape[1:])
    views = [
        image[:, reach + row : reach + row + height, reach + column : reach + column + width]
        for row, column in line
    ]
    found = views[0].copy()
    for view in views[1:]:
        extreme(found, view, out=found)
    return found


def _lines(length: int) -> list[list[tuple[int, int]]]:
    """The pixels of lines in all directions through a pixel, rows and columns from it."""
    reach = length // 2
    along = np.arange(-reach, reach + 1)
    lines = []
    for angle in np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
        # One pixel for each row, or column, that a line crosses.
        direction = np.array([np.sin(angle), np.cos(angle)]) / max(abs(np.sin(angle)), abs(np.cos(angle)))
        lines.append([tuple(place) for place in np.rint(along[:, None] * direction).astype(int).tolist()])
    return lines
