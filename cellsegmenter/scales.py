"""At which scale a model sees an image."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.preparation import PreparedImage, prepare_image
from cellsegmenter.validation import check_choice, check_number

__all__ = ["image_diameter", "prepare_at_scale", "said_of_scale", "scale_of", "warn_of_extreme_scale"]

# An image that is enlarged more than this has 64 times as many pixels; of one that is made smaller than its inverse
# little is left.
_EXTREME = 8


def image_diameter(image: Any, diameter: float | Literal["auto"] | None) -> float:
    """The diameter of the objects in an image (C, H, W), px; nan where it is not known.

    Parameters
    ----------
    image : array-like (C, H, W)
    diameter : float, "auto" or None
        What the user says; "auto" estimates it, and None leaves the image as it is.
    """
    if isinstance(diameter, str):
        check_choice("diameter", diameter, ("auto",))
        return estimate_diameter(image)
    return float("nan") if diameter is None else check_number("diameter", diameter, low=1)


def said_of_scale(diameter: float, working_diameter: float) -> str:
    """In words to which scale an image is brought; empty if it is taken as it is."""
    scale = scale_of(diameter, working_diameter)
    if scale == 1.0:
        return ""
    return f"rescaled by {scale:.3g} to the model's diameter of {working_diameter:.1f} px"


def warn_of_extreme_scale(diameter: float, working_diameter: float) -> None:
    """Warn where a diameter is so far from the model's that it is hardly meant."""
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


def prepare_at_scale(
    image: Any, diameter: float, *, working_diameter: float, intensity: Literal["log", "linear"]
) -> PreparedImage:
    """An image (C, H, W) at the scale that its objects of a diameter need; as it is where that is nan."""
    return prepare_image(
        image,
        scale=scale_of(diameter, working_diameter),
        diameter=working_diameter,
        intensity=intensity,
    )
