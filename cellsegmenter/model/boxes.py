"""Bounding boxes: from latent codes to pixels (Suppl. S2), and how much two boxes overlap."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cellsegmenter.types import Boxes

__all__ = ["SAME_BOX", "BoxCode", "intersection", "intersection_over_minimum", "intersection_over_union"]

# Boxes of an intersection over union above this state the same object.
SAME_BOX = 0.5


class BoxCode(nn.Module):
    """Map box latents v ~ N(0, I_4) to boxes: t = sigmoid(theta_b + Theta_w v) (Suppl. S2).

    Parameters
    ----------
    object_size : (float, float)
        Shortest and longest side of a box, px.
    spacing : int
        Pitch of the object grid, px.
    reach : float
        How far a centre may move from the middle of its own cell, in units of the spacing.  The paper
        keeps it inside the cell (0.5).  We use 1, so that two neighbouring cells can both reach an
        object that lies on their border: with 0.5 such an object has two half-fitting candidates.
    initial_side : float
        Side of the box at v = 0 before training, px.
    """

    def __init__(
        self, object_size: tuple[float, float], spacing: int, reach: float, initial_side: float
    ) -> None:
        super().__init__()
        self.object_size = object_size
        self.spacing = spacing
        self.reach = reach
        low, high = object_size
        side = min(max((initial_side - low) / (high - low), 0.05), 0.95)
        self.bias = nn.Parameter(torch.tensor([0.0, 0.0, *[math.log(side / (1 - side))] * 2]))
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, z_where: Tensor, grid_shape: tuple[int, int]) -> Boxes:
        """Boxes (B, G) from codes (B, G, 4), rows of the grid first."""
        rows, columns = grid_shape
        t = torch.sigmoid(self.bias + z_where.float() @ self.weight.T)  # (B, G, 4)
        index = torch.arange(rows * columns, device=t.device)
        offset = self.reach * (2 * t[..., :2] - 1) + 0.5
        low, high = self.object_size
        sides = low + (high - low) * t[..., 2:]
        return Boxes(
            x=(index % columns + offset[..., 0]) * self.spacing,
            y=(index // columns + offset[..., 1]) * self.spacing,
            width=sides[..., 0],
            height=sides[..., 1],
        )


def _overlap(centre: Tensor, side: Tensor, other_centre: Tensor, other_side: Tensor) -> Tensor:
    low = torch.maximum((centre - side / 2).unsqueeze(-1), (other_centre - other_side / 2).unsqueeze(-2))
    high = torch.minimum((centre + side / 2).unsqueeze(-1), (other_centre + other_side / 2).unsqueeze(-2))
    return (high - low).clamp_min(0)


def intersection(a: Boxes, b: Boxes) -> Tensor:
    """Area of every intersection, (..., N, M) px², for boxes (..., N) and (..., M)."""
    return _overlap(a.x, a.width, b.x, b.width) * _overlap(a.y, a.height, b.y, b.height)


def _areas(a: Boxes, b: Boxes) -> tuple[Tensor, Tensor]:
    return (a.width * a.height).unsqueeze(-1), (b.width * b.height).unsqueeze(-2)


def intersection_over_minimum(a: Boxes, b: Boxes) -> Tensor:
    """Intersection over the smaller area (Suppl. S5), (..., N, M) in [0, 1].  Never below the IoU."""
    area_a, area_b = _areas(a, b)
    return intersection(a, b) / torch.minimum(area_a, area_b)


def intersection_over_union(a: Boxes, b: Boxes) -> Tensor:
    """Intersection over union, (..., N, M) in [0, 1]."""
    area_a, area_b = _areas(a, b)
    common = intersection(a, b)
    return common / (area_a + area_b - common)
