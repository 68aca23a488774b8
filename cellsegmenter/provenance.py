"""What made a result: the versions of the software, the model's card and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.recognition.network import RecognitionNetwork
from cellsegmenter.serialization import plain_value

__all__ = ["model_card", "model_hash", "software_versions"]

# Packages whose version can change the numbers of a result.
PACKAGES = ("cellsegmenter", "torch", "numpy", "scipy", "scikit-image", "igraph", "tifffile")


def software_versions() -> dict[str, str]:
    """The versions of Python, the operating system, this package and those that it computes with."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **packages}


def model_card(
    model: StructuredVAE,
    history: dict[str, np.ndarray],
    *,
    trained_on: str,
    working_diameter: float,
    parameters: dict[str, Any],
    recognition: dict[str, Any],
) -> dict[str, Any]:
    """What a model was trained on and how, in words and numbers that JSON holds.

    Parameters
    ----------
    model : StructuredVAE
    history : dict of str to ndarray (n_rows,)
        Of its training; may be empty.
    trained_on : str
        The images.
    working_diameter : float
        px.
    parameters : dict
        Those of the estimator that somebody who uses the model should know.
    recognition : dict
        What its sleep phase learned from; empty if there was none.
    """
    last = {name: float(values[-1]) for name, values in history.items()}
    return {
        "name": "CellSegmenter",
        "trained_on": trained_on,
        "labels_used": "none",
        "steps": int(last.get("step", 0)),
        "seconds": round(last.get("seconds", 0.0), 1),
        "parameters": {name: plain_value(value) for name, value in parameters.items()},
        "objects_per_window": round(last["objects"], 2) if last else None,
        "working_diameter_px": round(working_diameter, 1),
        "weights": sum(p.numel() for p in model.parameters()),
        **({"recognition": recognition} if recognition else {}),
    }


def model_hash(model: StructuredVAE, recognition: RecognitionNetwork | None, intensity: str) -> str:
    """SHA-256 of a model's architecture and weights, and of the intensities that it knows, in hexadecimal.

    Two models of the same hash give the same posterior, whatever file they come from.

    Parameters
    ----------
    model : StructuredVAE
    recognition : RecognitionNetwork or None
    intensity : {"log", "linear"}
        See `CellSegmenter`.
    """
    architecture = {"config": model.config.to_dict(), "intensity": intensity}
    tensors = dict(model.state_dict())
    if recognition is not None:
        architecture["recognition"] = recognition.config.to_dict() | recognition.calibration._asdict()
        tensors |= {f"recognition.{name}": value for name, value in recognition.state_dict().items()}
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
