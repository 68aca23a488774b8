"""SAPR: constraints on the posterior whose strengths follow from the user's bounds (Sec. 3, Eqs. 13-15).

Each constraint has a value Q, the user's bounds [lo, hi] and a trained penalty lambda:

    u(Q; lo) = Q sign(Q - lo),    v(Q; lo, hi) = min(Q - lo, hi - Q)                      (15)
    L += sg[lambda] u(Q; lo) + lambda sg[v(Q; lo, hi)]                                    (14)

u pushes Q up while it is below lo and down otherwise; descending lambda v makes lambda grow outside of
the bounds (v < 0) and decay inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["PENALTY_RANGE", "PosteriorConstraints", "range_margin"]

# Clamp of every penalty (Sec. 3).
PENALTY_RANGE = (0.1, 10.0)


def range_margin(value: Tensor, low: float, high: float) -> Tensor:
    """v(Q; lo, hi): how far inside its bounds the value is; negative outside  (Eq. 15)."""
    return torch.minimum(value - low, high - value)


class PosteriorConstraints(nn.Module):
    """The trained penalties lambda, one for each named constraint; part of every checkpoint.

    Parameters
    ----------
    bounds : mapping of str to (lo, hi)
        In the units of Q.
    enabled : bool
        False makes every penalty zero: for experiments that ask what SAPR contributes.

    Notes
    -----
    The paper descends lambda itself with the network's learning rate of 1e-3, which needs 10,000 steps
    from 1 to the upper clamp.  We descend log lambda with Adam at a rate of its own: the same sign,
    scale-free in Q (an area is about a tenth of a reconstruction error), and a factor of ten takes about 100 steps.
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]], *, enabled: bool = True) -> None:
        super().__init__()
        self.names = tuple(bounds)
        self.bounds = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
        self.enabled = enabled
        # From the lower clamp: a bound costs nothing before it is violated.  From 1, as published, what one more object
        # costs switches the first ones off, and a short run does not get over it.
        self.log_penalty = nn.Parameter(torch.full((len(self.names),), math.log(PENALTY_RANGE[0])))

    def penalty(self, name: str) -> Tensor:
        """lambda of this constraint, without gradient; zero when SAPR is disabled."""
        value = torch.exp(self.log_penalty[self.names.index(name)]).detach()
        return value if self.enabled else torch.zeros_like(value)

    def weight(self, name: str, value: Tensor) -> Tensor:
        """lambda sign(Q - lo): what one unit of Q costs at this value  (dL/dQ in Eq. 14, the slope of u in Eq. 15)."""
        return self.penalty(name) * torch.sign(value.detach() - self.bounds[name][0])

    def adaptation_loss(self, values: Mapping[str, Tensor]) -> Tensor:
        """sum_b lambda_b sg[v(Q_b)]  (second term of Eq. 14): trains the penalties only."""
        margins = torch.stack(
            [range_margin(values[name].detach(), *self.bounds[name]) for name in self.names]
        )
        return (torch.exp(self.log_penalty) * margins).sum()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring every penalty back into [0.1, 10]; after each step."""
        low, high = torch.tensor(PENALTY_RANGE, device=self.log_penalty.device).log()
        self.log_penalty.clamp_(low, high)
