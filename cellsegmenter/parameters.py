"""The user's bounds, checked together, and the sizes of a model that follow from them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from cellsegmenter.model.config import PRESETS, ModelConfig, grid_level_for
from cellsegmenter.validation import check_bounds, check_number

__all__ = ["Bounds", "BoundsWarning", "check_bounds_together", "model_config", "warn_of_conflicts"]

# A box is this much wider than the circle of its object's area.
_BOX_OVER_DIAMETER = 1.25
# Slots for objects over the user's upper density, when max_objects is left to us.
_SLOTS_OVER_DENSITY = 1.5
# Of its bounding box a thin stroke covers this fraction; a disc covers 0.79.
_LEAST_FILL = 0.25


class BoundsWarning(UserWarning):
    """The user's bounds can hardly hold together."""


@dataclass(frozen=True)
class Bounds:
    """What the user knows of the images, at working scale; crude estimates, never the truth."""

    density: tuple[float, float]  # objects per window
    area: tuple[float, float]  # foreground fraction
    object_size: tuple[float, float]  # shortest and longest side of a bounding box, px
    window_size: int  # px
    max_objects: int  # K_max per window

    @property
    def expected_objects(self) -> float:
        """Per window: the middle of the density bounds."""
        return sum(self.density) / 2

    @property
    def object_area(self) -> float:
        """px² of an object: the middle of the area bounds shared among the expected objects."""
        return sum(self.area) / 2 * self.window_size**2 / self.expected_objects

    @property
    def diameter(self) -> float:
        """px of the circle of an object's area: the working scale that the bounds imply."""
        return math.sqrt(4 / math.pi * self.object_area)

    @property
    def box_side(self) -> float:
        """px of a typical object's box."""
        return min(max(_BOX_OVER_DIAMETER * self.diameter, self.object_size[0]), self.object_size[1])


def check_bounds_together(
    *, density: Any, area: Any, object_size: Any, window_size: Any, max_objects: Any
) -> Bounds:
    """Check each bound and that they can hold together.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, the value and the remedy.
    """
    window = int(check_number("window_size", window_size, low=32, integer=True))
    if window % 16:
        nearest = max(32, 16 * round(window / 16))
        raise ValueError(
            f"window_size={window} must be a multiple of 16, for the U-Net's four poolings; use {nearest}"
        )
    low, high = check_bounds("density", density, low=0)
    if high == 0:
        raise ValueError(f"density=({low}, {high}) asks for no object at all; give a positive maximum")
    fraction = check_bounds("area", area, low=0, high=1)
    if fraction[1] == 0:
        raise ValueError(f"area={fraction} asks for no foreground at all; give a positive maximum")
    size = check_bounds("object_size", object_size, low=2, high=window)
    if size[0] == size[1]:
        raise ValueError(
            f"object_size={size} leaves boxes no choice; give a shorter minimum or a longer maximum"
        )
    slots = math.ceil(_SLOTS_OVER_DENSITY * high)
    if max_objects is not None:
        slots = int(check_number("max_objects", max_objects, low=1, integer=True))
        if high > slots:
            raise ValueError(
                f"density=({low}, {high}) exceeds max_objects={slots}, the slots of a window; "
                f"use max_objects={math.ceil(_SLOTS_OVER_DENSITY * high)} or leave it out"
            )
    points = (window >> grid_level_for(size[0])) ** 2
    if high > points:
        raise ValueError(
            f"density=({low}, {high}) exceeds the {points} points of the object grid of a {window}-px window with "
            f"objects of at least {size[0]} px; use a smaller object_size or fewer objects"
        )
    return Bounds((low, high), fraction, size, window, min(slots, points))


def warn_of_conflicts(bounds: Bounds) -> None:
    """Warn where density, area and object_size contradict each other, before the training pays for it.

    An object covers at most its box, and at least a quarter of it.
    """
    window, (fewest, most), (least, largest) = bounds.window_size**2, bounds.density, bounds.area
    smallest_area, largest_area = _LEAST_FILL * bounds.object_size[0] ** 2, bounds.object_size[1] ** 2
    given = f"density={bounds.density}, area={bounds.area} and object_size={bounds.object_size}"
    advice = "`suggest_bounds(images)` or `cellseg suggest` proposes bounds that fit the images"
    if fewest * smallest_area > largest * window:
        problem = (
            f"even {fewest:g} objects of the smallest size cover {fewest * smallest_area / window:.2g} of a "
            f"{bounds.window_size}-px window, more than area allows"
        )
    elif most * largest_area < least * window:
        problem = (
            f"even {most:g} objects of the largest size cover only {most * largest_area / window:.2g} of a "
            f"{bounds.window_size}-px window, less than area demands"
        )
    elif not smallest_area <= bounds.object_area <= largest_area:
        problem = (
            f"density and area speak of objects about {bounds.diameter:.0f} px across, which boxes of these sizes "
            "do not fit"
        )
    else:
        return
    warnings.warn(f"{given} can hardly hold together: {problem}; {advice}", BoundsWarning, stacklevel=3)


def model_config(
    bounds: Bounds, *, n_channels: int, preset: str, appearance: str, latent_dim: int
) -> ModelConfig:
    """The sizes of the model that these bounds call for."""
    return ModelConfig(
        n_channels=n_channels,
        window_size=bounds.window_size,
        object_size=bounds.object_size,
        initial_side=bounds.box_side,
        expected_objects=bounds.expected_objects,
        grid_level=grid_level_for(bounds.object_size[0]),
        appearance=appearance,
        latent_dim=latent_dim,
        **PRESETS[preset],
    )
