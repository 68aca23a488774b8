"""The generative model as a second witness: is something there where the recognition network sees a shape, and what?

One pass of its U-Net over a block gives presence probabilities and boxes (Sec. 2.1), and each shape is encoded once, in
the box that the model would give it (Eq. 11).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from cellsegmenter.model.boxes import intersection
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.recognition.blocks import Surroundings, read_around
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.region import Region
from cellsegmenter.types import Boxes

__all__ = ["read_for_witness", "testify"]

# What the model's boxes leave around an object, px: it was trained so (`training.objective`).
_BOX_MARGIN = 1.5
# px around a block that decide what the U-Net says in it: two convolutions on each level and back.
_HALO = 96
# Sides of what it sees are multiples of this, px, and images are continued by so many px.
_MULTIPLE, _PADDING = 16, 32
# Boxes that may be believed at all, and how many of the nearest are compared with a candidate.
_LEAST_BELIEVED, _NEAREST = 0.02, 16
# A box speaks for a candidate if it covers this much of it.  Where they would have to agree, the box of a merged pair
# would speak against both of its halves: 57 training images of nuclei, mean of four APs: .778 so, .787 with this.
_COVERED = 0.5
_ENCODED_AT_ONCE = 512


def read_for_witness(model: StructuredVAE, image: Any, block: Region) -> Surroundings:
    """What the model has to see of an image (C, H, W) at working scale to speak of shapes in a block."""
    # The largest box reaches beyond the block, too.
    reach = _MULTIPLE * math.ceil(model.config.object_size[1] / 2 / _MULTIPLE)
    return read_around(image, block, halo=_HALO + reach, padding=_PADDING, multiple=_MULTIPLE)


@torch.inference_mode()
def testify(
    model: StructuredVAE, around: Surroundings, stars: Stars, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """What the generative model says of shapes: that something is there, a probability (n,), and their codes (n, D)."""
    if not len(stars.centre):
        return np.zeros(0, np.float32), np.zeros((0, model.config.latent_dim), np.float32)
    image = torch.tensor(around.pixels, dtype=torch.float32, device=device)[None]
    features = model.features(image)
    prob, believed = _believed_boxes(model, features.grid)
    own = _boxes_of(stars, around.corner, model.config.object_size, device)
    codes = [
        model.encode_few(
            image, features.fine, Boxes(*(side[start : start + _ENCODED_AT_ONCE] for side in own))
        ).mean
        for start in range(0, len(stars.centre), _ENCODED_AT_ONCE)
    ]
    witness = _best_covering(own, believed, prob)
    return witness.float().cpu().numpy(), torch.cat(codes).float().cpu().numpy()


def _best_covering(own: Boxes, believed: Boxes, prob: Tensor) -> Tensor:
    """(n,) the highest probability (m,) among the boxes (m,) that cover each box (n,); 0 if none does."""
    if not len(prob):
        return torch.zeros_like(own.x)
    centres, near = (torch.stack([boxes.x, boxes.y], 1).cpu().numpy() for boxes in (own, believed))
    index = cKDTree(near).query(centres, k=np.arange(1, min(_NEAREST, len(near)) + 1))[1]
    nearest = torch.from_numpy(index).to(prob.device)
    boxes, others = Boxes(*(side[:, None] for side in own)), Boxes(*(side[nearest] for side in believed))
    covered = intersection(boxes, others)[:, 0] / (own.width * own.height)[:, None]
    return ((covered > _COVERED) * prob[nearest]).amax(1)


def _believed_boxes(model: StructuredVAE, grid: Tensor) -> tuple[Tensor, Boxes]:
    """Presence probabilities (m,) and boxes (m,) of the points of the object grid (1, C, H̃, W̃) that are not off."""
    proposals = model.propose(grid)
    prob = torch.sigmoid(proposals.presence_logit[0])
    index = (prob > _LEAST_BELIEVED).nonzero(as_tuple=True)[0]
    boxes = model.box_code(proposals.z_where.mean, (int(grid.shape[-2]), int(grid.shape[-1])))
    return prob[index], Boxes(*(side[0, index] for side in boxes))


def _boxes_of(
    stars: Stars, corner: np.ndarray, object_size: tuple[float, float], device: torch.device
) -> Boxes:
    """The boxes (n,) that the generative model would have for shapes, px from `corner`."""
    box = torch.from_numpy(stars.boxes.astype(np.float32)).to(device)
    top, left, bottom, right = (box - torch.tensor([*corner, *corner], device=device)).T
    height, width = (
        (high - low + 2 * _BOX_MARGIN).clamp(*object_size) for low, high in ((top, bottom), (left, right))
    )
    return Boxes((left + right) / 2, (top + bottom) / 2, width, height)
