"""A fitted model as one value: what prediction needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.recognition.network import RecognitionNetwork

__all__ = ["FittedModel"]


@dataclass(frozen=True)
class FittedModel:
    """Networks, ready on their device, and the scale and intensities that they know."""

    generative: StructuredVAE
    recognition: RecognitionNetwork | None  # None: no sleep phase, only sliding windows
    working_diameter: float  # px of a typical object at working scale
    intensity: Literal["log", "linear"]
    device: torch.device

    @property
    def smallest_side(self) -> float:
        """px of the shortest box at working scale."""
        return self.generative.config.object_size[0]
