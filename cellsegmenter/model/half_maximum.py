"""Where a blurred object ends: at half its height."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from cellsegmenter.model.rendering import PresentObjects

__all__ = ["above_half_maximum"]

_ROUNDS = 2  # the level of an object depends on where it ends


@torch.no_grad()
def above_half_maximum(drawn: PresentObjects, window: Tensor, image: Tensor, background: Tensor) -> Tensor:
    """The pixels of each object's patch that are at least half as bright as the object, (n, P, P) bool.

    Masks are learned on a logarithmic scale, on which the middle of a blurred edge is at a quarter of the height: they
    include the halo.  Brightness here is linear, above the median of the model's background in the window, which may
    draw the middle of a large object, and smoothed over 3 × 3 pixels against noise; the object's own is the mean, by
    mixing probability, over what is its own (above one half).
    Objects darker than the background are cut in the same way, and those that own no pixel are left as they are.

    Parameters
    ----------
    drawn : PresentObjects
        n objects.
    window : Tensor (n,)
        Of each object, an index into the batch.
    image, background : Tensor (B, C, H, W)
        Linear intensities; of several channels that which is highest above its background counts.
    """
    smooth = avg_pool2d(pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    usual = background.flatten(2).median(-1).values[..., None, None]
    height = (smooth - usual).amax(1)[
        window[:, None, None],
        drawn.row.clamp(0, image.shape[-2] - 1).unsqueeze(2),
        drawn.column.clamp(0, image.shape[-1] - 1).unsqueeze(1),
    ]
    own = drawn.mixing_prob * (drawn.mixing_prob > 0.5)
    bright = torch.ones_like(own, dtype=torch.bool)
    for _ in range(_ROUNDS):
        weight = own * bright
        total = weight.sum((1, 2)).clamp_min(torch.finfo(own.dtype).tiny)
        level = ((weight * height).sum((1, 2)) / total)[:, None, None]
        # height / level >= 1/2, without the division: a level may be 0, or negative.
        bright = height * level >= level.square() / 2
    return bright
