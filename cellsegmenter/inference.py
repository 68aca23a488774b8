"""From a trained model to posterior samples of windows, and of whole images (Secs. 2.1 and 4).

Random numbers belong to a window's place in the image and not to the order of work: batches of any size, in
any order, on any number of workers give the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.rendering import render
from cellsegmenter.model.structured_vae import Noise, StructuredVAE
from cellsegmenter.types import Instances, WindowPosterior
from cellsegmenter.windows import WindowGrid, make_windows

__all__ = ["InferenceSettings", "infer_instances", "sample_windows"]

# Mixing probabilities below this are not stored: the tail of a sigmoid, which adds less than E_min to any edge.
_NEGLIGIBLE = 0.01
# Shifts window corners, which are negative in the padding, into the range of a seed.
_SEED_SHIFT = 2**20


@dataclass(frozen=True)
class InferenceSettings:
    """How the posterior of an image is sampled."""

    stride: int  # px between windows; divides the window size
    n_samples: int | None  # posterior samples of each window; None: the most probable one
    max_objects: int  # slots of a window; more than K_max in training
    overlap_threshold: float  # alpha
    seed: int = 0
    batch_size: int = 32
    progress: bool = False


def window_noise(corners: np.ndarray, sample: int, seed: int, slots: int, config: ModelConfig) -> Noise:
    """The random numbers of posterior sample `sample` of the windows at `corners` (B, 2)."""
    points = config.grid_shape[0] * config.grid_shape[1]
    shapes = ((points,), (points, 4), (slots, config.latent_dim), (config.background_latent_dim,))
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for row, column in corners:
        random = np.random.default_rng([seed, int(row) + _SEED_SHIFT, int(column) + _SEED_SHIFT, sample])
        parts[0].append(random.random(shapes[0], dtype=np.float32))
        for part, shape in zip(parts[1:], shapes[1:], strict=True):
            part.append(random.standard_normal(shape, dtype=np.float32))
    return Noise(*(torch.from_numpy(np.stack(part)) for part in parts))


@torch.inference_mode()
def sample_windows(
    model: StructuredVAE,
    windows: np.ndarray,
    corners: np.ndarray,
    settings: InferenceSettings,
    device: torch.device,
) -> Iterator[tuple[int, WindowPosterior]]:
    """Posterior samples (index, posterior) of normalised windows (B, C, H, W) whose corners are (B, 2)."""
    image = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32)).to(device)
    features = model.features(image)
    for sample in range(settings.n_samples or 1):
        noise = None
        if settings.n_samples is not None:
            drawn = window_noise(corners, sample, settings.seed, settings.max_objects, model.config)
            noise = Noise(*(part.to(device) for part in drawn))
        inference = model.sample_posterior(
            image,
            features,
            noise,
            max_objects=settings.max_objects,
            overlap_threshold=settings.overlap_threshold,
        )
        yield sample, inference.posterior


def infer_instances(
    model: StructuredVAE, image: Any, settings: InferenceSettings, device: torch.device
) -> Instances:
    """All objects in all windows and posterior samples of one image.

    Parameters
    ----------
    model : StructuredVAE
        On `device`, in evaluation mode.
    image : array-like (C, H, W)
        Normalised, at working scale; only windows of it are read.
    settings : InferenceSettings
    device : torch.device
    """
    size = model.config.window_size
    grid = make_windows(image.shape[-2:], size, settings.stride)
    parts: list[_Found] = []
    starts = range(0, len(grid), settings.batch_size)
    for start in tqdm(starts, desc="windows", unit="batch", disable=None if settings.progress else True):
        index = np.arange(start, min(start + settings.batch_size, len(grid)))
        windows = grid.extract(image, index)
        pixel = grid.pixel_index(index)
        for sample, posterior in sample_windows(model, windows, grid.origin[index], settings, device):
            parts.append(_collect(posterior, pixel, grid, index, sample))
    return _assemble(parts, grid, model.config.latent_dim, settings)


@dataclass(frozen=True)
class _Found:
    """The objects of one batch of windows, n of them, with their pixels one object after the other."""

    pixel: np.ndarray  # (nnz,) int64 flat pixel of the image
    prob: np.ndarray  # (nnz,) float32
    n_pixels: np.ndarray  # (n,) int64
    window: np.ndarray  # (n,)
    sample: np.ndarray  # (n,)
    presence_prob: np.ndarray  # (n,)
    boxes: np.ndarray  # (n, 4)
    z_what: np.ndarray  # (n, D)


def _collect(
    posterior: WindowPosterior, pixel: np.ndarray, grid: WindowGrid, index: np.ndarray, sample: int
) -> _Found:
    """Keep the pixels of present objects that lie in the image.

    `pixel` (B, H, W) is the flat pixel that each place of the windows shows, -1 in the padding.
    """
    window, slot = (posterior.presence > 0.5).nonzero(as_tuple=True)

    def of_present(field: Tensor) -> np.ndarray:
        return field[window, slot].float().cpu().numpy()

    prob = of_present(render(posterior).mixing_prob).reshape(-1, grid.window_size**2)
    in_batch = window.cpu().numpy()
    places = pixel.reshape(len(pixel), -1)[in_batch]  # (n, H·W)
    kept = (prob > _NEGLIGIBLE) & (places >= 0)
    boxes = np.stack([of_present(side) for side in posterior.boxes], axis=-1).reshape(-1, 4)
    boxes[:, :2] += grid.origin[index[in_batch]][:, ::-1]
    seen = kept.any(axis=1)  # objects in the padding alone are no objects of the image
    return _Found(
        pixel=places[kept],
        prob=prob[kept],
        n_pixels=kept.sum(axis=1)[seen],
        window=index[in_batch][seen].astype(np.int32),
        sample=np.full(int(seen.sum()), sample, dtype=np.int32),
        presence_prob=of_present(posterior.presence_prob)[seen],
        boxes=boxes[seen],
        z_what=of_present(posterior.z_what.mean)[seen],
    )


def _assemble(
    parts: list[_Found], grid: WindowGrid, latent_dim: int, settings: InferenceSettings
) -> Instances:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    n_pixels = joined("n_pixels")
    n_samples = settings.n_samples or 1
    indptr = np.concatenate([[0], np.cumsum(n_pixels)])
    height, width = grid.image_shape
    membership = sparse.csc_array(
        (joined("prob"), joined("pixel"), indptr), shape=(height * width, len(n_pixels))
    )
    return Instances(
        membership=membership,
        image_shape=grid.image_shape,
        n_visits=grid.n_visits * n_samples,
        window=joined("window"),
        sample=joined("sample"),
        presence_prob=joined("presence_prob"),
        boxes=joined("boxes"),
        z_what=joined("z_what").reshape(-1, latent_dim),
        window_origin=grid.origin,
        window_size=grid.window_size,
        n_samples=n_samples,
    )
