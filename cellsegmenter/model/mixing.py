"""Mixing probabilities from mixing weights (Eq. 6)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["mixing_probabilities"]


def mixing_probabilities(mixing_weight: Tensor, presence: Tensor) -> Tensor:
    """pi_k = c_k w_k / max(1, sum_j c_j w_j) for k >= 1 (Eq. 6).

    Parameters
    ----------
    mixing_weight : Tensor (B, K, H, W)
        In [0, 1], zero outside the box of k.
    presence : Tensor (B, K)
        c_k in {0, 1}.  Multiplying by it masks the slots without an object exactly (Suppl. S5).

    Returns
    -------
    Tensor (B, K, H, W)
        The background keeps the rest, pi_0 = 1 - sum_k pi_k.
    """
    weight = mixing_weight * presence[..., None, None]
    return weight / weight.sum(1, keepdim=True).clamp_min(1)
