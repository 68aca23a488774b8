"""What `predict` does, from one image to its co-membership graph in the user's own pixels.

Two ways lead to posterior samples.  Recognition is one pass over the whole image: candidates, and samples that are
segmentations of all of it.  Sliding windows are the published way: every window has samples of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import expit

from cellsegmenter.consensus import (
    MERGE_TOLERANCE,
    MIN_EDGE,
    AbsoluteResolution,
    Consensus,
    ShapeConsensus,
    ShapePosterior,
    Visits,
)
from cellsegmenter.image_consensus import CutDefaults, ImageConsensus
from cellsegmenter.image_posterior import ImagePosterior
from cellsegmenter.inference import InferenceSettings, infer_tiles
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.provenance import model_hash
from cellsegmenter.recognition.calibration import log_odds
from cellsegmenter.recognition.candidates import Candidates, find_candidates, load_candidates
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.sampling import best_of_views, sample_candidates
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.recognition.suppression import ranks
from cellsegmenter.region import Region
from cellsegmenter.repair import KnownPixels
from cellsegmenter.scales import SeenImage
from cellsegmenter.store import MemoryStore, Store
from cellsegmenter.windows import Tiling, make_tiling
from cellsegmenter.workspace import Workspace

__all__ = ["RecognitionSettings", "consensus_of", "image_posterior", "window_graph"]

# d_c in working diameters: measured on simulated posteriors, below 0.7 large objects are split.
_CUTOFF_DIAMETERS = 1.0
# What is held in memory without a work folder, see `memory_needed`: 246 bytes for a pixel at working scale with 16
# visits, 86 with 4, in tissue a quarter of which is foreground.
_BYTES_PER_VISIT = 14  # of a pixel at working scale
_BYTES_PER_WORKING_PIXEL = 36
_BYTES_PER_PIXEL = 16  # of the user's image: pixels, labels and foreground
_BYTES_PER_OBJECT = 110  # of a candidate, and sample of it
# Around a region, in diameters: objects whose candidates may decide which ones of the region stay.
_MARGIN_DIAMETERS = 4
_VERSION = version("cellsegmenter")


class RecognitionSettings(NamedTuple):
    """How the posterior of an image is sampled in one pass."""

    n_samples: int | None  # segmentations of the whole image; None: the most probable one
    seed: int = 0


def consensus_of(
    model: FittedModel,
    seen: SeenImage,
    settings: RecognitionSettings | InferenceSettings,
    workspace: Workspace,
    *,
    resolution: Literal["auto"] | float | AbsoluteResolution,
    min_size: int | None,
    region: Region | None = None,
) -> ImageConsensus:
    """Sample the posterior of an image, or of a region of it, and make its graph ready to be cut.

    A region is in px of the user's image.  It sees what the whole image sees there: the same networks around it, with
    the same random numbers.

    Parameters
    ----------
    model : FittedModel
    seen : SeenImage
        At a single scale, if windows are slid.
    settings : RecognitionSettings or InferenceSettings
        One pass, or sliding windows.
    workspace : Workspace
        With a folder all pixels stay on disk, and what an earlier call with the same arguments has left there is not
        done again.
    resolution, min_size
        The defaults of `cut`; `min_size` in px of the user's image, None is a quarter of the smallest box.
    region : Region, optional
    """
    region = Region(0, 0, *seen.shape) if region is None else region
    if min_size is None:
        min_size = max(1, round(model.least_area / max(seen.scales) ** 2))
    defaults = CutDefaults(resolution, min_size, settings.seed)
    if isinstance(settings, RecognitionSettings):
        graph = _shape_graph(model, seen, settings, workspace, region)
        assert model.recognition is not None
        return ImageConsensus(graph, None, seen, defaults, model.recognition.calibration.stretch)
    return _window_consensus(model, seen, settings, defaults, workspace, region)


# --- one pass ---------------------------------------------------------------------------------------------------


def _shape_graph(
    model: FittedModel, seen: SeenImage, settings: RecognitionSettings, workspace: Workspace, region: Region
) -> ShapeConsensus:
    """The graph of the candidates of an image, in px of the region."""
    frames = [view.working_region(region) for view in seen.views]
    # Of crowded images.
    n_objects = sum(math.prod(frame.shape) for frame in frames) / model.working_diameter**2
    needed = math.prod(region.shape) * _BYTES_PER_PIXEL
    needed += round(n_objects * (settings.n_samples or 1) * _BYTES_PER_OBJECT)
    store = workspace.store(
        needed,
        lambda: _identity(model, seen, region) | {"way": "recognition", **settings._asdict()},
    )
    margin = round(_MARGIN_DIAMETERS * model.working_diameter)
    candidates = _candidates_at_all_scales(
        model,
        seen,
        store,
        workspace,
        [
            frame.grown(margin).common(Region(0, 0, *view.shape[-2:]))
            for view, frame in zip(seen.views, frames, strict=True)
        ],
    )
    posterior, _ = shape_posterior(model, candidates, settings)
    stars = posterior.stars._replace(centre=posterior.stars.centre - region.corner.astype(np.float32))
    return ShapeConsensus(
        posterior._replace(stars=stars),
        region.shape,
        store,
        known=_known(seen, region),
        n_jobs=workspace.n_jobs,
        progress=workspace.progress,
    )


def image_posterior(
    model: FittedModel, seen: SeenImage, settings: RecognitionSettings, workspace: Workspace
) -> ImagePosterior:
    """Posterior samples of a whole image, in memory, px of the user's image."""
    everywhere = [Region(0, 0, *view.shape[-2:]) for view in seen.views]
    candidates = _candidates_at_all_scales(model, seen, MemoryStore(), workspace, everywhere)
    posterior, logit = shape_posterior(model, candidates, settings)
    return ImagePosterior(seen.shape, posterior, expit(logit))


def _candidates_at_all_scales(
    model: FittedModel, seen: SeenImage, store: Store, workspace: Workspace, regions: Sequence[Region]
) -> Candidates:
    """The candidates of every view of an image in a region of each, in px of the user's image.

    Those of different views compete first, see `best_of_views`.
    """
    of_views = []
    for number, (view, region) in enumerate(zip(seen.views, regions, strict=True)):
        blocks = find_candidates(
            model,
            view,
            store,
            region=region,
            name=f"found-{number}",
            n_jobs=workspace.n_jobs,
            progress=workspace.progress,
        )
        found = load_candidates(store, f"found-{number}", blocks)
        of_views.append(found._replace(stars=_in_image(found.stars, view)))
    assert model.recognition is not None
    return of_views[0] if len(of_views) == 1 else best_of_views(of_views, model.recognition.calibration)


def shape_posterior(
    model: FittedModel, candidates: Candidates, settings: RecognitionSettings
) -> tuple[ShapePosterior, np.ndarray]:
    """Samples of which candidates are on, at working scale, and the log-odds (n,) that they are objects."""
    assert model.recognition is not None
    calibration = model.recognition.calibration
    sampled = sample_candidates(candidates, calibration, n_samples=settings.n_samples, seed=settings.seed)
    logit = log_odds(calibration, candidates.evidence)
    order = ranks(logit[:, None])[:, 0]
    return ShapePosterior(candidates.stars, order, *sampled, candidates.z_what), logit


def _in_image(stars: Stars, view: PreparedImage) -> Stars:
    """Stars at working scale in px of the user's image."""
    factor = np.array(view.original_shape) / np.array(view.shape[-2:])
    return Stars(
        (stars.centre * factor).astype(np.float32), (stars.radii * np.sqrt(factor.prod())).astype(np.float32)
    )


# --- sliding windows --------------------------------------------------------------------------------------------


def _window_consensus(
    model: FittedModel,
    seen: SeenImage,
    settings: InferenceSettings,
    defaults: CutDefaults,
    workspace: Workspace,
    region: Region,
) -> ImageConsensus:
    """The graph of the windows of an image, seen in px of the region."""
    (prepared,) = seen.views
    frame = prepared.working_region(region)
    rows, columns = prepared.working_pixels(region)
    tiling = _tiling(model, prepared, settings, frame)
    visits = _visits(model, settings, frame)
    of_windows = {
        "way": "windows",
        "stride": settings.stride,
        "n_samples": settings.n_samples,
        "seed": settings.seed,
        "max_objects": settings.max_objects,
        "overlap_threshold": settings.overlap_threshold,
        "tile_rows": tiling.rows.tolist(),
        "tile_columns": tiling.columns.tolist(),
        "cutoff_distance": _CUTOFF_DIAMETERS * model.working_diameter,
        "min_edge": MIN_EDGE,
        "merge_tolerance": MERGE_TOLERANCE,
    }
    needed = memory_needed(region.shape, frame.shape, visits)
    store = workspace.store(needed, lambda: _identity(model, seen, region) | of_windows)
    graph = window_graph(model, prepared, settings, store, workspace, region=frame)
    shown = rows - frame.row, columns - frame.column
    return ImageConsensus(graph, shown, seen, defaults, known=_known(seen, region))


def window_graph(
    model: FittedModel,
    image: Any,
    settings: InferenceSettings,
    store: Store,
    workspace: Workspace,
    *,
    region: Region | None = None,
) -> Consensus:
    """The graph of the windows of a normalised image (C, H, W) at working scale, or of a region of it, px there."""
    frame = Region(0, 0, *image.shape[-2:]) if region is None else region
    tiling = _tiling(model, image, settings, frame)
    infer_tiles(
        model.generative,
        image,
        settings,
        model.device,
        store=store,
        tiling=tiling,
        region=frame,
        n_jobs=workspace.n_jobs,
    )
    return Consensus(
        store,
        tiling,
        visits=_visits(model, settings, frame),
        cutoff_distance=_CUTOFF_DIAMETERS * model.working_diameter,
        min_edge=MIN_EDGE,
        merge_tolerance=MERGE_TOLERANCE,
        n_jobs=workspace.n_jobs,
        progress=settings.progress,
    )


def _tiling(model: FittedModel, image: Any, settings: InferenceSettings, frame: Region) -> Tiling:
    size = model.generative.config.window_size
    return make_tiling(image.shape[-2:], size, settings.stride, settings.tile_size).within(frame)


def _visits(model: FittedModel, settings: InferenceSettings, frame: Region) -> Visits:
    """How often, and by windows where, the pixels of a frame at working scale are seen."""
    return Visits(
        model.generative.config.window_size // settings.stride,
        settings.n_samples or 1,
        settings.stride,
        (-frame.row % settings.stride, -frame.column % settings.stride),
    )


def memory_needed(shape: tuple[int, int], working_shape: tuple[int, int], visits: Visits) -> int:
    """About how many bytes the windows of an image, or of its region, need without a work folder; more if very dense.

    Parameters
    ----------
    shape, working_shape : (height, width)
        In px of the user's image, and at working scale.
    visits : Visits
    """
    of_graph = math.prod(working_shape) * (visits.total * _BYTES_PER_VISIT + _BYTES_PER_WORKING_PIXEL)
    return of_graph + math.prod(shape) * _BYTES_PER_PIXEL


def _known(seen: SeenImage, region: Region) -> KnownPixels | None:
    """Where a region has data; None if that is everywhere."""
    return None if seen.views[0].statistics.complete else KnownPixels(seen.repaired, region)


def _identity(model: FittedModel, seen: SeenImage, region: Region) -> dict[str, Any]:
    """What the records in a work folder depend on, in words and numbers that can be compared; causes come first."""
    return {
        "version": _VERSION,
        "model": model_hash(model.generative, model.recognition, model.intensity)[:16],
        "image_shape": list(seen.shape),
        "scale": [round(scale, 6) for scale in seen.scales],
        "working_shape": [list(view.shape) for view in seen.views],
        "region": list(region),
        "image": [view.pixels_hash for view in seen.views],
    }
