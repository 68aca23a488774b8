"""Reconstruction error with the mask enumerated, and what each object contributes to it (Sec. 2.1, Eq. 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cellsegmenter.types import WindowPosterior

__all__ = ["PixelErrors", "leave_one_out_gains", "pixel_errors", "reconstruction_error"]


class PixelErrors(NamedTuple):
    """Squared errors summed over channels."""

    objects: Tensor  # (B, K, H, W): E_k = |x - y_k|^2
    background: Tensor  # (B, H, W): E_0


def pixel_errors(image: Tensor, posterior: WindowPosterior) -> PixelErrors:
    """E_k and E_0 for windows (B, C, H, W)."""
    objects = (image.unsqueeze(1) - posterior.appearance).square().sum(2)
    return PixelErrors(objects, (image - posterior.background).square().sum(1))


def _mixed_error(weight_sum: Tensor, error_sum: Tensor, background_error: Tensor) -> Tensor:
    """sum_q pi_q E_q from S = sum_k w_k and T = sum_k w_k E_k:  T/max(1, S) + (1 - S/max(1, S)) E_0."""
    normalizer = weight_sum.clamp_min(1)
    return error_sum / normalizer + (1 - weight_sum / normalizer) * background_error


def reconstruction_error(posterior: WindowPosterior, errors: PixelErrors, noise_scale: float) -> Tensor:
    """L_rec = 1/(2 sigma^2 |G_nat|) sum_p sum_q pi_q E_q, for each window (B,)."""
    weight = posterior.mixing_weight * posterior.presence[..., None, None]
    mixed = _mixed_error(weight.sum(1), (weight * errors.objects).sum(1), errors.background)
    return mixed.mean((-1, -2)) / (2 * noise_scale**2)


@torch.no_grad()
def leave_one_out_gains(posterior: WindowPosterior, errors: PixelErrors, noise_scale: float) -> Tensor:
    """g_k = L_rec(without k) - L_rec(with k), exact, for every slot, on or off, given the others (B, K).

    Equation 6 depends on the objects through S = sum_j w_j and T = sum_j w_j E_j alone, so taking one object
    away or adding it is one subtraction or addition at each pixel.
    """
    weight = posterior.mixing_weight
    on = weight * posterior.presence[..., None, None]
    weighted_error = weight * errors.objects
    others_weight = on.sum(1, keepdim=True) - on
    others_error = (on * errors.objects).sum(1, keepdim=True) - on * errors.objects
    background = errors.background.unsqueeze(1)
    without = _mixed_error(others_weight, others_error, background)
    with_object = _mixed_error(others_weight + weight, others_error + weighted_error, background)
    return (without - with_object).mean((-1, -2)) / (2 * noise_scale**2)
