"""Checkpoints of a training run: everything a resumed run needs to go on as if it had not stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cellsegmenter.io import replacing

__all__ = ["CheckpointError", "read_checkpoint", "write_checkpoint"]

_FORMAT = 4


class CheckpointError(ValueError):
    """A checkpoint file cannot be used."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then rename: a run killed at any moment leaves a whole checkpoint.  Makes missing folders."""
    with replacing(path) as beside:
        torch.save({"format": _FORMAT, **state}, beside)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values only; a file with anything else is refused, and no code in it is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        # Torch's own message is not repeated: it advises to load the file without this protection.
        raise CheckpointError(f"{path} is not a readable checkpoint; delete it to start anew") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version; delete it to start anew")
    return state
