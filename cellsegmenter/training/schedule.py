"""Everything that changes with the step, and when a run ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "RunLength",
    "average_decay",
    "evidence_share",
    "learning_rate",
    "lessons_begun",
    "mask_hold",
    "warmup_weight",
]

# The warm-up in steps (Sec. 3): f holds for the first 100 steps and is gone after 350.  The authors' 2,000
# and 6,000 steps belong to a straight-through presence; the mean-field update needs the hint only until the
# decoder draws its first objects.
_WARMUP_HOLD, _WARMUP_END = 100, 350
_WARMUP_WEIGHT = 0.4
_WARMUP_SHARE = 0.3
# Evidence starts at this part of its final strength: see `evidence_share`.  It is there after this part of the run, and
# after so many steps at the latest: a run may end long before its last step, when it has converged.
_FIRST_EVIDENCE, _EVIDENCE_RISE, _LONGEST_RISE = 0.375, 0.4, 1200
# The learning rate ends at this part of its peak: measured, counting accuracy swings by 10 to 15 points
# between evaluations without a decay.
_FINAL_RATE = 0.02
_RISE_STEPS = 20
# Converged: the mean L_rec of this many steps is within this fraction of that of as many steps before.
_PLATEAU_STEPS, _PLATEAU_GAIN = 300, 0.003
# It is looked for once two such stretches fit behind the warm-up.
_FIRST_LOOK = _WARMUP_END + 2 * _PLATEAU_STEPS


def warmup_weight(step: int, n_steps: int) -> float:
    """f(t): weight of the residual's rank in the presence probability (Sec. 3); over by 30 % of a short run."""
    pace = min(1.0, _WARMUP_SHARE * n_steps / _WARMUP_END)
    fraction = (_WARMUP_END - step / pace) / (_WARMUP_END - _WARMUP_HOLD)
    return _WARMUP_WEIGHT * min(max(fraction, 0.0), 1.0)


def mask_hold(step: int, n_steps: int) -> float:
    """How much of every mask is a soft disc: all of it at first, nothing after the warm-up.

    The background learns faster than what objects look like, and a mask over a worse explanation closes: then no
    pixel teaches the object any more.  So masks stay open for as long as the warm-up shows where to look.
    Without it one of six trainings on multi-MNIST had closed all its masks by step 70.
    """
    return warmup_weight(step, n_steps) / _WARMUP_WEIGHT


def evidence_share(step: int, n_steps: int) -> float:
    """How much of its evidence an object may claim: at first only what explains much is worth an object.

    While decoders are poor, halves of an object explain as much as any, and two halves that are on keep the whole
    off for good.  Asked to explain half as much as the typical object, wholes come first; small ones, which are
    as little, are let in once the wholes are learned.  Multi-MNIST with grid, seed 1: 92.8 % counted after 1500
    steps, and without this 80.4 % after 3360, most errors being digits in two boxes.
    """
    return min(1.0, _FIRST_EVIDENCE + (1 - _FIRST_EVIDENCE) * step / _evidence_rise(n_steps))


def lessons_begun(step: int, n_steps: int) -> bool:
    """Whether pairs of objects are worth learning from: once evidence counts in full, what is on is an object."""
    return step >= _evidence_rise(n_steps)


def _evidence_rise(n_steps: int) -> float:
    return min(_EVIDENCE_RISE * n_steps, _LONGEST_RISE)


@dataclass
class RunLength:
    """A run is flat at first and decays for as long again; when the flat half converges, the decay starts early.

    Convergence is looked for from step 950 on, and before half of `n_steps`: runs of up to twice that, 1,900 steps,
    keep their full length.
    """

    n_steps: int  # at most
    decay_start: int | None = None  # set once the flat half has converged

    @property
    def flat(self) -> int:
        """The step in which the decay starts."""
        return self.n_steps // 2 if self.decay_start is None else self.decay_start

    @property
    def end(self) -> int:
        return self.n_steps if self.decay_start is None else 2 * self.decay_start

    def update(self, step: int, reconstruction: Sequence[float]) -> None:
        """Look for convergence in the history of L_rec, whose rows are equally spaced up to `step`."""
        if self.decay_start is not None or step < _FIRST_LOOK or step >= self.flat:
            return
        rows = round(_PLATEAU_STEPS * len(reconstruction) / step)
        before, now = np.mean(reconstruction[-2 * rows : -rows]), np.mean(reconstruction[-rows:])
        if now > (1 - _PLATEAU_GAIN) * before:
            self.decay_start = step


def learning_rate(step: int, length: RunLength, peak: float) -> float:
    """A short linear rise, flat, then half a cosine down to 2 % of the peak."""
    progress = max(0.0, (step - length.flat) / max(length.end - length.flat, 1))
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return peak * min(1.0, (step + 1) / _RISE_STEPS) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)


def average_decay(step: int) -> float:
    """Decay of the running average of the weights: short at first, 0.99 later."""
    return min(0.99, (1 + step) / (10 + step))
