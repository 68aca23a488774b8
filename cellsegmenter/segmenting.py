"""What `predict` does, from one image to its co-membership graph in the user's own pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from cellsegmenter.consensus import MERGE_TOLERANCE, MIN_EDGE, AbsoluteResolution, Consensus, Visits
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.inference import InferenceSettings, infer_tiles
from cellsegmenter.local_diameter import Part
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parted_consensus import PartConsensus, PartedConsensus
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.provenance import model_hash
from cellsegmenter.region import Region
from cellsegmenter.scales import prepare_part, scale_of
from cellsegmenter.store import FolderStore, MemoryStore, Store
from cellsegmenter.windows import TILE_SIZE, Tiling, make_tiling

__all__ = [
    "PREDICTION_SLOTS",
    "consensus_of",
    "consensus_of_parts",
]

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
# Around a part whose objects are of another size than its neighbours': objects on the border are whole.
_MARGIN_DIAMETERS = 2
_VERSION = version("cellsegmenter")


def consensus_of_parts(
    model: StructuredVAE,
    image: Any,
    parts: list[Part],
    settings: InferenceSettings,
    *,
    working_diameter: float,
    intensity: Literal["log", "linear"],
    resolution: Literal["auto"] | float | AbsoluteResolution,
    region: Region | None = None,
    work_folder: str | Path | None = None,
    max_memory: int | None = None,
    **options: Any,
) -> ImageConsensus | PartedConsensus:
    """Sample the posterior of an image (C, H, W) with each part at the scale that its objects need.

    A part is seen with a margin and as an image of its own: its intensities are normalised by what it shows, and what
    is found in it does not depend on the other parts, nor on the region that is asked for.  Parameters, `options` too,
    are those of `consensus_of`; `intensity` is that of `prepare_image`.
    """
    whole = Region(0, 0, *image.shape[-2:])
    wanted = whole if region is None else region
    shown = [part for part in parts if part.region.meets(wanted)]
    seen = [_with_margin(part, whole) for part in shown]

    def consensus(part: Part, settings: InferenceSettings, **where: Any) -> ImageConsensus:
        return consensus_of(
            model,
            prepare_part(image, part, working_diameter=working_diameter, intensity=intensity),
            scale_of(part.diameter, working_diameter),
            settings,
            working_diameter=working_diameter,
            resolution=resolution,
            region=part.region.common(wanted).within(part.region),
            **where,
            **options,
        )

    if len(seen) == 1:
        return consensus(seen[0], settings, work_folder=work_folder, max_memory=max_memory)
    visits = _visits(model.config.window_size, settings)
    frames = [part.region.common(wanted) for part in seen]
    needed = sum(
        memory_needed(frame.shape, _scaled(frame.shape, scale_of(part.diameter, working_diameter)), visits)
        for part, frame in zip(seen, frames, strict=True)
    )
    store: Store = MemoryStore()
    if work_folder is not None and (max_memory is None or needed > max_memory):
        of_parts = [[*part.region, part.diameter] for part in shown]
        store = FolderStore(work_folder, {"version": _VERSION, "region": list(wanted), "parts": of_parts})
    quiet, progress = replace(settings, progress=False), settings.progress
    bar = tqdm(seen, desc="inference", unit="part", disable=None if progress else True)
    made = []
    for number, part in enumerate(bar):
        folder = store.path / f"part-{number}" if isinstance(store, FolderStore) else None
        core = shown[number].region.common(wanted)
        made.append(
            PartConsensus(
                core.within(wanted),
                frames[number].within(wanted),
                consensus(part, quiet, work_folder=folder),
            )
        )
    return PartedConsensus(made, wanted.shape, store, resolution=resolution, progress=progress)


def _with_margin(part: Part, whole: Region) -> Part:
    """A part with what is around it; the whole image has nothing around."""
    if part.region == whole:
        return part
    margin = round(_MARGIN_DIAMETERS * part.diameter)
    return part._replace(region=part.region.grown(margin).common(whole))


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
    visits = _visits(size, settings, (frame.row, frame.column))
    store: Store = MemoryStore()
    needed = memory_needed(region.shape, frame.shape, visits)
    if work_folder is not None and (max_memory is None or needed > max_memory):
        store = FolderStore(work_folder, _identity(model, prepared, scale, settings, frame, tiling) | edges)
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


def _visits(window_size: int, settings: InferenceSettings, corner: tuple[int, int] = (0, 0)) -> Visits:
    """How often, and by windows where, the pixels of a frame are seen; its first one, at working scale, is `corner`."""
    return Visits(
        window_size // settings.stride,
        settings.n_samples or 1,
        settings.stride,
        (-corner[0] % settings.stride, -corner[1] % settings.stride),
    )


def _scaled(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    return math.ceil(shape[0] * scale), math.ceil(shape[1] * scale)


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
    scale: float,
    settings: InferenceSettings,
    frame: Region,
    tiling: Tiling,
) -> dict[str, Any]:
    """What the records in a work folder depend on, in words and numbers that can be compared; causes come first."""
    return {
        "version": _VERSION,
        "model": model_hash(model, prepared.intensity)[:16],
        "stride": settings.stride,
        "n_samples": settings.n_samples,
        "seed": settings.seed,
        "image_shape": list(prepared.original_shape),
        "scale": round(scale, 6),
        "working_shape": list(prepared.shape),
        "region": list(frame),
        "image": prepared.pixels_hash,
        "max_objects": settings.max_objects,
        "overlap_threshold": settings.overlap_threshold,
        "tile_rows": tiling.rows.tolist(),
        "tile_columns": tiling.columns.tolist(),
    }
