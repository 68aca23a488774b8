"""What `predict` does, from one image to its co-membership graph in the user's own pixels."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cellsegmenter.consensus import MERGE_TOLERANCE, MIN_EDGE, AbsoluteResolution, Consensus, Visits
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.inference import InferenceSettings, infer_tiles
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.store import FolderStore, MemoryStore, Store
from cellsegmenter.validation import check_choice, check_number
from cellsegmenter.windows import TILE_SIZE, Region, Tiling, make_tiling

__all__ = ["PREDICTION_SLOTS", "consensus_of", "working_scale"]

# Slots of a window, over those in training.  Some windows of real images are far denser than the mean;
# suppression, not a lack of slots, should limit them.
PREDICTION_SLOTS = 2
# d_c in working diameters: measured on simulated posteriors, below 0.7 large objects are split.
_CUTOFF_DIAMETERS = 1.0
# The smallest object, as a fraction of the smallest box's area.
_SMALLEST_FRACTION = 0.25
# What is held in memory without a work folder, see `memory_needed`: 246 bytes for a pixel at working scale with 16
# visits, 86 with 4, in tissue a quarter of which is foreground.
_BYTES_PER_VISIT = 14  # of a pixel at working scale
_BYTES_PER_WORKING_PIXEL = 36
_BYTES_PER_PIXEL = 16  # of the user's image: pixels, labels and foreground
_HASHED_ROWS = 512  # read at a time


def working_scale(image: Any, working_diameter: float, diameter: float | Literal["auto"] | None) -> float:
    """Size at which the model sees an image (C, H, W), over its own.

    Parameters
    ----------
    image : array-like (C, H, W)
    working_diameter : float
        px of an object as the model knows it.
    diameter : float, "auto" or None
        px of an object in the image; "auto" estimates it.  None, or no object to estimate from: scale 1.
    """
    if diameter is None:
        return 1.0
    if isinstance(diameter, str):
        check_choice("diameter", diameter, ("auto",))
        own = estimate_diameter(image)
    else:
        own = check_number("diameter", diameter, low=1)
    return working_diameter / own if np.isfinite(own) else 1.0


def consensus_of(
    model: StructuredVAE,
    prepared: PreparedImage,
    scale: float,
    settings: InferenceSettings,
    *,
    working_diameter: float,
    resolution: Literal["auto"] | float | AbsoluteResolution,
    min_size: int | None,
    n_jobs: int | None,
    device: torch.device,
    region: Region | None = None,
    work_folder: str | Path | None = None,
    max_memory: int | None = None,
    tile_size: int = TILE_SIZE,
) -> ImageConsensus:
    """Sample the posterior of a prepared image, or of a region of it, and make its graph ready to be cut.

    A region is in px of the user's image.  It sees what the whole image sees there: the same windows with the same
    random numbers, which look beyond its border.

    With a work folder everything that grows with the image stays on disk, and what an earlier call with the same
    arguments has left there is not done again.  With `max_memory` (bytes) it is used only where memory will not do.
    """
    size = model.config.window_size
    region = Region(0, 0, *prepared.original_shape) if region is None else region
    frame = prepared.working_region(region)
    rows, columns = prepared.working_pixels(region)
    tiling = make_tiling(prepared.shape[-2:], size, settings.stride, tile_size).within(frame)
    edges = {
        "cutoff_distance": _CUTOFF_DIAMETERS * working_diameter,
        "min_edge": MIN_EDGE,
        "merge_tolerance": MERGE_TOLERANCE,
    }
    visits = Visits(
        size // settings.stride,
        settings.n_samples or 1,
        settings.stride,
        (-frame.row % settings.stride, -frame.column % settings.stride),
    )
    store: Store = MemoryStore()
    needed = memory_needed(region.shape, frame.shape, visits)
    if work_folder is not None and (max_memory is None or needed > max_memory):
        store = FolderStore(work_folder, _identity(model, prepared, settings, frame, tiling) | edges)
    infer_tiles(model, prepared, settings, device, store=store, tiling=tiling, region=frame, n_jobs=n_jobs)
    graph = Consensus(
        store,
        tiling,
        visits=visits,
        n_jobs=n_jobs,
        progress=settings.progress,
        **edges,
    )
    if min_size is None:
        min_size = max(1, round(_SMALLEST_FRACTION * model.config.object_size[0] ** 2 / scale**2))
    return ImageConsensus(
        graph,
        (rows - frame.row, columns - frame.column),
        scale,
        resolution=resolution,
        min_size=min_size,
        random_state=settings.seed,
    )


def memory_needed(shape: tuple[int, int], working_shape: tuple[int, int], visits: Visits) -> int:
    """About how many bytes an image, or its region, needs without a work folder; more if it is very dense.

    Parameters
    ----------
    shape, working_shape : (height, width)
        In px of the user's image, and at working scale.
    visits : Visits
    """
    of_graph = math.prod(working_shape) * (visits.total * _BYTES_PER_VISIT + _BYTES_PER_WORKING_PIXEL)
    return of_graph + math.prod(shape) * _BYTES_PER_PIXEL


def _identity(
    model: StructuredVAE,
    prepared: PreparedImage,
    settings: InferenceSettings,
    frame: Region,
    tiling: Tiling,
) -> dict[str, Any]:
    """What the records in a work folder depend on, in words and numbers that can be compared."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().numpy().tobytes())
    return {
        "version": version("cellsegmenter"),
        "image": _pixels_hash(prepared),
        "image_shape": list(prepared.original_shape),
        "working_shape": list(prepared.shape),
        "region": list(frame),
        "intensity": prepared.intensity,
        "model": weights.hexdigest()[:16],
        "stride": settings.stride,
        "n_samples": settings.n_samples,
        "seed": settings.seed,
        "max_objects": settings.max_objects,
        "overlap_threshold": settings.overlap_threshold,
        "tile_rows": tiling.rows.tolist(),
        "tile_columns": tiling.columns.tolist(),
    }


def _pixels_hash(prepared: PreparedImage) -> str:
    """Of all pixels and of what normalises them, read band by band."""
    digest = hashlib.sha256(b"".join(levels.tobytes() for levels in prepared.levels))
    for row in range(0, prepared.shape[1], _HASHED_ROWS):
        band = np.asarray(prepared.source[:, row : row + _HASHED_ROWS, :])
        digest.update(band.tobytes())
    return digest.hexdigest()[:16]
