"""How presence learns: the mean-field fixed point instead of a straight-through gradient.

The paper sends dL/dc straight through to p.  Measured, that does not learn reliably: log q rewards p → 1 at
cells that suppression blocked, the gradient p(1 - p) dies once p is small, and the Bernoulli entropy keeps
hundreds of cells slightly on.  For a Bernoulli q the coordinate-wise optimum of the evidence bound is known
in closed form, though,

    logit p_k = F(without k) - F(with k),

with F the whole objective given the other objects.  The reconstruction part of that difference is exact and
cheap (`leave_one_out_gains`), the prior's part is the DPP's exact conditional log-odds, and the constraints'
part is what one more object costs at the current penalties.  We move the network towards it by cross-entropy.
Duplicates lose by themselves, because what they add to the reconstruction is nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellsegmenter.types import Boxes, WindowPosterior

__all__ = ["mask_boxes", "presence_loss", "presence_target", "box_loss"]

# A candidate explains this fraction of what the background leaves under its mask less well than the median
# candidate does, at most: keeps a poor first fit from being rejected before its decoder has learnt.
_QUALITY_FLOOR = 0.6
# Weight of the pull towards "off" on cells that were neither picked nor suppressed.
_IDLE_WEIGHT = 0.05


@torch.no_grad()
def presence_target(gain_logit: Tensor, prior_logit: Tensor, quality: Tensor) -> Tensor:
    """q_k = sigmoid(gain + prior) · quality, (B, K)."""
    return torch.sigmoid(gain_logit + prior_logit) * quality


@torch.no_grad()
def relative_quality(gain: Tensor, background_error: Tensor, presence: Tensor) -> Tensor:
    """clamp(r_k / median r, 0.6, 1) with r_k = g_k / (background error under the mask of k), (B, K)."""
    ratio = gain / background_error.clamp_min(1e-6)
    on = ratio[presence > 0.5]
    typical = on.median().clamp_min(1e-3) if on.numel() else ratio.new_tensor(1.0)
    return (ratio / typical).clamp(_QUALITY_FLOOR, 1)


def presence_loss(logit: Tensor, index: Tensor, valid: Tensor, suppressed: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the picks to their targets, a scalar per window on average.

    Picks get their target; cells neither picked nor suppressed a small pull to off; suppressed cells nothing,
    because whether they would be needed without their better neighbour was not tested.

    Parameters
    ----------
    logit, suppressed : Tensor (B, G)
    index, valid, target : Tensor (B, K)
    """
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    picked = (entropy(logit.gather(1, index), target, reduction="none") * valid).sum(1)
    idle = (~suppressed).float().scatter(1, index, 0.0)
    pull = (torch.nn.functional.softplus(logit) * idle).sum(1)
    return (picked + _IDLE_WEIGHT * pull).mean()


@torch.no_grad()
def mask_boxes(mixing_prob: Tensor, margin: float) -> tuple[Boxes, Tensor]:
    """Bounding boxes (B, K) px of the masks pi > 1/2, grown by `margin` px, and whether there is any such pixel."""
    mask = mixing_prob > 0.5
    height, width = mask.shape[-2:]

    def extent(along: Tensor, size: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(size, device=along.device)
        low = torch.where(along, index, size).amin(-1)
        high = torch.where(along, index + 1, 0).amax(-1)
        return low - margin, high + margin

    left, right = extent(mask.any(-2), width)
    top, bottom = extent(mask.any(-1), height)
    boxes = Boxes((left + right) / 2, (top + bottom) / 2, (right - left).float(), (bottom - top).float())
    return boxes, mask.flatten(2).any(-1)


def box_loss(grid_boxes: Boxes, posterior: WindowPosterior, overlap: Tensor, object_size: tuple[float, float]) -> Tensor:
    """Pull every cell near an object to the bounding box of that object's own mask.

    The box part of the paper's area constraint makes all boxes smaller or all larger; measured, bounding boxes
    splits objects and not bounding them merges objects.  The mask says what the box should be.

    Parameters
    ----------
    grid_boxes : Boxes (B, G) px
    posterior : WindowPosterior
        With K slots.
    overlap : Tensor (B, G, K)
        Intersection over minimum of grid boxes and slots.
    object_size : (float, float)
        Sides that a box may have, px.
    """
    wanted, visible = mask_boxes(posterior.mixing_prob, margin=1.5)
    wanted = wanted._replace(width=wanted.width.clamp(*object_size), height=wanted.height.clamp(*object_size))
    on = (posterior.presence > 0.5) & visible
    best, nearest = (overlap * on.unsqueeze(1)).max(-1)  # (B, G)
    near = (best > 0.3).float()
    aim = wanted.take(nearest)
    unit = 4.0  # px: differences below it count quadratically
    distance = sum(
        torch.nn.functional.smooth_l1_loss(side / unit, goal / unit, reduction="none")
        for side, goal in zip(grid_boxes, aim, strict=True)
    )
    return (distance * near).sum() / near.sum().clamp_min(1)
