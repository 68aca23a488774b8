"""Where the background alone does not explain the image (the warm-up of Sec. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from cellsegmenter.types import Boxes

__all__ = ["box_mean", "residual_rank"]


def box_mean(field: Tensor, boxes: Boxes) -> Tensor:
    """Mean of `field` (B, H, W) inside each box (B, G), by an integral image; boxes are cut at the canvas."""
    height, width = field.shape[-2:]
    integral = torch.nn.functional.pad(field.cumsum(-1).cumsum(-2), (1, 0, 1, 0))  # (B, H + 1, W + 1)

    def edges(centre: Tensor, side: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        low = (centre - side / 2).round().clamp(0, limit - 1)
        high = (centre + side / 2).round().clamp(1, limit)
        return low.long(), torch.maximum(high, low + 1).long()

    top, bottom = edges(boxes.y, boxes.height, height)
    left, right = edges(boxes.x, boxes.width, width)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        return integral.flatten(1).gather(1, row * (width + 1) + column)

    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    return total / ((bottom - top) * (right - left))


@torch.no_grad()
def residual_rank(image: Tensor, background: Tensor, boxes: Boxes) -> Tensor:
    """Rank in (0, 1] of every box of a window by its mean delta(p) = |x(p) - y_0(p)|^2, (B, G)."""
    delta = (image - background).square().sum(1)
    order = box_mean(delta, boxes).argsort(-1).argsort(-1)
    return (order + 1).float() / order.shape[-1]
