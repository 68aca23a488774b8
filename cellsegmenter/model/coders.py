"""Encoders and decoders of objects and background (Suppl. S3, S4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cellsegmenter.model.posterior import gaussian_posterior
from cellsegmenter.types import Gaussian

__all__ = [
    "BackgroundDecoder",
    "BackgroundEncoder",
    "BlobMask",
    "DecodedObjects",
    "FreeRasters",
    "ObjectDecoder",
    "ObjectEncoder",
]


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
        return gaussian_posterior(self.mean(features), self.raw_std(features))


class DecodedObjects(NamedTuple):
    """Objects in the raster of their own box."""

    mixing_weight: Tensor  # (N, 1, R, R) in (0, 1)
    appearance: Tensor  # (N, C, R, R)


class ObjectDecoder(nn.Module):
    """DEC_fg: z_k (N, D) to mixing weight and appearance (Sec. 2, Suppl. S4).

    The paper decodes both as free rasters.  Each can be given a form instead, see `BlobMask` and `Surface`; and the
    logits of a free mask have a learnable template, started as a soft disc in box coordinates.  Without it
    masks start by filling their boxes, and boxes then grow to their largest size (AP@0.5 of nuclei at equal
    steps in a prototype: .26 without, .50 with).

    Parameters
    ----------
    out_channels : int
        C of the image.
    raster : int
        R, px.
    channels : int
        Of the convolutions of free rasters.
    latent : int
        D.
    shape : {"free", "blob"}
    appearance : {"free", "smooth"}
    """

    disc: Tensor

    def __init__(
        self, out_channels: int, raster: int, channels: int, latent: int, *, shape: str, appearance: str
    ) -> None:
        super().__init__()
        self.blob = BlobMask(latent, raster) if shape == "blob" else None
        self.surface = Surface(latent, raster, out_channels) if appearance == "smooth" else None
        # Rasters of the mask and of the appearance, where they are free.
        self.widths = [1] * (self.blob is None) + [out_channels] * (self.surface is None)
        self.rasters = FreeRasters(latent, raster, channels, sum(self.widths)) if self.widths else None
        template = 4 * (0.8 - torch.hypot(*_box_coordinates(raster))).clamp(-1, 1)
        if self.blob is None:
            self.template = nn.Parameter(template)
        self.register_buffer("disc", torch.sigmoid(template), persistent=False)

    def forward(self, z_what: Tensor) -> DecodedObjects:
        rasters: Sequence[Tensor] = ()
        if self.rasters is not None:
            rasters = self.rasters(z_what).split(self.widths, dim=1)
        logit = rasters[0] + self.template if self.blob is None else self.blob(z_what)
        appearance = rasters[-1] if self.surface is None else self.surface(z_what)
        return DecodedObjects(torch.sigmoid(logit), appearance)


class FreeRasters(nn.Module):
    """Codes (N, D) to n rasters (N, n, R, R) by transposed convolutions (Suppl. S4)."""

    def __init__(self, latent: int, raster: int, channels: int, n_rasters: int) -> None:
        super().__init__()
        self.raster, self.channels = raster, channels
        self.base = math.ceil(raster / 4)  # doubled twice, then cut to the raster
        self.expand = nn.Linear(latent, 2 * channels * self.base**2)
        self.convolutions = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(channels, n_rasters, 4, 2, 1),
        )

    def forward(self, z_what: Tensor) -> Tensor:
        start = self.expand(z_what).view(-1, 2 * self.channels, self.base, self.base)
        return self.convolutions(start)[..., : self.raster, : self.raster].float()


class BlobMask(nn.Module):
    """Mask logits (N, 1, R, R) of a star-convex outline, in box coordinates: one smooth blob in each box.

        logit(r, θ) = slope · (R(θ) - r),    R(θ) = R_0 exp(a_0 + Σ_m a_m cos mθ + b_m sin mθ),  m = 1, 2, 3

    A free mask learns to be whatever is bright inside its box.  In a cluster that is all of the box: neighbours
    are swallowed whole, and the edges of boxes become the edges of objects.  This one cannot follow a pair of
    discs, and what it leaves uncovered asks for another object.  Nuclei of BBBC038, 21 training images, at
    γ_abs = 0.2: AP@0.5 pooled .66 with free masks after 2400 steps, .72 with blobs after 1200.

    The coefficients are bounded (`_REACH`).  The best fit to an ellipse of axes 3 : 2 along the diagonal has an
    intersection over union of .97, to one of 2 : 1 .91, to two touching discs .77.
    """

    waves: Tensor
    radius: Tensor
    reach: Tensor

    _REACH = (0.2, 0.2, 0.35, 0.1)  # of a_0, and of a_m and b_m; natural logarithms of a radius
    _BASE_RADIUS = 0.8  # R_0, of half the box
    _SLOPE = 8.0  # at the start, per half box

    def __init__(self, latent: int, raster: int) -> None:
        super().__init__()
        y, x = _box_coordinates(raster)
        angle, harmonics = torch.atan2(y, x), range(1, len(self._REACH))
        waves = [torch.ones_like(angle)] + [f(m * angle) for m in harmonics for f in (torch.cos, torch.sin)]
        reach = [self._REACH[0], *(self._REACH[m] for m in harmonics for _ in range(2))]
        self.register_buffer("waves", torch.stack(waves), persistent=False)  # (7, R, R)
        self.register_buffer("radius", torch.hypot(y, x), persistent=False)
        self.register_buffer("reach", torch.tensor(reach), persistent=False)
        self.coefficients = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, len(waves)))
        self.log_slope = nn.Parameter(torch.tensor(math.log(self._SLOPE)))

    def forward(self, z_what: Tensor) -> Tensor:
        bounded = torch.tanh(self.coefficients(z_what).float()) * self.reach
        outline = self._BASE_RADIUS * torch.exp((bounded[..., None, None] * self.waves).sum(1))
        return (self.log_slope.exp() * (outline - self.radius)).unsqueeze(1)


class Surface(nn.Module):
    """A level and a tilt for each object and channel, (N, C, R, R), and not free pixels.

    An object that cannot paint background has to close its mask around itself (AP@0.5 of nuclei at equal steps in a
    prototype: .41 with free pixels, .50 with this).
    """

    plane: Tensor

    def __init__(self, latent: int, raster: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.coefficients = nn.Linear(latent, 3 * out_channels)  # level, tilt by y, tilt by x
        plane = torch.cat([torch.ones(1, raster, raster), torch.stack(_box_coordinates(raster))])
        self.register_buffer("plane", plane, persistent=False)

    def forward(self, z_what: Tensor) -> Tensor:
        coefficients = self.coefficients(z_what).float().view(-1, self.out_channels, 3)
        # Not a matrix product: autocast would take that in bfloat16 again.
        return (coefficients[..., None, None] * self.plane).sum(2)


def _box_coordinates(raster: int) -> tuple[Tensor, Tensor]:
    """y and x (R, R) of the raster's pixel centres, in [-1, 1] across the box."""
    coordinate = (torch.arange(raster) + 0.5) / raster * 2 - 1
    y, x = torch.meshgrid(coordinate, coordinate, indexing="ij")
    return y, x


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
        return gaussian_posterior(*self.convolutions(pooled).flatten(1).chunk(2, 1))


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
