"""The resolution of the cut: what it means, how the published γ translates, and how it is chosen (S9).

The published γ is relative to the graph: its threshold scales as 1 / area, so that γ = 500 on a crop and on
the whole image are different cuts.  What carries over is the absolute threshold on the co-membership weight,

    γ_abs = γ · 2W / (n (n - 1)),

with W the total weight and n the number of pixels of the whole graph: two groups of pixels are joined if the
mean weight of the pairs between them exceeds γ_abs (0..1).  It depends on the cut-off distance, beyond which
weights count as 0, so the two are kept together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

__all__ = [
    "AbsoluteResolution",
    "Method",
    "Resolution",
    "ResolutionError",
    "Solver",
    "check_resolution",
    "choose_resolution",
    "mean_pair_weight",
    "resolve",
]

Method = Literal["cpm", "rb"]
Solver = Literal["igraph", "leidenalg"]

# Below 0.02 everything that touches is one object; above 0.9 only pixels that every sample agrees on remain.
_GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.37, 0.45, 0.55, 0.65, 0.77, 0.9)
_STEP = 3  # every so many values are looked at first


@dataclass(frozen=True)
class AbsoluteResolution:
    """Asks for a cut at this mean co-membership weight (0..1) rather than at a published-style γ."""

    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise ValueError(
                f"AbsoluteResolution(value={self.value!r}) must be above 0 and at most 1, as it is compared "
                "with an average co-membership weight; for a published-style γ pass the plain number"
            )


@dataclass(frozen=True)
class Resolution:
    """The resolution that a segmentation was cut at."""

    method: Method
    absolute: float  # γ_abs in 0..1, carries over between crops and images; nan if the graph has no edge
    gamma: float  # the same in the published style, for this graph only; nan if the graph has no edge
    cutoff_distance: float  # px; γ_abs is to be used with the same one
    chosen_by: Literal["auto", "gamma", "absolute"]
    agreement: float | None = None  # mean NMI with the posterior samples, if chosen_by is "auto"

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.2f}"
        how = f"{self.method}, {self.chosen_by}{agreement}"
        return f"γ_abs = {self.absolute:.3g} (γ = {self.gamma:.4g} in this image; {how})"


class ResolutionError(ValueError):
    """The resolution asked for leaves no object; `suggestion` is the one that fits."""

    def __init__(self, message: str, suggestion: Resolution) -> None:
        super().__init__(message, suggestion)
        self.suggestion = suggestion

    @classmethod
    def of_empty(cls, asked: Resolution, fits: Resolution, image_shape: tuple[int, int]) -> ResolutionError:
        """For a published γ that leaves no object of an image (height, width), and the resolution that fits it."""
        height, width = image_shape
        return cls(
            f"resolution={asked.gamma:g} leaves no object: a published γ is relative to the size of the graph, and on "
            f"this image of {height} × {width} px it asks for an average co-membership above {asked.absolute:.3g}, of "
            f"at most 1. Use resolution={fits.gamma:.3g} here (absolute {fits.absolute:.3g}, which carries over to "
            'other images), or resolution="auto"',
            fits,
        )

    def __str__(self) -> str:
        return str(self.args[0])


def choose_resolution(agreement: Callable[[float], float], tolerance: float = 1e-3) -> tuple[float, float]:
    """The absolute resolution at which `agreement` is best, and its value there.

    The agreement is flat wherever a change of γ changes no object, which for most cells is a wide range (S9).
    So of all values of the grid that are within `tolerance` of the best, and next to it without a gap, the
    middle one is taken: the same objects, with a margin to both sides.
    """
    scores: dict[int, float] = {}

    def score(index: int) -> float:
        if index not in scores:
            scores[index] = agreement(_GRID[index])
        return scores[index]

    # The agreement rises to its best and falls from there, so every third value leads to the neighbourhood of the
    # best, and a third of the solves are saved.
    best = max(range(0, len(_GRID), _STEP), key=score)
    best = max(range(max(best - _STEP + 1, 0), min(best + _STEP, len(_GRID))), key=score)
    low = high = best
    while low > 0 and score(low - 1) >= score(best) - tolerance:
        low -= 1
    while high < len(_GRID) - 1 and score(high + 1) >= score(best) - tolerance:
        high += 1
    chosen = (low + high) // 2
    return _GRID[chosen], score(chosen)


def check_resolution(requested: Any) -> None:
    """Refuse what is neither "auto", a positive number, nor an `AbsoluteResolution`.

    Raises
    ------
    ValueError
    """
    if isinstance(requested, AbsoluteResolution) or (isinstance(requested, str) and requested == "auto"):
        return
    if isinstance(requested, bool) or not isinstance(requested, Real) or not 0 < float(requested) < math.inf:
        raise ValueError(
            f'resolution={requested!r} must be "auto", a positive number (a published-style γ such as 500) '
            "or AbsoluteResolution(value) with a value between 0 and 1"
        )


def mean_pair_weight(total_weight: float, n_pixels: int) -> float:
    """2W / (n (n - 1)) of a graph, from 2W and n; 0 if it has no pair of pixels."""
    return total_weight / (n_pixels * (n_pixels - 1)) if n_pixels > 1 else 0.0


def resolve(
    requested: float | AbsoluteResolution, method: Method, mean_weight: float, cutoff_distance: float
) -> Resolution:
    """The published γ in absolute terms, or the reverse.

    For RB the published γ multiplies s s' / 2m; with strengths s near their mean 2W / n that is γ 2W / n², so
    the same conversion carries an RB resolution from one image to another.

    Parameters
    ----------
    requested : float or AbsoluteResolution
        A number is a published-style γ.
    method : "cpm" or "rb"
    mean_weight : float
        2W / (n (n - 1)) of the whole graph.
    cutoff_distance : float
        Of the graph, in px.
    """
    if isinstance(requested, AbsoluteResolution):
        gamma = requested.value / mean_weight if mean_weight > 0 else math.nan
        return Resolution(method, float(requested.value), gamma, cutoff_distance, "absolute")
    check_resolution(requested)
    absolute = requested * mean_weight if mean_weight > 0 else math.nan
    return Resolution(method, absolute, float(requested), cutoff_distance, "gamma")
