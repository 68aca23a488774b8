"""Which model a command works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellsegmenter import CellSegmenter


def load_model(path: Path | None, device: str = "auto") -> CellSegmenter:
    """The model in a file of `cellseg fit`, or without one the model that is built in."""
    from cellsegmenter import CellSegmenter

    segmenter = CellSegmenter.pretrained() if path is None else CellSegmenter.load(path)
    return segmenter.set_params(device=device)
