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

from cellsegmenter.types import Boxes, Selection, WindowPosterior

__all__ = ["box_loss", "mask_boxes", "presence_loss", "presence_target"]

# Weights of the pull towards "off", against 1 for a pick's own target.
_IDLE_WEIGHT = 0.2  # cells neither picked nor suppressed
_COVERED_WEIGHT = 0.1  # cells suppressed by an object


@torch.no_grad()
def presence_target(gain_logit: Tensor, prior_logit: Tensor) -> Tensor:
    """q_k = sigmoid(gain + prior), (B, K)."""
    return torch.sigmoid(gain_logit + prior_logit)


def presence_loss(logit: Tensor, selection: Selection, covered: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the picks to their targets, a sum over the window and a mean over the batch.

    Picks get their target.  Cells neither picked nor suppressed are pulled to off.  So are, more gently, the
    cells that an object covers: given that object, what they would add is nothing, which is their optimum.
    Left alone they stay on, and the field before suppression is dense: each posterior sample then draws
    another winner.  In early trials on multi-MNIST one sample's count was right in 39 % of the images without
    it (600 steps) and in 66 % with a weight of 0.03 (300 steps).
    The pull is gentle because the winner changes between samples.

    Parameters
    ----------
    logit : Tensor (B, G)
    selection : Selection
    covered : Tensor (B, G) bool
        Suppressed by a pick that is on.
    target : Tensor (B, K)
    """
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    picked = (entropy(logit.gather(1, selection.grid_index), target, reduction="none") * selection.valid).sum(
        1
    )
    idle = (~selection.suppressed).float().scatter(1, selection.grid_index, 0.0)
    weight = _IDLE_WEIGHT * idle + _COVERED_WEIGHT * covered
    return (picked + (torch.nn.functional.softplus(logit) * weight).sum(1)).mean()


@torch.no_grad()
def mask_boxes(posterior: WindowPosterior, margin: float) -> tuple[Boxes, Tensor]:
    """Bounding boxes (B, K) px of the masks w > 1/2, grown by `margin` px, and whether there is any such point."""
    mask = posterior.mixing_weight > 0.5  # (B, K, R, R)
    raster = mask.shape[-1]
    index = torch.arange(raster, device=mask.device)

    def extent(along: Tensor, centre: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.where(along, index, raster).amin(-1) / raster
        high = torch.where(along, index + 1, 0).amax(-1) / raster
        return centre + (low + high - 1) / 2 * side, (high - low) * side + 2 * margin

    boxes = posterior.boxes
    x, width = extent(mask.any(-2), boxes.x, boxes.width)
    y, height = extent(mask.any(-1), boxes.y, boxes.height)
    return Boxes(x, y, width, height), mask.flatten(2).any(-1)


def box_loss(
    grid_boxes: Boxes, posterior: WindowPosterior, overlap: Tensor, object_size: tuple[float, float]
) -> Tensor:
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
    wanted, visible = mask_boxes(posterior, margin=1.5)
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
