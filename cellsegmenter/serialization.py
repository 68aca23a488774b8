"""Model files: weights as safetensors, everything else as JSON in the same file's header.

Reading one never executes code: safetensors holds tensors and strings, and the strings are parsed as JSON.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cellsegmenter.consensus import AbsoluteResolution
from cellsegmenter.files import under_utf8_name
from cellsegmenter.io import replacing
from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.recognition.calibration import Calibration
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork

__all__ = ["ModelFileError", "load_segmenter", "plain_value", "save_segmenter"]

_FORMAT = "cellsegmenter-model-1"
_CHECKSUM = "sha256"
# Parameters that belong to a machine or a session and do not travel with a model.  Nor are they taken from a file
# of an earlier version, which held warm_start: the next `fit` of a loaded model would go on from it unasked.
_NOT_SAVED = ("checkpoint", "device", "n_jobs", "tensorboard", "verbose", "warm_start")
# What begins the names of the recognition network's tensors, and the name of the composites that are shown.
_RECOGNITION, _EXAMPLES = "recognition.", "recognition_examples"
_PLAIN_ATTRIBUTES = ("n_channels_in_", "noise_scale_", "working_diameter_", "penalties_", "card_")

Segmenter = TypeVar("Segmenter")


class ModelFileError(ValueError):
    """A file is no usable model."""


def save_segmenter(path: Path, segmenter: Any, *, half: bool) -> None:
    """Write a fitted CellSegmenter; with `half` its weights as float16, half the file.

    Raises
    ------
    ImageFileError
        If nothing can be written to `path`.
    """
    parameters = segmenter.get_params()
    description = {
        "parameters": {n: plain_value(value) for n, value in parameters.items() if n not in _NOT_SAVED},
        "config": segmenter.model_.config.to_dict(),
        "history_": _plain_history(segmenter.history_),
        **{name: getattr(segmenter, name) for name in _PLAIN_ATTRIBUTES},
    }
    tensors = segmenter.model_.state_dict()
    network = segmenter.recognition_
    if network is not None:
        description["recognition"] = network.config.to_dict()
        description["calibration"] = network.calibration._asdict()
        description["recognition_history_"] = _plain_history(segmenter.recognition_history_)
        tensors |= {f"{_RECOGNITION}{name}": value for name, value in network.state_dict().items()}
        tensors[_EXAMPLES] = torch.from_numpy(segmenter.recognition_examples_)
    _write_model_file(path, _half_precision(tensors) if half else tensors, description)


def load_segmenter(path: Path, kind: type[Segmenter]) -> Segmenter:
    """A CellSegmenter, or a subclass, from a file; see `_read_model_file` for the errors."""
    tensors, description = _read_model_file(path)
    try:
        parameters = description["parameters"]
        if "recognition" not in parameters and parameters["n_samples"] == 1:
            parameters["n_samples"] = None  # the default of the time before there was a recognition network
        segmenter: Any = kind(
            **{n: _parameter_value(n, value) for n, value in parameters.items() if n not in _NOT_SAVED}
        )
        segmenter.model_ = StructuredVAE(ModelConfig.from_dict(description["config"]))
        examples = tensors.pop(_EXAMPLES, torch.zeros(0, 2, 0, 0))
        own = {name.removeprefix(_RECOGNITION): tensors.pop(name) for name in _recognition_names(tensors)}
        segmenter.model_.load_state_dict(tensors)
        segmenter.recognition_ = None
        if "recognition" in description:
            segmenter.recognition_ = RecognitionNetwork(RecognitionConfig(**description["recognition"]))
            segmenter.recognition_.load_state_dict(own)
            segmenter.recognition_.calibration = Calibration(**description["calibration"])
            segmenter.recognition_.eval()
        segmenter.recognition_history_ = _history(description.get("recognition_history_", {}))
        segmenter.recognition_examples_ = examples.to(torch.uint8).numpy()
        for name in _PLAIN_ATTRIBUTES:
            setattr(segmenter, name, description[name])
        segmenter.history_ = _history(description["history_"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} does not hold a model of this version ({error}); load it with the version that wrote it"
        ) from error
    segmenter.model_.eval()
    return segmenter


def _recognition_names(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in tensors if name.startswith(_RECOGNITION)]


def _plain_history(history: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.5g}") for value in values] for name, values in history.items()}


def _history(plain: dict[str, list[float]]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in plain.items()}


def _write_model_file(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write beside, then rename, so that a file under this name is always whole; missing folders are made.

    Parameters
    ----------
    path : Path
    tensors : dict of str to Tensor
    description : dict
        JSON-serialisable.

    Raises
    ------
    ImageFileError
        If nothing can be written to `path`.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT, "description": json.dumps(description)}
    with replacing(path) as beside:
        content = save(tensors, metadata=metadata | {_CHECKSUM: _checksum(tensors, metadata)})
        beside.write_bytes(content)  # safetensors' own writer makes files that nobody else may read


def _read_model_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (floating point ones as float32) and description of a model file.

    Raises
    ------
    FileNotFoundError
    ModelFileError
        If it is truncated, no safetensors file, or one of another program.
    """
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder and no model file")
    if not path.is_file():
        raise FileNotFoundError(
            f"model file {str(path)!r} does not exist; make one with fit(...).save(...) or `cellseg fit`"
        )
    try:
        with under_utf8_name(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no readable model file ({error}); save the model again") from error
    if metadata.get("format") != _FORMAT:
        raise ModelFileError(
            f"{path} is a safetensors file of another program (format {metadata.get('format')!r}, "
            f"expected {_FORMAT!r}); use a file written by CellSegmenter.save"
        )
    # Files of the first version have no checksum; another key in its place is a damaged one.
    if metadata.keys() - {"format", "description"} and metadata.get(_CHECKSUM) != _checksum(
        tensors, metadata
    ):
        raise ModelFileError(
            f"{path} is damaged (its checksum does not fit); copy it again or save the model again"
        )
    try:
        description = json.loads(metadata["description"])
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path} has no readable description ({error!r}); save the model again"
        ) from error
    full = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return full, description


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of all that the file holds: a changed byte of a weight would change results without a word."""
    digest = hashlib.sha256(metadata.get("description", "").encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _half_precision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors as float16: half the file, for a model that is shipped."""
    return {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def plain_value(value: Any) -> Any:
    """A parameter as JSON holds it."""
    if isinstance(value, AbsoluteResolution):
        return {"absolute": value.value}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list | np.ndarray):
        return [plain_value(item) for item in value]
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return None  # the state of a generator is no parameter of a model
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _parameter_value(name: str, value: Any) -> Any:
    """The inverse of `plain_value` for a constructor parameter."""
    if name == "resolution" and isinstance(value, dict):
        return AbsoluteResolution(value["absolute"])
    return tuple(value) if isinstance(value, list) else value
