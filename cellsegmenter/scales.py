"""At which scale a model sees an image, and which parts of it at scales of their own."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

from cellsegmenter.local_diameter import Part, parts_of_one_size
from cellsegmenter.preparation import CroppedImage, PreparedImage, prepare_image
from cellsegmenter.region import Region
from cellsegmenter.validation import check_choice, check_number

__all__ = ["image_parts", "prepare_part", "said_of_parts", "scale_of", "warn_of_extreme_scales"]

# An image that is enlarged more than this has 64 times as many pixels; of one that is made smaller than its inverse
# little is left.
_EXTREME = 8


def image_parts(
    image: Any, diameter: float | Literal["auto"] | None, n_jobs: int | None = None
) -> list[Part]:
    """The parts of an image (C, H, W) in which objects are of one size.

    Parameters
    ----------
    image : array-like (C, H, W)
    diameter : float, "auto" or None
        px of an object in the image, which is one part then; "auto" estimates it, here and there in a large image.
        None: unknown, nan.
    n_jobs : int, optional
        For joblib.
    """
    if isinstance(diameter, str):
        check_choice("diameter", diameter, ("auto",))
        return parts_of_one_size(image, n_jobs)
    known = float("nan") if diameter is None else check_number("diameter", diameter, low=1)
    return [Part(Region(0, 0, int(image.shape[-2]), int(image.shape[-1])), known)]


def said_of_parts(parts: list[Part], working_diameter: float) -> str:
    """In words to which scale an image is brought; empty if it is taken as it is."""
    scales = sorted(scale_of(part.diameter, working_diameter) for part in parts)
    to = f"to the model's diameter of {working_diameter:.1f} px"
    if len(parts) > 1:
        factors = f"{scales[0]:.3g} to {scales[-1]:.3g}"
        return f"{len(parts)} parts with objects of different sizes, rescaled by {factors} {to}"
    return "" if scales[0] == 1.0 else f"rescaled by {scales[0]:.3g} {to}"


def warn_of_extreme_scales(parts: list[Part], working_diameter: float) -> None:
    """Warn where a diameter is so far from the model's that it is hardly meant."""
    for part in parts:
        scale = scale_of(part.diameter, working_diameter)
        if not 1 / _EXTREME <= scale <= _EXTREME:
            warnings.warn(
                f"diameter={part.diameter:.3g} px is far from the {working_diameter:.1f} px that the model knows: the "
                f"image is rescaled by {scale:.3g}, and its pixels become {scale**2:.2g} times as many",
                stacklevel=2,
            )
            return


def scale_of(diameter: float, working_diameter: float) -> float:
    """Size at which the model sees objects of a diameter, over their own; 1 where that is not known (nan)."""
    return working_diameter / diameter if math.isfinite(diameter) else 1.0


def prepare_part(
    image: Any, part: Part, *, working_diameter: float, intensity: Literal["log", "linear"]
) -> PreparedImage:
    """A part of an image (C, H, W) as an image of its own, at the scale that its objects need."""
    return prepare_image(
        CroppedImage(image, part.region),
        scale=scale_of(part.diameter, working_diameter),
        diameter=working_diameter,
        intensity=intensity,
    )
