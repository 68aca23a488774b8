"""What made a result: the versions of the software and a fingerprint of the model."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

__all__ = ["model_hash", "software_versions"]

# Packages whose version can change the numbers of a result.
PACKAGES = ("cellsegmenter", "torch", "numpy", "scipy", "scikit-image", "igraph", "leidenalg", "tifffile")


def software_versions() -> dict[str, str]:
    """The versions of Python, the operating system, this package and those that it computes with."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **packages}


def model_hash(segmenter: Any) -> str:
    """SHA-256 of a fitted segmenter's architecture, weights and channels, in hexadecimal.

    Two models of the same hash give the same posterior, whatever file they come from.

    Parameters
    ----------
    segmenter : CellSegmenter
        Fitted.
    """
    model = segmenter.model_
    architecture = {"config": model.config.to_dict(), "intensity": segmenter.intensity}
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
