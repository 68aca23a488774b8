"""Crop boxes out of a canvas and paste rasters back (the paper's STN).

Boxes are axis-aligned, so bilinear sampling separates into rows and columns:

    crop(F)_{uv} = sum_{ij} P^y_{ui} F_{ij} P^x_{vj},      P_{ui} = max(0, 1 - |s_u - i|),

two small matrix products per box instead of a gather per sample.  It is the same interpolation as
`torch.nn.functional.grid_sample` (the tests hold them together), needs no
copy of the feature map per object, and its backward pass needs no scattered additions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cellsegmenter.types import Boxes

__all__ = ["crop", "crop_few", "paste", "paste_at", "paste_sum"]


def _tent(position: Tensor, size: int) -> Tensor:
    """Bilinear weights (..., N, size) of the samples at `position` (..., N), in index units."""
    index = torch.arange(size, device=position.device, dtype=position.dtype)
    return (1 - (position.unsqueeze(-1) - index).abs()).clamp_min(0)


def _crop_weights(centre: Tensor, side: Tensor, raster: int, canvas: int) -> Tensor:
    fraction = (torch.arange(raster, device=centre.device) + 0.5) / raster
    position = centre.unsqueeze(-1) + (fraction - 0.5) * side.unsqueeze(-1)  # px, (B, K, raster)
    return _tent(position - 0.5, canvas)


def crop(feature_map: Tensor, boxes: Boxes, raster: int) -> Tensor:
    """Resample each box of (B, C, H, W) on its own raster: (B, K, C, raster, raster)."""
    height, width = feature_map.shape[-2:]
    rows = _crop_weights(boxes.y, boxes.height, raster, height)  # (B, K, R, H)
    columns = _crop_weights(boxes.x, boxes.width, raster, width)  # (B, K, R, W)
    # All boxes of a window share its feature map: one (K R × H) · (H × C W) product per window.
    channels = feature_map.shape[1]
    tall = feature_map.transpose(1, 2).flatten(2)  # (B, H, C W)
    strips = (rows.flatten(1, 2) @ tall).unflatten(1, rows.shape[1:3])  # (B, K, R, C W)
    strips = strips.unflatten(3, (channels, width)).flatten(2, 3)  # (B, K, R C, W)
    patches = strips @ columns.transpose(-1, -2)  # (B, K, R C, R)
    return patches.unflatten(2, (raster, channels)).transpose(2, 3)


def crop_few(feature_map: Tensor, boxes: Boxes, raster: int) -> Tensor:
    """`crop` of boxes (n,) in one map (C, H, W) that is large beside them: (n, C, raster, raster)."""
    height, width = feature_map.shape[-2:]
    fraction = (torch.arange(raster, device=feature_map.device) + 0.5) / raster - 0.5
    x = 2 * (boxes.x[:, None] + fraction * boxes.width[:, None]) / width - 1
    y = 2 * (boxes.y[:, None] + fraction * boxes.height[:, None]) / height - 1
    shape = (len(boxes.x), raster, raster)
    place = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], -1)  # (n, R, R, 2)
    sampled = grid_sample(feature_map[None], place.flatten(0, 1)[None], align_corners=False)  # (1, C, n R, R)
    return sampled[0].unflatten(1, shape[:2]).transpose(0, 1)


def _paste_weights(centre: Tensor, side: Tensor, raster: int, canvas: int) -> Tensor:
    return _weights_at(torch.arange(canvas, device=centre.device), centre, side, raster)


def _weights_at(pixel: Tensor, centre: Tensor, side: Tensor, raster: int) -> Tensor:
    """Bilinear weights (..., P, raster) of a raster's cells in pixels (..., P) along one axis."""
    u = 2 * (pixel + 0.5 - centre.unsqueeze(-1)) / side.unsqueeze(-1)  # the box spans [-1, 1]
    inside = (u.abs() <= 1).unsqueeze(-1)  # Eq. 5: exactly zero outside the box
    return _tent((u + 1) * raster / 2 - 0.5, raster) * inside


def paste(values: Tensor, boxes: Boxes, canvas: tuple[int, int]) -> Tensor:
    """Draw each raster (B, K, C, R, R) into its box on an empty canvas: (B, K, C, H, W) (Eq. 5)."""
    raster = values.shape[-1]
    rows = _paste_weights(boxes.y, boxes.height, raster, canvas[0])  # (B, K, H, R)
    columns = _paste_weights(boxes.x, boxes.width, raster, canvas[1])  # (B, K, W, R)
    return rows.unsqueeze(2) @ values @ columns.unsqueeze(2).transpose(-1, -2)


def paste_at(values: Tensor, boxes: Boxes, row: Tensor, column: Tensor) -> Tensor:
    """What `paste` draws of rasters (n, R, R) in boxes (n,), at rows and columns (n, P) only: (n, P, P)."""
    raster = values.shape[-1]
    rows = _weights_at(row, boxes.y, boxes.height, raster)
    columns = _weights_at(column, boxes.x, boxes.width, raster)
    return rows @ values @ columns.transpose(-1, -2)


def paste_sum(values: Tensor, boxes: Boxes, canvas: tuple[int, int]) -> Tensor:
    """The sum over K of `paste`, (B, C, H, W), without a canvas for each of them."""
    raster = values.shape[-1]
    rows = _paste_weights(boxes.y, boxes.height, raster, canvas[0])  # (B, K, H, R)
    columns = _paste_weights(boxes.x, boxes.width, raster, canvas[1])  # (B, K, W, R)
    channels = values.shape[2]
    strips = values.transpose(2, 3).flatten(2, 3) @ columns.transpose(-1, -2)  # (B, K, R C, W)
    # One (H × K R) · (K R × C W) product per window sums over objects and raster rows together.
    tall = strips.unflatten(2, (raster, channels)).flatten(1, 2).flatten(2)  # (B, K R, C W)
    summed = rows.transpose(1, 2).flatten(2) @ tall  # (B, H, C W)
    return summed.unflatten(2, (channels, canvas[1])).transpose(1, 2)
