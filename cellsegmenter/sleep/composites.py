"""Copy-paste composites: known objects on a background without objects, with exact labels.

Objects that touch are what a segmentation gets wrong, and here the truth about them is known.  Clumps are made by
moving an object away from another one until it overlaps no object too much.  A recognition network that learned from
composites and from filtered labels of real images split mergers as well as one that learned from human labels.

Cut-outs are worth more than drawings: Dwibedi, Misra and Hebert, Cut, paste and learn (ICCV 2017).  A network that
recognises can learn from what a model makes up: Hinton, Dayan, Frey and Neal, The wake-sleep algorithm for
unsupervised neural networks (Science 268, 1995).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cellsegmenter.sleep.canvas import Canvas, Piece, fits, paste, transform, visible_labels
from cellsegmenter.sleep.library import Backdrop, Library, Shelf
from cellsegmenter.sleep.units import Intensity, from_linear, log_uniform, sixteenth
from cellsegmenter.windows import reflect_index

__all__ = ["Composite", "make_composite"]

# Lengths in sixteenths of a diameter, areas in their squares; see `cellsegmenter.sleep.units`.

_SIZE = 200.0  # side of a composite
_COVER = (0.04, 0.5)  # share of the pixels that objects cover, log-uniform
_MOST_GROUPS = 60  # single objects and clumps that are tried
_EDGE = 8.0  # the backdrop may be mirrored at its edge for so much

# A backdrop's own image gives most objects, if it has enough of them.
_OWN_SHARE, _ENOUGH_OBJECTS = 0.8, 4
# Canvases whose objects keep their intensity, and canvases whose objects nearly all keep their size.
_NATURAL_SHARE, _TYPICAL_SHARE = 0.3, 0.5
# Share of objects with nearly their own size, on canvases of typical size and on others.
_OWN_SIZE_SHARE, _OWN_SIZE_SHARE_ELSEWHERE = 0.8, 0.35
_NEAR_ZOOM, _FAR_ZOOM = (0.85, 1.15), (0.4, 1.3)
_ELONGATED_SHARE, _ELONGATION = 0.4, 0.4  # the logarithm of the stretch is uniform up to this

_ALONE_SHARE, _SMALL_CLUMP_SHARE = 0.4, 0.6
_SMALL_CLUMP, _LARGE_CLUMP = (2, 4), (5, 12)  # objects
# Intensity of a clump's first object, and of further ones relative to it: similar for half of them, or far dimmer.
_INTENSITY, _SIMILAR, _DIMMER = (0.15, 1.0), (0.6, 1.2), (0.1, 1.0)
_GAIN = (0.05, 2.5)
_LEAST_IN_NOISE = 2.5  # an object is made to stand out by so many standard deviations of the noise
_ADD_SHARE = 0.5  # of the clumps intensities add up; in others the brighter object wins
# Most overlap over the smaller object, uniform up to the first or, for half of the objects, up to the second.
_OVERLAP, _SLIGHT_OVERLAP = 0.25, 0.03
# An object approaches another one from outside: distances between their middles, in sums of their radii.
_NEAREST, _FARTHEST = 0.55, 1.6
_FIRST_TRIES, _NEIGHBOUR_TRIES = 12, 6
_GAP_SHARE, _GAP = 0.15, (1.0, 2.0)  # some objects are moved apart by a narrow gap

_BLURRED_SHARE, _BLUR = 0.5, (0.3, 1.1)
# Noise is added, as a share of the backdrop's, and shot noise, as a share of the intensity's square root.
_NOISY_SHARE, _MOST_NOISE = 0.6, 1.2
_SHOT_SHARE, _MOST_SHOT = 0.5, 0.03

_LEAST_AREA = 12.0  # of a pasted object


class Composite(NamedTuple):
    """A made-up image and its exact labels."""

    pixels: np.ndarray  # (C, S, S) float32, normalised
    labels: np.ndarray  # (S, S) int32: 0 background, -1 ignored; numbers of objects may have gaps


class _Style(NamedTuple):
    """What the objects of one composite have in common."""

    near: Shelf  # of the backdrop's own image
    far: Shelf  # of another image
    noise: float  # of the backdrop
    natural: bool  # objects keep their intensity
    typical: bool  # nearly all objects keep their size
    unit: float  # px of a sixteenth of a diameter


def make_composite(
    library: Library,
    diameter: float,
    method: Intensity,
    random: np.random.Generator,
    size: int | None = None,
) -> Composite:
    """Paste objects, alone and in clumps, on a backdrop.

    Parameters
    ----------
    library : Library
        With objects.
    diameter : float
        px of a typical object in it.
    method : {"log", "linear"}
        Scale of the pixels, see `cellsegmenter.normalize`.
    random : numpy.random.Generator
    size : int, optional
        Side, px; by default 12.5 diameters.
    """
    assert library.objects, "composites need objects, and the library has none"
    assert library.backdrops, "composites need a backdrop, and the library has none"
    unit = sixteenth(diameter)
    size = round(_SIZE * unit) if size is None else size
    backdrop = library.backdrops[random.integers(len(library.backdrops))]
    background = _background(backdrop, size, unit, random)
    style = _style(library, backdrop, unit, random)
    canvas = Canvas.empty(len(background), size)
    cover = log_uniform(random, *_COVER)
    for _ in range(_MOST_GROUPS):
        if canvas.cover >= cover:
            break
        _paste_group(canvas, style, random)
    labels = visible_labels(canvas, unit)
    linear = _photograph(background + canvas.signal, backdrop.noise, unit, random)
    return Composite(from_linear(linear, method), labels)


def _background(backdrop: Backdrop, size: int, unit: float, random: np.random.Generator) -> np.ndarray:
    """A random square (C, S, S) of a backdrop; mirrored where the backdrop is too small."""
    edge = round(_EDGE * unit)
    rows, columns = (
        reflect_index(
            random.integers(min(-edge, length - size), max(length - size + edge, 0) + 1) + np.arange(size),
            length,
        )
        for length in backdrop.pixels.shape[1:]
    )
    return backdrop.pixels[:, rows[:, None], columns]


def _style(library: Library, backdrop: Backdrop, unit: float, random: np.random.Generator) -> _Style:
    shelves = list(library.by_image.values())
    far = shelves[random.integers(len(shelves))]
    near = library.by_image.get(backdrop.image)
    return _Style(
        near=far if near is None or len(near) < _ENOUGH_OBJECTS else near,
        far=far,
        noise=backdrop.noise,
        natural=random.random() < _NATURAL_SHARE,
        typical=random.random() < _TYPICAL_SHARE,
        unit=unit,
    )


def _paste_group(canvas: Canvas, style: _Style, random: np.random.Generator) -> None:
    """Paste one object, or a clump whose objects touch or overlap."""
    if random.random() < _ALONE_SHARE:
        n_objects = 1
    else:
        least, most = _SMALL_CLUMP if random.random() < _SMALL_CLUMP_SHARE else _LARGE_CLUMP
        n_objects = int(random.integers(least, most + 1))
    intensity = log_uniform(random, *_INTENSITY)
    add = random.random() < _ADD_SHARE
    members: list[tuple[np.ndarray, float]] = []  # middle and radius, px
    for number in range(n_objects):
        ratio = 1.0
        if number:
            ratio = random.uniform(*_SIMILAR) if random.random() < 0.5 else log_uniform(random, *_DIMMER)
        piece = _draw_piece(style, intensity * ratio, random)
        if piece is None:
            continue
        if members:
            middle = _place_beside(canvas, piece, members, style.unit, random)
        else:
            middle = _place_alone(canvas, piece, random)
        if middle is not None:
            paste(canvas, piece, middle, add=add)
            members.append((middle, piece.radius))
        elif not members:
            return


def _draw_piece(style: _Style, intensity: float, random: np.random.Generator) -> Piece | None:
    """A random object of about this intensity, turned and stretched; None if it became too small."""
    shelf = style.near if random.random() < _OWN_SHARE else style.far
    cut_out = shelf.draw(random)
    own_size = random.random() < (_OWN_SIZE_SHARE if style.typical else _OWN_SIZE_SHARE_ELSEWHERE)
    zoom = log_uniform(random, *(_NEAR_ZOOM if own_size else _FAR_ZOOM))
    stretch = 1.0
    if random.random() < _ELONGATED_SHARE:
        stretch = math.exp(random.uniform(-_ELONGATION, _ELONGATION))
    gain = 1.0 if style.natural else float(np.clip(intensity / cut_out.level, *_GAIN))
    gain = max(gain, _LEAST_IN_NOISE * style.noise / cut_out.level)
    angle = random.uniform(0, 2 * math.pi)
    return transform(cut_out, (zoom * stretch, zoom / stretch), angle, gain, _LEAST_AREA * style.unit**2)


def _place_alone(canvas: Canvas, piece: Piece, random: np.random.Generator) -> np.ndarray | None:
    """A middle at which a piece covers no object, (2,) row and column; None if none was found."""
    for _ in range(_FIRST_TRIES):
        middle = random.uniform(0, canvas.size, 2)
        if fits(canvas, piece, middle, 0.0):
            return middle
    return None


def _place_beside(
    canvas: Canvas,
    piece: Piece,
    members: list[tuple[np.ndarray, float]],
    unit: float,
    random: np.random.Generator,
) -> np.ndarray | None:
    """A middle at which a piece touches or overlaps a member of the clump; None if none was found."""
    overlap = random.uniform(0, _OVERLAP if random.random() < 0.5 else _SLIGHT_OVERLAP)
    for _ in range(_NEIGHBOUR_TRIES):
        neighbour, radius = members[random.integers(len(members))]
        angle = random.uniform(0, 2 * math.pi)
        direction = np.array([math.sin(angle), math.cos(angle)])
        for distance in _distances(piece.radius + radius, unit):
            middle = neighbour + distance * direction
            if (middle < 0).any() or (middle >= canvas.size).any():
                break
            if fits(canvas, piece, middle, overlap):
                farther = middle + random.uniform(*_GAP) * unit * direction
                if random.random() < _GAP_SHARE and fits(canvas, piece, farther, overlap):
                    return farther
                return middle
    return None


def _distances(touching: float, unit: float) -> Iterator[float]:
    """Distances between the middles of two objects that touch at about `touching`, px, from near to far."""
    yield from np.arange(_NEAREST * touching, _FARTHEST * touching, max(unit, 1.0))


def _photograph(linear: np.ndarray, noise: float, unit: float, random: np.random.Generator) -> np.ndarray:
    """The scene (C, S, S), blurred and with noise."""
    if random.random() < _BLURRED_SHARE:
        sigma = unit * random.uniform(*_BLUR)
        linear = ndimage.gaussian_filter(linear, (0, sigma, sigma))
    readout = noise * random.uniform(0, _MOST_NOISE) if random.random() < _NOISY_SHARE else 0.0
    shot = random.uniform(0, _MOST_SHOT) if random.random() < _SHOT_SHARE else 0.0
    spread = np.sqrt(readout**2 + shot**2 * np.clip(linear, 0, None))
    return linear + spread * random.standard_normal(linear.shape)
