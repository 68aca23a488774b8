"""Objects on the canvas: one by one to look at them, or summed at once to score them (Eqs. 5, 6, 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cellsegmenter.model.mixing import mixing_probabilities
from cellsegmenter.model.spatial_transformer import paste, paste_at, paste_sum
from cellsegmenter.types import Boxes, WindowPosterior

__all__ = ["Composite", "PresentObjects", "Rendering", "composite", "present_objects", "render"]


class Rendering(NamedTuple):
    """Every object on its own canvas."""

    mixing_weight: Tensor  # (B, K, H, W) w_k, zero outside its box (Eq. 5), before c is applied
    mixing_prob: Tensor  # (B, K, H, W) pi_k, zero where presence is zero (Eq. 6)
    appearance: Tensor  # (B, K, C, H, W) y_k
    background: Tensor  # (B, C, H, W) y_0

    @property
    def reconstruction(self) -> Tensor:
        """The expected image, (B, C, H, W): sum over q of pi_q y_q."""
        foreground = (self.mixing_prob.unsqueeze(2) * self.appearance).sum(1)
        return foreground + (1 - self.mixing_prob.sum(1, keepdim=True)) * self.background


def render(posterior: WindowPosterior) -> Rendering:
    """Draw all objects of a posterior sample."""
    height, width = posterior.background.shape[-2:]
    canvas = (height, width)
    weight = paste(posterior.mixing_weight.unsqueeze(2), posterior.boxes, canvas).squeeze(2)
    return Rendering(
        mixing_weight=weight,
        mixing_prob=mixing_probabilities(weight, posterior.presence),
        appearance=paste(posterior.appearance, posterior.boxes, canvas),
        background=posterior.background,
    )


class PresentObjects(NamedTuple):
    """The n present objects of a batch of windows, each on a patch of P × P px around its box."""

    row: Tensor  # (n, P) of the window; beyond it where the patch is
    column: Tensor  # (n, P)
    mixing_prob: Tensor  # (n, P, P) pi_k, zero outside the window


def present_objects(posterior: WindowPosterior) -> PresentObjects:
    """The mixing probabilities of `render`, without a canvas for each object.

    Objects are in the order of ``presence.nonzero()``: by window, and by slot within it.
    """
    window, slot = (posterior.presence > 0.5).nonzero(as_tuple=True)
    height, width = posterior.background.shape[-2:]
    boxes = Boxes(*(side[window, slot] for side in posterior.boxes))
    patch = int(torch.stack([boxes.width, boxes.height]).max().ceil()) + 1 if len(window) else 1
    row = _first_pixel(boxes.y, boxes.height).unsqueeze(-1) + torch.arange(patch, device=window.device)
    column = _first_pixel(boxes.x, boxes.width).unsqueeze(-1) + torch.arange(patch, device=window.device)
    weight = paste_at(posterior.mixing_weight[window, slot], boxes, row, column)
    inside = ((row >= 0) & (row < height)).unsqueeze(2) & ((column >= 0) & (column < width)).unsqueeze(1)
    weight = weight * inside
    # Eq. 6: the sum over all objects at each pixel of its window.
    place = row.clamp(0, height - 1).unsqueeze(2) * width + column.clamp(0, width - 1).unsqueeze(1)
    place = place + (window * height * width)[:, None, None]
    total = weight.new_zeros(len(posterior.presence) * height * width)
    total.index_add_(0, place.flatten(), weight.flatten())
    return PresentObjects(row, column, weight / total[place].clamp_min(1))


def _first_pixel(centre: Tensor, side: Tensor) -> Tensor:
    """The first pixel whose centre may lie in a box."""
    return (centre - side / 2 - 0.5).ceil().long()


class Composite(NamedTuple):
    """What the likelihood needs of all present objects together."""

    weight: Tensor  # (B, H, W): S = sum_k c_k w_k
    weighted_error: Tensor  # (B, H, W): T = sum_k c_k w_k |x - y_k|^2
    squared_weight: Tensor  # (B, H, W): sum_k c_k w_k^2

    @property
    def foreground_prob(self) -> Tensor:
        """sum_{k>=1} pi_k = S / max(1, S)  (Eq. 6), (B, H, W)."""
        return self.weight / self.weight.clamp_min(1)


def composite(posterior: WindowPosterior, image: Tensor) -> Composite:
    """Sum all objects on one canvas, without a canvas per object.

    Equation 6 needs the objects only through sums, and w |x - y|^2 = w |x|^2 - 2 x (w y) + w |y|^2 is linear in
    the rasters w, w y and w |y|^2: these are pasted and summed over objects by the same matrix product.  A
    canvas per object, (B, K, H, W), took 40 % of a training step.
    """
    weight = (posterior.mixing_weight * posterior.presence[..., None, None]).unsqueeze(2)  # (B, K, 1, R, R)
    first = weight * posterior.appearance
    second = (first * posterior.appearance).sum(2, keepdim=True)
    squared = weight * posterior.mixing_weight.unsqueeze(2)
    canvas = (image.shape[-2], image.shape[-1])
    sums = paste_sum(torch.cat([weight, second, squared, first], 2), posterior.boxes, canvas)
    total, second_sum, squared_sum, first_sum = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3:]
    error = total * image.square().sum(1) - 2 * (image * first_sum).sum(1) + second_sum
    return Composite(total, error.clamp_min(0), squared_sum)
