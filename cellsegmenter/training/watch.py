"""Recognise the two ways in which training fails: everything empty, everything full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Collapse", "CollapseWatch"]

Collapse = Literal["empty", "full"]


@dataclass
class CollapseWatch:
    """Follows the mean number of objects per window.

    Both failures show within 1,000 steps and do not heal by themselves: without any object there is no
    decoder to learn from, and with every slot on no object learns to be one.

    Parameters
    ----------
    expected : (float, float)
        The user's density, objects per window.
    max_objects : int
        K_max.
    patience : int
        Steps for which the count has to be out of range before it is called a collapse.
    """

    expected: tuple[float, float]
    max_objects: int
    patience: int = 150
    count: float | None = None
    steps_outside: int = 0

    def update(self, count: float) -> Collapse | None:
        """Take the mean count of one batch; name the collapse in the step in which it is established."""
        self.count = count if self.count is None else 0.95 * self.count + 0.05 * count
        collapse = self._verdict(self.count)
        self.steps_outside = self.steps_outside + 1 if collapse else 0
        if self.steps_outside < self.patience:
            return None
        self.steps_outside = 0
        self.count = None
        return collapse

    def _verdict(self, count: float) -> Collapse | None:
        low, high = self.expected
        if count < min(0.1 * low, 0.25):
            return "empty"
        if count > 0.95 * self.max_objects and count > 1.25 * high:
            return "full"
        return None
