"""What a model gives beside segmentations: posterior samples of windows, decoded latent codes, new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellsegmenter.inference import BATCH_SIZE, InferenceSettings, cut_at_half_maximum, sample_windows
from cellsegmenter.model.rendering import PresentObjects, render
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.tables import posterior_arrays
from cellsegmenter.types import PosteriorSamples, WindowPosterior
from cellsegmenter.windows import first_window

__all__ = ["DecodedCodes", "GeneratedImages", "decode_codes", "draw_images", "posterior_of_windows"]

_DECODED_AT_ONCE = 1024  # latent codes


class GeneratedImages(NamedTuple):
    """What `CellSegmenter.sample` draws."""

    images: np.ndarray  # (n, C, H, W) float32, normalised intensities
    labels: np.ndarray  # (n, H, W) int32: 0 background, k the k-th object of the window


class DecodedCodes(NamedTuple):
    """What `CellSegmenter.inverse_transform` gives, each object in its own raster of R × R px."""

    appearance: np.ndarray  # (n, C, R, R) float32, normalised intensities
    mixing_weight: np.ndarray  # (n, R, R) float32 in 0..1


def posterior_of_windows(
    model: StructuredVAE, images: Sequence[Any], settings: InferenceSettings, device: torch.device
) -> PosteriorSamples:
    """Posterior samples of prepared images no larger than a window; see `CellSegmenter.sample_posterior`."""
    posteriors, mixing_probs = [], []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        windows = np.stack([first_window(image, model.config.window_size) for image in batch])
        corners = np.array([(start + i, 0) for i in range(len(batch))])
        samples = [posterior for _, posterior in sample_windows(model, windows, corners, settings, device)]
        posteriors.append(samples)
        mixing_probs.append([_shown(model, posterior, windows, settings.intensity) for posterior in samples])
    return posterior_arrays(posteriors, mixing_probs)


def _shown(
    model: StructuredVAE, posterior: WindowPosterior, windows: np.ndarray, intensity: Literal["log", "linear"]
) -> Tensor:
    """Mixing probabilities (B, K, H, W); blobs end where they end in `predict`."""
    prob = render(posterior).mixing_prob
    if model.config.shape != "blob":
        return prob
    where = (posterior.presence > 0.5).nonzero(as_tuple=True)
    # A patch for each object that is the whole window.
    row, column = (
        torch.arange(side, device=prob.device).expand(len(where[0]), -1) for side in prob.shape[-2:]
    )
    drawn = cut_at_half_maximum(PresentObjects(row, column, prob[where]), posterior, windows, intensity)
    return prob.index_put(where, drawn.mixing_prob)


def decode_codes(model: StructuredVAE, codes: np.ndarray, device: torch.device) -> DecodedCodes:
    """What latent codes (n, D) look like."""
    weights, appearances = [], []
    with torch.inference_mode():
        for some in torch.from_numpy(np.array(codes)).split(_DECODED_AT_ONCE):
            weight, appearance = model.decode(some.to(device).unsqueeze(0))
            weights.append(weight[0].cpu().numpy())
            appearances.append(appearance[0].cpu().numpy())
    return DecodedCodes(np.concatenate(appearances), np.concatenate(weights))


def draw_images(model: StructuredVAE, n_images: int, seed: int) -> GeneratedImages:
    """New windows from the prior; a pixel belongs to an object where objects are more probable than background."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for start in range(0, n_images, BATCH_SIZE):
        drawn = render(model.generate(min(BATCH_SIZE, n_images - start), random))
        prob = drawn.mixing_prob
        images.append(drawn.reconstruction.cpu().numpy())
        labels.append(torch.where(prob.sum(1) > 0.5, prob.argmax(1) + 1, 0).cpu().numpy().astype(np.int32))
    return GeneratedImages(np.concatenate(images), np.concatenate(labels))
