"""Posterior samples of windows of a region, to compare its cuts with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cellsegmenter.inference import InferenceSettings, sample_windows
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.normalize import image_statistics, normalize_image
from cellsegmenter.preparation import Region
from cellsegmenter.tables import posterior_arrays
from cellsegmenter.tuning.sweep import SampledWindows
from cellsegmenter.windows import make_windows

__all__ = ["region_pixels", "sample_region"]

_N_WINDOWS = 24
_N_SAMPLES = 4


def sample_region(
    model: StructuredVAE, prepared: Any, settings: InferenceSettings, device: torch.device
) -> SampledWindows:
    """Draw posterior samples of windows that are evenly spread over a region.

    Parameters
    ----------
    model : StructuredVAE
        On `device`, in evaluation mode.
    prepared : array-like (C, H, W)
        The region, normalised, at working scale.
    settings : InferenceSettings
        Four samples are drawn of each window, whatever they say.
    device : torch.device
    """
    size = model.config.window_size
    shape = (int(prepared.shape[-2]), int(prepared.shape[-1]))
    grid = make_windows(shape, size, size // 2)
    inside = np.all((grid.origin >= 0) & (grid.origin + size <= np.array(shape)), axis=1)
    candidates = np.flatnonzero(inside) if inside.any() else np.arange(len(grid))
    index = candidates[np.unique(np.linspace(0, len(candidates) - 1, _N_WINDOWS).astype(int))]
    windows = grid.extract(prepared, index)
    several = replace(settings, n_samples=_N_SAMPLES)
    drawn = sample_windows(model, windows, grid.origin[index], several, device)
    labels = posterior_arrays([[posterior for _, posterior in drawn]]).labels
    return SampledWindows(grid.pixel_index(index), labels, shape)


def region_pixels(image: Any, region: Region) -> np.ndarray:
    """A region of an image (C, H, W) to be looked at: (height, width), normalised as the whole, brightest channel."""
    pixels = np.asarray(image[(slice(None), *region.slices)])
    return normalize_image(pixels, statistics=image_statistics(image)).max(axis=0)
