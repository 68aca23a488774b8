"""Encoders and decoders of objects and background (Suppl. S3, S4)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cellsegmenter.types import Gaussian

__all__ = ["BackgroundDecoder", "BackgroundEncoder", "DecodedObjects", "ObjectDecoder", "ObjectEncoder"]

# Added to every posterior standard deviation, as in the authors' runs: keeps log sigma finite.
_STD_FLOOR = 1e-3
# Softplus^-1(0.1): a posterior that starts at the prior's width drowns its mean in noise.
_STD_BIAS = -2.25


def _gaussian(mean: Tensor, raw_std: Tensor) -> Gaussian:
    mean, raw_std = mean.float(), raw_std.float()
    return Gaussian(mean, nn.functional.softplus(raw_std + _STD_BIAS) + _STD_FLOOR)


class ObjectEncoder(nn.Module):
    """ENC_fg: cropped features and grey values (N, C, R, R) to q(z_k) (N, D)  (Eq. 11, Suppl. S4)."""

    def __init__(self, in_channels: int, raster: int, channels: int, latent: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, channels, 4, 1, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1),
            nn.ReLU(inplace=True),
        )
        features = 2 * channels * ((raster + 1) // 4) ** 2
        self.mean = nn.Linear(features, latent)
        self.raw_std = nn.Linear(features, latent)

    def forward(self, crops: Tensor) -> Gaussian:
        features = self.convolutions(crops).flatten(1)
        return _gaussian(self.mean(features), self.raw_std(features))


class DecodedObjects(NamedTuple):
    """Objects in the raster of their own box."""

    mixing_weight: Tensor  # (N, 1, R, R) in (0, 1)
    appearance: Tensor  # (N, C, R, R)


class ObjectDecoder(nn.Module):
    """DEC_fg: z_k (N, D) to mixing weight and appearance (Sec. 2, Suppl. S4).

    Two departures from the paper, measured on nuclei at equal steps in a prototype (AP@0.5 without → with):

    - The mask logits have a learnable template, started as a soft disc in box coordinates (.26 → .50).
      Without it masks start by filling their boxes, and boxes then grow to their largest size.
    - ``appearance="smooth"`` gives an object a level and a tilt per channel and not free pixels
      (.41 → .50): an object that cannot paint background has to close its mask around itself.
      ``"free"`` is the paper's raster of pixels.
    """

    plane: Tensor
    disc: Tensor

    def __init__(self, out_channels: int, raster: int, channels: int, latent: int, appearance: str) -> None:
        super().__init__()
        self.raster, self.channels, self.out_channels, self.appearance = (
            raster,
            channels,
            out_channels,
            appearance,
        )
        self.base = math.ceil(raster / 4)  # doubled twice, then cut to the raster
        self.expand = nn.Linear(latent, 2 * channels * self.base**2)
        free_channels = out_channels if appearance == "free" else 0
        self.convolutions = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, 1 + free_channels, 4, 2, 1),
        )
        if appearance == "smooth":
            self.surface = nn.Linear(latent, 3 * out_channels)
        coordinate = (torch.arange(raster) + 0.5) / raster * 2 - 1
        radius = torch.hypot(coordinate[:, None], coordinate[None, :])
        self.template = nn.Parameter(4 * (0.8 - radius).clamp(-1, 1))
        self.register_buffer("disc", torch.sigmoid(self.template.detach()), persistent=False)
        plane = torch.stack(torch.meshgrid(coordinate, coordinate, indexing="ij"))  # y, x
        self.register_buffer("plane", torch.cat([torch.ones(1, raster, raster), plane]), persistent=False)

    def forward(self, z_what: Tensor) -> DecodedObjects:
        start = self.expand(z_what).view(-1, 2 * self.channels, self.base, self.base)
        rasters = self.convolutions(start)[..., : self.raster, : self.raster].float()
        weight = torch.sigmoid(rasters[:, :1] + self.template)
        if self.appearance == "free":
            return DecodedObjects(weight, rasters[:, 1:])
        coefficients = (
            self.surface(z_what).float().view(-1, self.out_channels, 3)
        )  # level, tilt by y, tilt by x
        # Not a matrix product: autocast would take that in bfloat16 again.
        return DecodedObjects(weight, (coefficients[..., None, None] * self.plane).sum(2))


class BackgroundEncoder(nn.Module):
    """ENC_bg: bottom features (B, C, h, w) to q(z_0) (B, D)  (Eq. 9, Suppl. S3)."""

    def __init__(self, in_channels: int, channels: int, latent: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, channels, 1)
        self.convolutions = nn.Sequential(
            nn.Conv2d(2 * channels, 4 * channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * channels, 8 * channels, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(8 * channels, 8 * channels, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(8 * channels, 2 * latent, 1),
        )

    def forward(self, bottom: Tensor) -> Gaussian:
        squeezed = self.squeeze(bottom)
        pooled = torch.cat(
            [nn.functional.adaptive_avg_pool2d(squeezed, 5), nn.functional.adaptive_max_pool2d(squeezed, 5)],
            1,
        )
        return _gaussian(*self.convolutions(pooled).flatten(1).chunk(2, 1))


class BackgroundDecoder(nn.Module):
    """DEC_bg: z_0 (B, D) to the background image y_0 (B, C, size, size)  (Eq. 4, Suppl. S3).

    Its four doublings start from size / 16, which is 5 × 5 for the paper's 80-px window.
    """

    def __init__(self, out_channels: int, size: int, channels: int, latent: int) -> None:
        super().__init__()
        self.channels, self.base = channels, size // 16
        self.expand = nn.Linear(latent, channels * self.base**2)
        self.convolutions = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels // 2, out_channels, 4, 2, 1),
        )

    def forward(self, z_background: Tensor) -> Tensor:
        return self.convolutions(
            self.expand(z_background).view(-1, self.channels, self.base, self.base)
        ).float()
