"""From features at the resolution of the object grid to presence and box codes (Sec. 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cellsegmenter.model.boxes import SAME_BOX, intersection_over_union
from cellsegmenter.model.posterior import gaussian_posterior
from cellsegmenter.types import Boxes, Proposals

__all__ = ["ProposalHead", "shared_coins"]


@torch.no_grad()
def shared_coins(uniform: Tensor, prob: Tensor, boxes: Boxes) -> Tensor:
    """One random number for all cells that draw the same box, (B, G): that of the most probable among them.

    Several cells can see an object, and training leaves all of those on that give it the same box.  They
    state one object, of which suppression keeps one box, so they toss one coin: with one each, five cells that
    give it an even chance would have it in 97 % of the samples.

    Parameters
    ----------
    uniform : Tensor (B, G)
        Uniform in [0, 1): the coins of independent cells, as in the paper.
    prob : Tensor (B, G)
        Presence probability.
    boxes : Boxes (B, G)
    """
    leader = (prob.unsqueeze(-2) * (intersection_over_union(boxes, boxes) > SAME_BOX)).argmax(-1)
    return uniform.gather(1, leader)


class ProposalHead(nn.Module):
    """A small MLP (1 × 1 convolutions) from (B, C, H̃, W̃) to p_grid and q(v_grid).

    Parameters
    ----------
    in_channels : int
    initial_prob : float
        Presence probability before training: expected objects per point of the grid.
    """

    def __init__(self, in_channels: int, initial_prob: float) -> None:
        super().__init__()
        self.initial_prob = min(max(float(initial_prob), 0.01), 0.5)
        self.mlp = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(in_channels, 1 + 4 + 4, 1)

    def initialise(self) -> None:
        """Start near the prior: p at the expected density, v at its mean."""
        with torch.no_grad():
            self.out.weight *= 0.1
        self.reset_presence()

    def reset_presence(self) -> None:
        """Forget what was learned of presence: p at the expected density everywhere."""
        with torch.no_grad():
            self.out.weight[0] = 0
            assert self.out.bias is not None
            self.out.bias[0] = math.log(self.initial_prob / (1 - self.initial_prob))

    def forward(self, grid_features: Tensor) -> Proposals:
        raw = self.out(self.mlp(grid_features)).flatten(2).transpose(1, 2).float()  # (B, G, 9)
        return Proposals(presence_logit=raw[..., 0], z_where=gaussian_posterior(raw[..., 1:5], raw[..., 5:]))
