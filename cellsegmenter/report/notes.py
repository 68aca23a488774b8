"""What the end of a training says, in words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cellsegmenter.training.constraints import PENALTY_RANGE

__all__ = ["Constraint", "constraints_of", "training_notes"]

_END = 0.1  # of the history: what "the end" is a mean over
_STILL_FALLING = 0.05  # decrease of the reconstruction error over the last fifth that is worth more steps
_FEW_ROWS = 20  # of the history: below it nothing is said of where the error goes
_SAME = 0.01  # a value this close to a bound, relative to it, counts as inside


class Constraint(NamedTuple):
    """One constraint of a training: the column of the history that it bounds."""

    name: str  # as in `penalties_`
    column: str  # of `history_`
    title: str
    low: float
    high: float
    below: str  # what it means to stay below
    above: str


def constraints_of(segmenter: Any) -> list[Constraint]:
    """The constraints of a fitted `CellSegmenter`, in the units of its history."""
    return [
        Constraint(
            "density",
            "objects",
            "objects in a window",
            *_pair(segmenter.density),
            "objects may be smaller or fainter than the bounds say, or density is too high: compare with "
            "`cellseg suggest`",
            "objects may be cut into parts, or background is taken for objects: raise object_size, or density",
        ),
        Constraint(
            "area",
            "area",
            "covered fraction",
            *_pair(segmenter.area),
            "objects are found too small or are missed: lower area, or look whether the threshold that gave it "
            "took haze for objects",
            "masks include background, or the images hold more foreground than area says",
        ),
        Constraint(
            "reconstruction",
            "reconstruction",
            "reconstruction error",
            0.0,
            1.0,
            "",
            "a threshold with two levels explains the images better: the background may be uneven or structured, "
            "or the run too short",
        ),
    ]


def training_notes(segmenter: Any) -> list[str]:
    """Say what a user should know of how a training ended.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.

    Returns
    -------
    list of str
        One sentence each; none if everything ended well.
    """
    history = segmenter.history_
    if not history:
        return ["The model holds no history of its training."]
    notes = [note for constraint in constraints_of(segmenter) for note in _of_constraint(constraint, history)]
    notes += [
        f"The penalty of {name} is at its upper limit ({value:.3g}): the bound could not be enforced."
        for name, value in segmenter.penalties_.items()
        if value >= 0.99 * PENALTY_RANGE[1]
    ]
    return notes + _of_run(history)


def _of_constraint(constraint: Constraint, history: dict[str, np.ndarray]) -> list[str]:
    """Whether a constraint held at the end."""
    if constraint.column not in history:
        return []
    value = float(_end(history[constraint.column]).mean())
    said = f"{constraint.name.capitalize()}: {constraint.title} ended at {value:.3g}"
    if value < constraint.low * (1 - _SAME):
        return [f"{said}, below its bound of {constraint.low:g}; {constraint.below}."]
    if value > constraint.high * (1 + _SAME):
        return [f"{said}, above its bound of {constraint.high:g}; {constraint.above}."]
    return []


def _of_run(history: dict[str, np.ndarray]) -> list[str]:
    """Whether the run was long enough, and steady."""
    notes = []
    steps = history["step"]
    error = history.get("reconstruction", np.zeros(0))
    if 0 < len(error) < _FEW_ROWS:
        notes.append(
            f"{steps[-1]:.0f} steps are too few to tell from the curves whether the model has learned: look at the "
            "windows."
        )
    if len(error) >= _FEW_ROWS:
        before, after = (part.mean() for part in np.array_split(error[-(len(error) // 5) :], 2))
        if after < (1 - _STILL_FALLING) * before:
            notes.append(
                "The reconstruction error was still falling at the end: more steps should help, in a new run or "
                "from this model on (`--start-from`, `warm_start`)."
            )
    warmup = history.get("warmup", np.zeros(0))
    if len(warmup) and warmup[-1] > 0:
        notes.append(f"The warm-up had not ended after {steps[-1]:.0f} steps: fit with more steps.")
    for place in np.flatnonzero(np.diff(warmup) > 0.1):
        notes.append(
            f"The training collapsed and started its warm-up again near step {steps[place + 1]:.0f}."
        )
    return notes


def _pair(bounds: Any) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def _end(values: np.ndarray) -> np.ndarray:
    return values[-max(1, round(_END * len(values))) :]
