"""The Gaussian posterior that the outputs of a network stand for."""

from __future__ import annotations

from torch import Tensor, nn

from cellsegmenter.types import Gaussian

__all__ = ["gaussian_posterior"]

# Added to every posterior standard deviation, as in the authors' runs: keeps log sigma finite.
_STD_FLOOR = 1e-3
# Softplus^-1(0.1).  At the prior's width a posterior would drown its mean in noise, and boxes would jump by a fifth of
# their size between samples.
_STD_BIAS = -2.25


def gaussian_posterior(mean: Tensor, raw_std: Tensor) -> Gaussian:
    """Means as they are, and positive standard deviations, about 0.1 where training starts; both in float32."""
    return Gaussian(mean.float(), nn.functional.softplus(raw_std.float() + _STD_BIAS) + _STD_FLOOR)
