"""A fitted model as one value: what prediction needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.recognition.network import RecognitionNetwork

__all__ = ["FittedModel"]

_LEAST_FILL = 0.25  # of the smallest box


@dataclass(frozen=True)
class FittedModel:
    """Networks, ready on their device, and the scale and intensities that they know."""

    generative: StructuredVAE
    recognition: RecognitionNetwork | None  # None: no sleep phase, only sliding windows
    working_diameter: float  # px of a typical object at working scale
    intensity: Literal["log", "linear"]
    device: torch.device

    @property
    def least_area(self) -> float:
        """px² at working scale: smaller things are no objects."""
        return _LEAST_FILL * self.generative.config.object_size[0] ** 2
