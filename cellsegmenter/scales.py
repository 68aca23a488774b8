"""How a model sees an image: repaired, bright objects on a dark background, at the scale or scales of its objects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cellsegmenter.preparation import PreparedImage, prepare_image

__all__ = ["SeenImage", "said_of_scale", "scale_of", "see_image", "warn_of_extreme_scale"]

# An image that is enlarged more than this has 64 times as many pixels; of one that is made smaller than its inverse
# little is left.
_EXTREME = 8


@dataclass(frozen=True)
class SeenImage:
    """An image at the working scale of a model, once for each size of objects that is looked for."""

    views: tuple[PreparedImage, ...]  # (C, H, W) each
    diameters: tuple[
        float, ...
    ]  # px of an object in the user's image, one for each view; nan if it is taken as it is
    working_diameter: float  # px of an object in each view
    repaired: Any  # (C, H, W), what the views show
    notes: tuple[str, ...] = ()  # what was done to the image, in words
    doubts: tuple[str, ...] = ()  # what the user should look at, in words

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px of the user's image."""
        return self.views[0].original_shape

    @property
    def scales(self) -> tuple[float, ...]:
        """Size at which each view shows the image, over its own."""
        return tuple(scale_of(diameter, self.working_diameter) for diameter in self.diameters)


def see_image(
    image: Any,
    diameters: Sequence[float],
    *,
    working_diameter: float,
    intensity: Literal["log", "linear"],
) -> SeenImage:
    """An image (C, H, W), repaired, at the scales that objects of some diameters need; as it is where one is nan."""
    views = tuple(
        prepare_image(
            image,
            scale=scale_of(diameter, working_diameter),
            diameter=working_diameter,
            intensity=intensity,
        )
        for diameter in diameters
    )
    return SeenImage(views, tuple(diameters), working_diameter, image)


def said_of_scale(diameters: Sequence[float], working_diameter: float) -> str:
    """In words to which scales an image is brought; empty if it is taken as it is."""
    factors = [scale_of(diameter, working_diameter) for diameter in diameters]
    if factors == [1.0]:
        return ""
    by = " and ".join(f"{factor:.3g}" for factor in factors)
    return f"rescaled by {by} to the model's diameter of {working_diameter:.1f} px"


def warn_of_extreme_scale(diameters: Sequence[float], working_diameter: float) -> None:
    """Warn where a diameter is so far from the model's that it is hardly meant."""
    for diameter in diameters:
        scale = scale_of(diameter, working_diameter)
        if not 1 / _EXTREME <= scale <= _EXTREME:
            warnings.warn(
                f"diameter={diameter:.3g} px is far from the {working_diameter:.1f} px that the model knows: the "
                f"image is rescaled by {scale:.3g}, and its pixels become {scale**2:.2g} times as many",
                stacklevel=2,
            )


def scale_of(diameter: float, working_diameter: float) -> float:
    """Size at which the model sees objects of a diameter, over their own; 1 where that is not known (nan)."""
    return working_diameter / diameter if math.isfinite(diameter) else 1.0
