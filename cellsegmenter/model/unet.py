"""The U-Net that amortises all inference, with features at three depths (Sec. 2.1, Suppl. S3)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["UNet", "UNetFeatures", "double_convolution"]


class UNetFeatures(NamedTuple):
    """Features at the three depths that inference reads; level l has a pitch of 2^l px."""

    bottom: Tensor  # (B, C_bottom, H/2^depth, W/2^depth): the whole window, for the background
    grid: Tensor  # (B, C_grid, H/2^grid_level, W/2^grid_level): one vector per point of the object grid
    fine: Tensor  # (B, C_U, H/2^fine_level, W/2^fine_level): f_map, from which objects are cropped


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Ronneberger's U-Net; channels double with every level.

    Parameters
    ----------
    in_channels : int
        Channels of the image.
    channels : int
        Channels at the finest level, and of the feature map f_map (C_U; 32 in the paper).
    depth : int
        Coarsest level (4 in the paper: 512 × 5 × 5 at the bottom for an 80-px window).
    grid_level : int
        Level of the object grid.
    fine_level : int
        Finest level.  0 is the paper's: f_map at native resolution.  At 1 the image enters with its
        2 × 2 neighbourhoods as channels, and no pixel is lost: measured on a CPU, 16
        channels from level 1 on take about as long as 8 channels from level 0 on, or less.
    """

    def __init__(self, in_channels: int, channels: int, depth: int, grid_level: int, fine_level: int) -> None:
        super().__init__()
        self.grid_level, self.fine_level = grid_level, fine_level
        widths = [channels * 2**step for step in range(depth - fine_level + 1)]
        steps = list(pairwise(widths))
        self.out_channels = {fine_level + step: width for step, width in enumerate(widths)}
        self.stem = double_convolution(in_channels * 4**fine_level, widths[0])
        self.down = nn.ModuleList(double_convolution(a, b) for a, b in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in steps)
        self.merge = nn.ModuleList(double_convolution(2 * a, a) for a, _ in steps)

    def forward(self, image: Tensor) -> UNetFeatures:
        """Features of windows (B, C, H, W); H and W are multiples of 2^depth."""
        skips = [self.stem(nn.functional.pixel_unshuffle(image, 2**self.fine_level))]
        for block in self.down:
            skips.append(block(nn.functional.max_pool2d(skips[-1], 2)))
        bottom = current = skips.pop()
        by_level = {self.fine_level + len(skips): bottom}
        for step in reversed(range(len(skips))):
            current = self.merge[step](torch.cat([skips[step], self.up[step](current)], 1))
            by_level[self.fine_level + step] = current
        return UNetFeatures(bottom=bottom, grid=by_level[self.grid_level], fine=current)
