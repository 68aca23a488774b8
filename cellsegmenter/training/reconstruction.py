"""Reconstruction error with the mask enumerated, and what each object contributes to it (Sec. 2.1, Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from cellsegmenter.model.rendering import Composite
from cellsegmenter.model.spatial_transformer import crop
from cellsegmenter.types import WindowPosterior

__all__ = ["background_error", "leave_one_out_gains", "reconstruction_error"]


def background_error(posterior: WindowPosterior, image: Tensor) -> Tensor:
    """E_0 = |x - y_0|^2, summed over channels, (B, H, W)."""
    return (image - posterior.background).square().sum(1)


def _mixed_error(weight_sum: Tensor, error_sum: Tensor, background: Tensor) -> Tensor:
    """sum_q pi_q E_q from S = sum_k w_k and T = sum_k w_k E_k:  T/max(1, S) + (1 - S/max(1, S)) E_0."""
    normalizer = weight_sum.clamp_min(1)
    return error_sum / normalizer + (1 - weight_sum / normalizer) * background


def reconstruction_error(objects: Composite, background: Tensor, noise_scale: float) -> Tensor:
    """L_rec = 1/(2 sigma^2 |G_nat|) sum_p sum_q pi_q E_q, for each window (B,).

    Parameters
    ----------
    objects : Composite
    background : Tensor (B, H, W)
        E_0.
    noise_scale : float
        sigma.
    """
    mixed = _mixed_error(objects.weight, objects.weighted_error, background)
    return mixed.mean((-1, -2)) / (2 * noise_scale**2)


@torch.no_grad()
def leave_one_out_gains(
    posterior: WindowPosterior, objects: Composite, image: Tensor, background: Tensor, noise_scale: float
) -> Tensor:
    """g_k = L_rec(without k) - L_rec(with k) for every slot, on or off, given the others, (B, K).

    Equation 6 depends on the objects through S = sum_j w_j and T = sum_j w_j E_j alone, so taking one object
    away or adding it is one subtraction or addition at each point.  The integral is taken over the object's
    own raster, where S, T, E_0 and x are interpolated: outside its box nothing changes.
    """
    raster = posterior.mixing_weight.shape[-1]
    inside = torch.ones_like(background)
    fields = torch.stack([objects.weight, objects.weighted_error, background, inside], 1)
    cropped = crop(torch.cat([fields, image], 1), posterior.boxes, raster)  # (B, K, 4 + C, R, R)
    all_weight, all_error, background, inside = cropped[:, :, :4].unbind(2)
    own_error = (cropped[:, :, 4:] - posterior.appearance).square().sum(2)
    weight, presence = posterior.mixing_weight, posterior.presence[..., None, None]
    others_weight = (all_weight - presence * weight).clamp_min(0)
    others_error = (all_error - presence * weight * own_error).clamp_min(0)
    without = _mixed_error(others_weight, others_error, background)
    with_object = _mixed_error(others_weight + weight, others_error + weight * own_error, background)
    fraction = posterior.boxes.width * posterior.boxes.height / (image.shape[-1] * image.shape[-2])
    return ((without - with_object) * inside).mean((-1, -2)) * fraction / (2 * noise_scale**2)
