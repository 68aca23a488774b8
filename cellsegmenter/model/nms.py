"""Non-maximum suppression for a whole batch at once (Eq. 10, Suppl. S5)."""

from __future__ import annotations

import torch
from torch import Tensor

from cellsegmenter.types import Selection

__all__ = ["non_maximum_suppression", "select_best"]


def non_maximum_suppression(score: Tensor, overlap: Tensor, threshold: float) -> Tensor:
    """Greedy suppression: a box passes unless a better box that passed overlaps it above `threshold`.

    Whether box i passes depends on better boxes only, so applying the rule to all boxes in parallel
    fixes the best box in the first round, and at least the next undecided one in each further round:
    the fixed point is the greedy answer exactly, after as many rounds as the longest chain of
    overlapping boxes (typically fewer than ten), not one per box.

    Parameters
    ----------
    score : Tensor (B, G)
        Larger is better; ties go to the lower index.
    overlap : Tensor (B, G, G)
        Symmetric pairwise overlap in [0, 1].
    threshold : float
        Largest overlap that two kept boxes may have.

    Returns
    -------
    Tensor (B, G) bool
        True where the box passes.
    """
    order = score.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    better = rank.unsqueeze(-2) < rank.unsqueeze(-1)  # (B, G, G): column j is better than row i
    blocks = ((overlap > threshold) & better).float()
    kept = torch.ones_like(score)
    for _ in range(score.shape[-1]):
        updated = ((blocks @ kept.unsqueeze(-1)).squeeze(-1) == 0).float()
        if torch.equal(updated, kept):
            break
        kept = updated
    return kept.bool()


def select_best(score: Tensor, overlap: Tensor, threshold: float, max_objects: int) -> Selection:
    """Suppress, then keep the best `max_objects` of those that pass.

    Only boxes that passed can fill the K slots: a window with fewer of them has invalid slots, and no
    suppressed box leaks back in.
    """
    kept = non_maximum_suppression(score, overlap, threshold)
    slots = min(max_objects, score.shape[-1])
    best, index = score.masked_fill(~kept, -torch.inf).topk(slots, dim=-1)
    return Selection(grid_index=index, valid=best > -torch.inf, suppressed=~kept)
