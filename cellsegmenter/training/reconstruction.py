"""Reconstruction error with the mask enumerated, and what each object contributes to it (Sec. 2.1, Eq. 6)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cellsegmenter.model.rendering import Composite
from cellsegmenter.model.spatial_transformer import paste
from cellsegmenter.types import Boxes, WindowPosterior

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
    """g_k = L_rec(without k) - L_rec(with k), exact, for every slot, on or off, given the others, (B, K).

    Equation 6 depends on the objects through S = sum_j w_j and T = sum_j w_j E_j alone, so taking one object
    away or adding it is one subtraction or addition at each pixel; and it changes no pixel outside its box, so
    the sum runs over a patch around it.
    """
    patch = _Patches.around(posterior.boxes, (image.shape[-2], image.shape[-1]))
    fields = torch.stack([objects.weight, objects.weighted_error, background], 1)
    all_weight, all_error, background = patch.read(fields).unbind(2)  # (B, K, P, P)
    weight = posterior.mixing_weight.unsqueeze(2)
    first = weight * posterior.appearance
    second = (first * posterior.appearance).sum(2, keepdim=True)
    drawn = paste(torch.cat([weight, second, first], 2), patch.boxes, (patch.size, patch.size))
    weight, x = drawn[:, :, 0], patch.read(image)
    error = weight * x.square().sum(2) + drawn[:, :, 1] - 2 * (x * drawn[:, :, 2:]).sum(2)  # w_k E_k

    presence = posterior.presence[..., None, None]
    others_weight, others_error = all_weight - presence * weight, all_error - presence * error
    without = _mixed_error(others_weight, others_error, background)
    with_object = _mixed_error(others_weight + weight, others_error + error, background)
    return (without - with_object).sum((-1, -2)) / (image.shape[-1] * image.shape[-2] * 2 * noise_scale**2)


class _Patches(NamedTuple):
    """Squares of P × P pixels, inside the canvas, that hold what lies of each box on it."""

    size: int  # P
    rows: Tensor  # (B, K, P)
    columns: Tensor  # (B, K, P)
    boxes: Boxes  # (B, K) relative to the patch

    @classmethod
    def around(cls, boxes: Boxes, canvas: tuple[int, int]) -> _Patches:
        longest = float(torch.maximum(boxes.width, boxes.height).max())
        size = min(math.ceil(longest) + 1, *canvas)
        top = (boxes.y - size / 2).floor().clamp(0, canvas[0] - size)
        left = (boxes.x - size / 2).floor().clamp(0, canvas[1] - size)
        along = torch.arange(size, device=boxes.x.device)
        return cls(
            size=size,
            rows=top.long().unsqueeze(-1) + along,
            columns=left.long().unsqueeze(-1) + along,
            boxes=boxes._replace(x=boxes.x - left, y=boxes.y - top),
        )

    def read(self, fields: Tensor) -> Tensor:
        """The patches (B, K, C, P, P) of fields (B, C, H, W)."""
        batch = torch.arange(len(fields), device=fields.device)[:, None, None, None]
        picked = fields.permute(0, 2, 3, 1)[batch, self.rows.unsqueeze(-1), self.columns.unsqueeze(-2)]
        return picked.permute(0, 1, 4, 2, 3)
