"""From a trained model to posterior samples of windows, and of whole images (Secs. 2.1 and 4).

Random numbers belong to a window's place in the image and not to the order of work, and the windows of a batch are
the same whatever is worked on: any tiles, in any order, on any number of workers give the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cellsegmenter.consensus import found_record
from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.device import threads_for
from cellsegmenter.model.half_maximum import above_half_maximum
from cellsegmenter.model.rendering import PresentObjects, present_objects
from cellsegmenter.model.structured_vae import Noise, StructuredVAE
from cellsegmenter.normalize import linear_intensity
from cellsegmenter.region import Region
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.types import CERTAIN, Instances, WindowPosterior
from cellsegmenter.windows import TILE_SIZE, ImagePart, Tiling, WindowGrid, make_windows

__all__ = ["BATCH_SIZE", "InferenceSettings", "cut_at_half_maximum", "infer_tiles", "sample_windows"]

# Mixing probabilities below this are not stored: the tail of a sigmoid, which adds less than E_min to any edge.
_NEGLIGIBLE = 0.01
# Images that go through the networks together where each fits into a window.
BATCH_SIZE = 32
# Shifts window corners, which are negative in the padding, into the range of a seed.
_SEED_SHIFT = 2**20


@dataclass(frozen=True)
class InferenceSettings:
    """How the posterior of an image is sampled."""

    stride: int  # px between windows; divides the window size
    n_samples: int | None  # posterior samples of each window; None: the most probable one
    max_objects: int  # slots of a window; more than K_max in training
    overlap_threshold: float  # alpha
    intensity: Literal["log", "linear"]  # the scale of the pixels
    seed: int = 0
    progress: bool = False
    tile_size: int = TILE_SIZE  # px; decides how the work is divided, and nothing of the result


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


def infer_tiles(
    model: StructuredVAE,
    image: Any,
    settings: InferenceSettings,
    device: torch.device,
    *,
    store: Store,
    tiling: Tiling,
    region: Region | None = None,
    n_jobs: int | None = 1,
) -> None:
    """Make `found-t`, all objects in all windows and posterior samples of a tile, for every tile that lacks it.

    The samples are the same in every tiling: windows go through the networks in the same batches.

    Parameters
    ----------
    model : StructuredVAE
        On `device`, in evaluation mode.
    image : array-like (C, H, W)
        Normalised, at working scale; only windows of it are read.
    settings : InferenceSettings
    device : torch.device
    store : Store
        Where the records go.
    tiling : Tiling
        Of the region.
    region : Region, optional
        Of the image, px at working scale; by default all of it.  Its windows are those of the whole image that touch
        it, with their random numbers, so that it shows what the whole image does there; what is found is told in
        pixels of the region.
    n_jobs : int or None
        For joblib.
    """
    grid = make_windows(image.shape[-2:], model.config.window_size, settings.stride)
    frame = Region(0, 0, *grid.image_shape) if region is None else region
    grid = grid.touching(frame)
    tile = tiling.tile_of(grid.origin - frame.corner)

    def arguments(number: int) -> tuple[Any, ...]:
        return model, grid.take(np.flatnonzero(tile == number)).read(image), settings, device, frame

    tasks = [Task(f"found-{t}", _infer_tile, (), partial(arguments, t)) for t in range(len(tiling))]
    run_tasks(store, tasks, n_jobs, progress="inference" if settings.progress else None)


def _infer_tile(
    store: Store,
    model: StructuredVAE,
    part: ImagePart,
    settings: InferenceSettings,
    device: torch.device,
    frame: Region,
) -> Record:
    n_windows = min(BATCH_SIZE, len(part.grid.origin))
    with threads_for(n_windows * model.config.window_size**2):
        return found_record(_infer(model, part, settings, device, frame))


def _infer(
    model: StructuredVAE, part: ImagePart, settings: InferenceSettings, device: torch.device, frame: Region
) -> Instances:
    """What is found in the windows of a part of an image, in pixels of the frame."""
    grid = part.grid
    parts: list[_Found] = []
    for index in grid.batches():
        pixels = part.windows(index)
        for sample, posterior in sample_windows(model, pixels, grid.origin[index], settings, device):
            drawn = present_objects(posterior)
            if model.config.shape == "blob":
                drawn = cut_at_half_maximum(drawn, posterior, pixels, settings.intensity)
            parts.append(_collect(posterior, drawn, grid.origin[index], index, sample, frame))
    return _assemble(parts, grid, model.config.latent_dim, settings, frame)


@dataclass(frozen=True)
class _Found:
    """The objects of one batch of windows, n of them, with their pixels one object after the other."""

    pixel: np.ndarray  # (nnz,) int64 flat pixel of the frame
    weight: np.ndarray  # (nnz,) uint8 mixing probability in 255ths
    n_pixels: np.ndarray  # (n,) int64
    window: np.ndarray  # (n,)
    sample: np.ndarray  # (n,)
    presence_prob: np.ndarray  # (n,)
    boxes: np.ndarray  # (n, 4)
    z_what: np.ndarray  # (n, D)


def cut_at_half_maximum(
    drawn: PresentObjects, posterior: WindowPosterior, pixels: np.ndarray, intensity: Literal["log", "linear"]
) -> PresentObjects:
    """Objects without the pixels that are less than half as bright; `pixels` (B, C, H, W) are normalised.

    For blobs: parts of a free object may well be darker.
    """
    window = (posterior.presence > 0.5).nonzero(as_tuple=True)[0]
    image = torch.as_tensor(pixels, dtype=torch.float32, device=posterior.background.device)
    bright = above_half_maximum(
        drawn, window, linear_intensity(image, intensity), linear_intensity(posterior.background, intensity)
    )
    return drawn._replace(mixing_prob=drawn.mixing_prob * bright)


def _collect(
    posterior: WindowPosterior,
    drawn: PresentObjects,
    origin: np.ndarray,
    index: np.ndarray,
    sample: int,
    frame: Region,
) -> _Found:
    """Keep the pixels of present objects that lie in the frame; `index` (B,) are the windows of the batch."""
    window, slot = (posterior.presence > 0.5).nonzero(as_tuple=True)

    def of_present(field: Tensor) -> np.ndarray:
        return field[window, slot].float().cpu().numpy()

    height, width = frame.shape
    corner = (origin - frame.corner)[window.cpu().numpy()]  # (n, 2)
    row = drawn.row.cpu().numpy() + corner[:, 0, None]  # (n, P)
    column = drawn.column.cpu().numpy() + corner[:, 1, None]
    weight = (CERTAIN * drawn.mixing_prob).round().to(torch.uint8).cpu().numpy()  # (n, P, P)
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    kept = (weight > _NEGLIGIBLE * CERTAIN) & inside
    boxes = np.stack([of_present(side) for side in posterior.boxes], axis=-1).reshape(-1, 4)
    boxes[:, :2] += corner[:, ::-1]
    n_pixels = kept.sum(axis=(1, 2))
    seen = n_pixels > 0  # objects in the padding alone are no objects of the image
    return _Found(
        pixel=(row[:, :, None] * width + column[:, None, :])[kept],
        weight=weight[kept],
        n_pixels=n_pixels[seen],
        window=index[window.cpu().numpy()][seen].astype(np.int32),
        sample=np.full(int(seen.sum()), sample, dtype=np.int32),
        presence_prob=of_present(posterior.presence_prob)[seen],
        boxes=boxes[seen],
        z_what=of_present(posterior.z_what.mean)[seen],
    )


def _assemble(
    parts: list[_Found], grid: WindowGrid, latent_dim: int, settings: InferenceSettings, frame: Region
) -> Instances:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    n_pixels = joined("n_pixels")
    n_samples = settings.n_samples or 1
    indptr = np.concatenate([[0], np.cumsum(n_pixels)])
    height, width = frame.shape
    membership = sparse.csc_array(
        (joined("weight"), joined("pixel"), indptr), shape=(height * width, len(n_pixels))
    )
    return Instances(
        membership=membership,
        image_shape=frame.shape,
        n_visits=grid.n_visits * n_samples,
        window=joined("window"),
        sample=joined("sample"),
        presence_prob=joined("presence_prob"),
        boxes=joined("boxes"),
        z_what=joined("z_what").reshape(-1, latent_dim),
        window_origin=grid.origin - frame.corner,
        window_size=grid.window_size,
        n_samples=n_samples,
    )
