"""What `predict` does, from one image to its co-membership graph in the user's own pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from cellsegmenter.consensus import AbsoluteResolution, build_consensus
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.inference import InferenceSettings, infer_instances
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.validation import check_choice, check_number

__all__ = ["OVERLAP_THRESHOLD", "PREDICTION_SLOTS", "consensus_of", "working_scale"]

# Slots of a window, over those in training.  Some windows of real images are far denser than the mean;
# suppression, not a lack of slots, should limit them.
PREDICTION_SLOTS = 2
# alpha in prediction; see `cellsegmenter.learning` for the one in training.
OVERLAP_THRESHOLD = 0.3
# d_c in working diameters: measured on simulated posteriors, below 0.7 large objects are split.
_CUTOFF_DIAMETERS = 1.0
# The smallest object, as a fraction of the smallest box's area.
_SMALLEST_FRACTION = 0.25


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
    n_jobs: int,
    device: torch.device,
) -> ImageConsensus:
    """Sample the posterior of a prepared image and make its graph ready to be cut."""
    instances = infer_instances(model, prepared, settings, device)
    graph = build_consensus(instances, cutoff_distance=_CUTOFF_DIAMETERS * working_diameter, n_jobs=n_jobs)
    if min_size is None:
        min_size = max(1, round(_SMALLEST_FRACTION * model.config.object_size[0] ** 2 / scale**2))
    return ImageConsensus(
        graph,
        prepared.original_shape,
        scale,
        resolution=resolution,
        min_size=min_size,
        random_state=settings.seed,
    )
