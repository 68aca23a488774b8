"""The recognition network: for every second pixel the probability of an object, and the outline that it sees.

It is small, has no recurrence and no window: what it says of a place depends on the pixels around it and not on where
a crop began, so that blocks of an image with a wide enough margin give what the whole image gives.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pixel_unshuffle

from cellsegmenter.model.device import autocast_for
from cellsegmenter.model.unet import double_convolution
from cellsegmenter.recognition.calibration import Calibration
from cellsegmenter.recognition.stars import N_RAYS

__all__ = ["RecognitionConfig", "RecognitionNetwork", "StarMap", "pitch_for"]

# Points of the grid across a typical object.
_POINTS_ACROSS = 8
# How far the network looks, in points of its grid, rounded up to whole cells of its coarsest level: two convolutions
# on each level (2 + 4 + 8 + 4 + 2), one in the head, and the alignment of the poolings.
_REACH = 28
# Points of the grid in one cell of the coarsest level.
_COARSEST = 4


@dataclass(frozen=True)
class RecognitionConfig:
    """The sizes of a recognition network; JSON-serialisable."""

    n_channels: int  # of the image
    diameter: float  # px of a typical object, at working scale
    width: int = 24  # channels of the finest level; they double with every level

    @property
    def pitch(self) -> int:
        """px between the points of its grid."""
        return pitch_for(self.diameter)

    @property
    def halo(self) -> int:
        """px around a block that decide what the network says in it."""
        return _REACH * self.pitch

    @property
    def multiple(self) -> int:
        """Sides of what the network sees are multiples of this, px."""
        return _COARSEST * self.pitch

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class StarMap(NamedTuple):
    """What the network says at each point of its grid, which is the first pixel of each pitch × pitch square."""

    logit: Tensor  # (B, h, w) of the objectness: 0.5 at the border of an object's middle, see `sleep.crops`
    radii: Tensor  # (B, 32, h, w) px


def pitch_for(diameter: float) -> int:
    """px between points of the grid for objects of a diameter: 1, 2, 4 or 8."""
    return 2 ** min(3, max(0, round(math.log2(diameter / _POINTS_ACROSS))))


class RecognitionNetwork(nn.Module):
    """A U-Net of three levels with two outputs.

    Attributes
    ----------
    config : RecognitionConfig
    calibration : Calibration
        What turns its scores into probabilities; fitted once it is trained.
    """

    def __init__(self, config: RecognitionConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.width, 2 * config.width, 4 * config.width
        steps = pairwise((config.n_channels * config.pitch**2, fine, middle, coarse))
        self.down = nn.ModuleList(double_convolution(inputs, outputs) for inputs, outputs in steps)
        self.narrow = nn.ModuleList([nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)])
        self.merge = nn.ModuleList(
            [double_convolution(2 * middle, middle), double_convolution(2 * fine, fine)]
        )
        self.head = nn.Sequential(nn.Conv2d(fine, 48, 3, padding=1), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(48, 1 + N_RAYS, 1)
        self.calibration = Calibration.usual()

    def forward(self, image: Tensor) -> StarMap:
        """What there is in images (B, C, H, W), whose sides are multiples of ``config.multiple``."""
        with autocast_for(image.device):
            levels = [self.down[0](pixel_unshuffle(image, self.config.pitch))]
            for block in self.down[1:]:
                levels.append(block(max_pool2d(levels[-1], 2)))
            current = levels.pop()
            for narrow, merge in zip(self.narrow, self.merge, strict=True):
                raised = interpolate(narrow(current), scale_factor=2, mode="nearest")
                current = merge(torch.cat([raised, levels.pop()], 1))
            features = self.head(current)
        # In float32: bfloat16 would give neighbours the same probability.
        raw = self.out(features.float())
        radius = self.config.diameter / 2
        radii = radius * (0.75 + raw[:, 1:])
        return StarMap(raw[:, 0], radii.clamp_min(0.5))
