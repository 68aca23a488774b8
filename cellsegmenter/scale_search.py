"""At which scale, and in which polarity, a model sees an image best: it is asked, and not a threshold.

Squares of the image are segmented at some diameters d, each 20 d or 40 d wide, and

    score = mean probability of the objects · share of the variance that one level for each object explains

is the higher, the better the scale.  It counts less where fewer than three objects are found.  A classical estimate
(`cellsegmenter.diameter`) comes first.  If the model is sure of it, only 2.5 times it is looked at, too.  Otherwise
diameters from large to small are tried, then the neighbours of the best.

The same score of the inverted image tells whether objects are dark.  On 143 training images of nuclei it is at most
0.32 in the wrong polarity, and above 0.5 in the right one of 99 in 100.

Objects of other sizes may lie beside those that were found.  So candidates at 2.5 times the diameter, and at 1 / 2.5
of it, compete with the others in one suppression, and a scale that makes the score higher is taken, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cellsegmenter.diameter import TileDiameters, estimate_diameter, tile_diameters
from cellsegmenter.image_posterior import ImagePosterior
from cellsegmenter.polarity import Inverted, looks_dark_on_bright
from cellsegmenter.preparation import prepare_image
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.stars import areas
from cellsegmenter.region import Region
from cellsegmenter.repair import RepairedImage, repair_image
from cellsegmenter.scales import SeenImage, see_image
from cellsegmenter.segmenting import RecognitionSettings, image_posterior
from cellsegmenter.validation import check_choice, check_number
from cellsegmenter.workspace import Workspace

__all__ = ["POLARITIES", "Diameter", "Polarity", "check_diameter", "see", "see_by_estimate"]

Diameter: TypeAlias = float | Sequence[float] | Literal["auto"] | None
Polarity: TypeAlias = Literal["auto", "bright", "dark"]
Places: TypeAlias = tuple[tuple[int, int], ...]  # rows and columns, px
POLARITIES = ("auto", "bright", "dark")

_LEAST = 6.0  # px, the smallest diameter that is looked for
_MOST, _MOST_PIXELS = 0.4, 300.0  # the largest: a share of the shorter side of the image, and px
_FIRST = 8.0  # px; from it on, diameters are tried with this factor, then the neighbours of the best with the finer one
_COARSE, _FINE = 1.3**2, 1.3
# Diameters of an object, side of a square that is looked at: first, and where the model is not sure.  In haze, or with
# few objects, the first is too narrow.
_ACROSS, _WIDE = 20, 40
_WIDEST = 2048  # px, side of a square at most
_PIXELS_ACROSS = 8  # of an object, that its explained variance is measured by
_LEAST_OBJECTS = 3
# The model is sure of a scale from this score on, if what it finds is as large as it expects, up to this factor.  In a
# trial on crops of 285 training images of nuclei, 268 to 276 were sure with factors of 1.2 to 1.4.  AP was within
# 0.001 of a search in all of them where the estimate is right, and within 0.004 where it is not.
_SURE, _AS_EXPECTED = 0.6, math.exp(0.3)
_HARDLY = 0.35  # score below which nothing was found that it knows
_MARGIN = 0.01  # by which another scale must be better than the estimate
_ABOUT_AS_GOOD, _ANOTHER = 0.03, 1.6  # score, and factor between diameters, of a choice that is in doubt
# Objects of other sizes: the factor between the scales, and what another one must add to the score.  On 60 images of
# nuclei another scale adds at most 0.041.  Small objects beside large ones may add less, and are missed then.
_OTHER_SIZE, _WORTH, _MOST_SCALES = 2.5, 0.06, 4
_MANY = 0.1  # share of the objects in a square that must be of another size


class _Levels(NamedTuple):
    """Every k-th row and column of a square."""

    level: np.ndarray  # (h, w) of the brightest channel, normalised
    known: np.ndarray  # (h, w) bool: where there are data
    step: int  # k


class Sighting(NamedTuple):
    """What a model finds in a few squares of an image at some scales."""

    score: float
    ratio: float  # diameter of what is found, over what is expected


def see(
    model: FittedModel, image: Any, diameter: Diameter, polarity: Polarity, *, one_pass: bool = True
) -> SeenImage:
    """An image as a model sees it best.

    Parameters
    ----------
    model : FittedModel
        If it has no recognition network it cannot be asked, and `see_by_estimate` does it.
    image : array-like (C, H, W)
        NaN where there are no data.
    diameter : float, sequence of float, "auto" or None
        px; of several, each is looked for.  None takes the image as it is.
    polarity : {"auto", "bright", "dark"}
        Whether objects are brighter or darker than what is around them.
    one_pass : bool
        Whether the recognition network will look at it: then dark holes in objects are filled, and "auto" may look for
        objects of several sizes.
    """
    if model.recognition is None:
        return see_by_estimate(
            image, diameter, polarity, working_diameter=model.working_diameter, intensity=model.intensity
        )
    check_choice("polarity", polarity, POLARITIES)
    search = _Search(model, image, dark=polarity == "dark")
    fixed = None if is_automatic(diameter) else check_diameter(diameter)
    if polarity == "auto":
        in_doubt = search.choice.score < _SURE if fixed is None else looks_dark_on_bright(search.image)
        if in_doubt:
            other = _Search(model, image, dark=True)
            search = max(search, other, key=lambda one: one.score_at(fixed))
    if fixed is not None:
        choice = _Choice(fixed, (), ())
    else:
        choice = search.with_other_sizes() if one_pass else search.choice
    seen = see_image(
        search.image,
        choice.diameters,
        working_diameter=model.working_diameter,
        intensity=model.intensity,
        with_holes=not one_pass,
    )
    return replace(seen, notes=(*_notes(search.image, dark=search.dark), *choice.notes), doubts=choice.doubts)


def see_by_estimate(
    image: Any,
    diameter: Diameter,
    polarity: Polarity,
    *,
    working_diameter: float,
    intensity: Literal["log", "linear"],
) -> SeenImage:
    """An image as it is learned from, and as a model sees it that cannot be asked.

    As `see`, but "auto" is the classical estimate, and bright.
    """
    check_choice("polarity", polarity, POLARITIES)
    dark = polarity == "dark"
    repaired = repair_image(Inverted(image) if dark else image)
    diameters = (estimate_diameter(repaired),) if is_automatic(diameter) else check_diameter(diameter)
    seen = see_image(repaired, diameters, working_diameter=working_diameter, intensity=intensity)
    return replace(seen, notes=_notes(repaired, dark=dark))


def _notes(image: RepairedImage, *, dark: bool) -> tuple[str, ...]:
    inverted = ("objects are darker than their surroundings: the image is inverted",) if dark else ()
    return (*inverted, *image.notes)


class _Choice(NamedTuple):
    """The diameters at which an image is to be seen."""

    diameters: tuple[float, ...]  # px; nan where nothing is known
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    score: float = 0.0


class _Search:
    """Looks for the scale of an image in one polarity."""

    def __init__(self, model: FittedModel, image: Any, *, dark: bool) -> None:
        self.model = model
        self.dark = dark
        self.image = repair_image(Inverted(image) if dark else image)
        self._seen: dict[tuple[tuple[float, ...], float, Places], Sighting] = {}
        self._found: dict[tuple[Region, tuple[float, ...]], ImagePosterior] = {}
        self._normal: dict[tuple[Region, int, float], _Levels] = {}

    @property
    def _most(self) -> float:
        """px, the largest diameter that is looked for."""
        return min(_MOST * min(self.image.shape[1:]), _MOST_PIXELS)

    @cached_property
    def _tiles(self) -> TileDiameters:
        return tile_diameters(self.image)

    def score_at(self, fixed: tuple[float, ...] | None) -> float:
        """The score of some diameters, or of the best one; nan is as the image is."""
        if fixed is None:
            return self.choice.score
        return self.sighting(
            tuple(d if math.isfinite(d) else self.model.working_diameter for d in fixed)
        ).score

    @cached_property
    def choice(self) -> _Choice:
        """The best diameter."""
        estimate = self._tiles.diameter
        if math.isfinite(estimate) and self._is_sure(estimate):
            return _said(estimate, self.sighting((estimate,)).score)
        grid = [d for k in range(10) if (d := _FIRST * _COARSE**k) <= max(self._most, _FIRST)]
        tried = ([estimate] if math.isfinite(estimate) else []) + grid[::-1]
        best = self._best(tried)
        tried += [d for d in (best / _FINE, best * _FINE) if d >= _LEAST]
        best = self._best(tried)
        if self._score(best) <= 0:
            nothing = "no objects that the model knows were found at any scale"
            return _Choice((estimate,), (), (nothing,) if math.isfinite(estimate) else ())
        return _said(best, self._score(best), self._doubts(best, tried))

    def with_other_sizes(self) -> _Choice:
        """The best diameter, and those of larger and of smaller objects beside, if there are any."""
        choice = self.choice
        if choice.score <= 0 or not math.isfinite(choice.diameters[0]):
            return choice
        diameters = choice.diameters
        for factor, end in ((_OTHER_SIZE, max), (1 / _OTHER_SIZE, min)):
            while len(diameters) < _MOST_SCALES:
                other = end(diameters) * factor
                if not _LEAST <= other <= self._most:
                    break
                more = tuple(sorted((*diameters, other)))
                if not self._is_worth(more, diameters, other):
                    break
                diameters = more
        if len(diameters) == 1:
            return choice
        sizes = ", ".join(f"{diameter:.3g}" for diameter in diameters)
        return choice._replace(
            diameters=diameters, notes=(f"objects of several sizes: looked for at {sizes} px",), doubts=()
        )

    def _is_worth(self, more: tuple[float, ...], diameters: tuple[float, ...], other: float) -> bool:
        """Whether another scale makes the score of squares higher."""
        places = self._places_of_larger(other) if other > diameters[0] else self._places_of_smaller(diameters)
        # Small squares first: what few objects suggest is asked again of more of them.
        return bool(places) and all(
            self.sighting(more, across, places).score
            >= self.sighting(diameters, across, places).score + _WORTH
            for across in dict.fromkeys((_ACROSS * more[0], _ACROSS * diameters[0]))
        )

    def _places_of_larger(self, diameter: float) -> Places:
        """Where objects of a diameter, larger ones than were found, are seen in the wide; one place in each square."""
        found = []
        for place in self._tiles.places:
            square = self._square(place, _ACROSS * diameter)
            centre, size = self._sizes(square, (diameter,))
            if _are_many(size > diameter / math.sqrt(_OTHER_SIZE)):
                row, column = (centre[np.argmax(size)] + square.corner).tolist()
                found.append((int(row), int(column)))
        return tuple(found)

    def _places_of_smaller(self, diameters: tuple[float, ...]) -> Places:
        """The places where many objects are smaller than expected."""
        found = []
        for place in self._tiles.places:
            _, size = self._sizes(self._square(place, _ACROSS * diameters[0]), diameters)
            if _are_many(size < diameters[0] / math.sqrt(_OTHER_SIZE)):
                found.append(place)
        return tuple(found)

    def _sizes(self, square: Region, diameters: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The centres (n, 2) and diameters (n,) of what is found in a square, px of it."""
        posterior = self._posterior(square, diameters)
        stars = posterior.shapes.stars.take(np.flatnonzero(posterior.presence[:, 0]))
        return stars.centre, np.sqrt(4 / np.pi * areas(stars))

    def sighting(self, diameters: tuple[float, ...], across: float = 0.0, places: Places = ()) -> Sighting:
        """What is found at some diameters in squares, by default those of `tile_diameters` and 20 diameters wide."""
        across = across or _ACROSS * min(diameters)
        asked = diameters, across, places or self._tiles.places
        if asked not in self._seen:
            found = [self._look(self._square(place, across), diameters) for place in asked[2]]
            self._seen[asked] = Sighting(*np.mean(found, axis=0).tolist())
        return self._seen[asked]

    def _look(self, square: Region, diameters: tuple[float, ...]) -> Sighting:
        posterior = self._posterior(square, diameters)
        on = np.flatnonzero(posterior.presence[:, 0])
        if not len(on):
            return Sighting(0.0, 1.0)
        level, known, step = self._levels(square, diameters)
        explained = _explained(level[known], posterior.labels(0)[::step, ::step][known])
        score = float(posterior.probability[on].mean()) * explained * min(1.0, len(on) / _LEAST_OBJECTS)
        _, size = self._sizes(square, diameters)
        return Sighting(score, float(size.mean()) / min(diameters))

    def _posterior(self, square: Region, diameters: tuple[float, ...]) -> ImagePosterior:
        """The most probable objects in a square, px of it."""
        if (square, diameters) not in self._found:
            seen = see_image(
                self._pixels(square),
                diameters,
                working_diameter=self.model.working_diameter,
                intensity=self.model.intensity,
                with_holes=False,
            )
            settings = RecognitionSettings(None)
            self._found[square, diameters] = image_posterior(self.model, seen, settings, Workspace())
        return self._found[square, diameters]

    def _levels(self, square: Region, diameters: tuple[float, ...]) -> _Levels:
        """Some of the pixels of a square, normalised for the largest of some objects."""
        step = max(1, int(min(diameters) / _PIXELS_ACROSS))
        if (square, step, diameters[-1]) not in self._normal:
            pixels = self._pixels(square)[:, ::step, ::step]
            image = prepare_image(pixels, diameter=diameters[-1] / step, intensity=self.model.intensity)
            known = image.known(Region(0, 0, *pixels.shape[1:]))
            self._normal[square, step, diameters[-1]] = _Levels(image[...].max(axis=0), known, step)
        return self._normal[square, step, diameters[-1]]

    def _pixels(self, square: Region) -> np.ndarray:
        return self.image[(slice(None), *square.slices)]

    def _square(self, place: tuple[int, int], side: float) -> Region:
        """A square around a place, moved and cut so that it lies in the image."""
        shape = self.image.shape[1:]
        extent = [min(n, max(1, round(side)), _WIDEST) for n in shape]
        corner = [
            min(max(0, centre - length // 2), n - length)
            for centre, length, n in zip(place, extent, shape, strict=True)
        ]
        return Region(corner[0], corner[1], extent[0], extent[1])

    def _is_sure(self, diameter: float) -> bool:
        sighting, larger = self.sighting((diameter,)), _OTHER_SIZE * diameter
        if sighting.score < _SURE or abs(math.log(sighting.ratio)) > math.log(_AS_EXPECTED):
            return False
        # Of textured objects it may know the parts.
        if larger > self._most:
            return True
        return self.sighting((larger,)).score <= sighting.score + _MARGIN

    def _score(self, diameter: float) -> float:
        """Of a diameter that is not sure."""
        return self.sighting((diameter,), _WIDE * diameter).score

    def _best(self, diameters: Sequence[float]) -> float:
        """The diameter of the highest score; the first one, unless another is better by a margin."""
        best = max(diameters, key=self._score)
        return diameters[0] if self._score(diameters[0]) >= self._score(best) - _MARGIN else best

    def _doubts(self, best: float, tried: Sequence[float]) -> tuple[str, ...]:
        score = self._score(best)
        if score < _HARDLY:
            return (
                f"at no scale does the model find much that it knows (score {score:.2f} at {best:.3g} px); if the "
                "objects are of another size, set the diameter",
            )
        others = [d for d in tried if abs(math.log(d / best)) > math.log(_ANOTHER)]
        rival = max(others, key=self._score, default=best)
        if rival == best or self._score(rival) < score - _ABOUT_AS_GOOD:
            return ()
        return (
            f"objects of {best:.3g} px and of {rival:.3g} px are about as likely (scores {score:.2f} and "
            f"{self._score(rival):.2f}); if they are of the second size, set the diameter to {rival:.3g}",
        )


def _are_many(some: np.ndarray) -> bool:
    """Whether enough of the objects (n,) are of a kind to look for more of it."""
    return bool(some.sum() >= max(_LEAST_OBJECTS, _MANY * len(some)))


def _said(diameter: float, score: float, doubts: tuple[str, ...] = ()) -> _Choice:
    return _Choice(
        (diameter,), (f"objects are about {diameter:.3g} px across (score {score:.2f} of 1)",), doubts, score
    )


def is_automatic(diameter: Diameter) -> bool:
    """Whether the diameter is to be found; of an array, `==` would ask each number."""
    return isinstance(diameter, str) and diameter == "auto"


def check_diameter(diameter: Diameter) -> tuple[float, ...]:
    """The diameters that a user gave; nan if there are none.

    Raises
    ------
    TypeError, ValueError
    """
    if diameter is None:
        return (math.nan,)
    if isinstance(diameter, str):
        check_choice("diameter", diameter, ("auto",))
    several = diameter if isinstance(diameter, Sequence | np.ndarray) else [diameter]
    if not len(several):
        raise ValueError(f"diameter={diameter!r} holds no number; give a diameter in px, or several")
    return tuple(sorted(check_number("diameter", one, low=1) for one in several))


def _explained(level: np.ndarray, label: np.ndarray) -> float:
    """The share of the variance of levels (n,) that the mean of each label explains."""
    variance = float(level.var())
    if variance == 0:
        return 0.0
    mean = np.bincount(label, level) / np.maximum(np.bincount(label), 1)
    return 1 - float(np.mean((level - mean[label]) ** 2)) / variance
