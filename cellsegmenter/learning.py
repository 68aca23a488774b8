"""What `fit` does, from prepared images to a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cellsegmenter.inference import InferenceSettings
from cellsegmenter.model.config import ModelConfig
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parameters import (
    Bounds,
    Parameters,
    prediction_overlap,
    prediction_slots,
    training_overlap,
)
from cellsegmenter.preparation import PreparedImage, fingerprint
from cellsegmenter.teaching import TeachingSettings
from cellsegmenter.training.constraints import PosteriorConstraints
from cellsegmenter.training.loop import Run, TrainingSettings, train
from cellsegmenter.training.noise_scale import estimate_noise_scale
from cellsegmenter.training.objective import Objective, ObjectiveSettings
from cellsegmenter.windows import random_crop

__all__ = [
    "Learned",
    "continued_model",
    "learn",
    "learned_from",
    "new_model",
    "noise_scale_of",
    "teaching_settings",
    "training_objective",
    "training_settings",
]

# Default steps, batch size and learning rate of each preset.
_TRAINING = {"small": (3000, 16, 5e-3), "reference": (10000, 128, 2e-3)}

# Steps of the sleep phase at most; a prototype gained nothing by more.
_RECOGNITION_STEPS = 1400

# Learning rate of a training that goes on from a model, over the preset's.
_REFINING_RATE = 0.2


# What a typical object is worth against its absence, nats, by the form of masks.  A blob can not be a half of an
# object, so small objects can be cheaper: pooled AP@0.5 of nuclei, 1200 steps, 21 training images: .72 with 40, .73
# with 80.  Digits with grid, 1000 steps: 93.6 % counted with 40, 90.9 % with 80.
_TYPICAL_EVIDENCE = {"free": 40.0, "blob": 80.0}

# Whether the pairs that training learns from touch, by the form of masks; else they lie anywhere.  A blob can not be a
# half of an object, so there is nothing to lose: nuclei, 1200 steps, 56 training images, pooled AP@0.5: .78 without
# such lessons, .79 with pairs anywhere, .82 with pairs that touch.  Digits with grid, 1000 steps: 93.6 % counted
# without, 94.7 % with pairs anywhere; when half of them touched, more digits came in two boxes: 92.0 %.
_TOUCHING_LESSONS = {"free": False, "blob": True}


class Learned(NamedTuple):
    """What a training leaves behind beside the model, which it changed in place."""

    history: dict[str, np.ndarray]  # each (n_rows,)
    penalties: dict[str, float]


def learn(
    model: StructuredVAE,
    objective: Objective,
    images: Sequence[Any],
    settings: TrainingSettings,
    device: torch.device,
    observe: Callable[[Run], bool] | None = None,
) -> Learned:
    """Train `model` on prepared images (C, H, W); see `train` for `observe`."""
    return learned_from(train(model, objective, images, settings, device=device, observe=observe), objective)


def learned_from(rows: list[dict[str, float]], objective: Objective) -> Learned:
    """The history as columns, and the penalties by name."""
    history = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
    constraints = objective.constraints
    return Learned(history, {name: float(constraints.penalty(name)) for name in constraints.names})


def new_model(config: ModelConfig, seed: int) -> StructuredVAE:
    """A model whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StructuredVAE(config)


def continued_model(model: StructuredVAE, config: ModelConfig) -> StructuredVAE:
    """A copy of the model at hand to go on from.

    Raises
    ------
    ValueError
        If it has other sizes than `config`.
    """
    # Two of the sizes are starting values, which training has long left; the others have to agree.
    own = replace(model.config, expected_objects=config.expected_objects, initial_side=config.initial_side)
    changed = [f.name for f in fields(config) if getattr(own, f.name) != getattr(config, f.name)]
    if changed:
        raise ValueError(
            f"warm_start=True cannot go on from the model at hand, which has another {', '.join(changed)}; "
            "fit with the parameters that it was made with, or set warm_start=False"
        )
    return copy.deepcopy(model)


def noise_scale_of(images: Sequence[Any], window_size: int, seed: int, n_crops: int = 200) -> float:
    """sigma, estimated from random crops of prepared images.

    Raises
    ------
    ValueError
        If there is nothing to see in any of them.
    """
    random = np.random.default_rng(seed)
    chosen = random.integers(len(images), size=n_crops)
    crops = np.stack([random_crop(images[i], window_size, random) for i in chosen])
    if crops.min() == crops.max():
        raise ValueError(
            f"X shows nothing to learn from: in all of its {len(images)} image(s) the pixels have one value, as "
            f"far as {n_crops} random crops tell; check that the right channel or file was read"
        )
    return estimate_noise_scale(crops)


def training_objective(
    parameters: Parameters, bounds: Bounds, *, shape: str, noise_scale: float
) -> Objective:
    """The objective that follows from the user's parameters, their bounds and the form of masks."""
    slots = bounds.max_objects
    constraints = PosteriorConstraints(
        {
            "reconstruction": (0.0, 1.0),
            "density": (bounds.density[0] / slots, bounds.density[1] / slots),
            "area": bounds.area,
        },
        enabled=parameters.sapr,
    )
    settings = ObjectiveSettings(
        noise_scale=float(noise_scale),
        overlap_threshold=training_overlap(parameters, shape),
        typical_evidence=_TYPICAL_EVIDENCE[shape],
        overlap_weight=float(parameters.overlap_penalty),
        presence_update=parameters.presence_update,
    )
    return Objective(constraints, settings)


def training_settings(
    parameters: Parameters,
    bounds: Bounds,
    preset: str,
    images: Sequence[PreparedImage],
    *,
    shape: str,
    from_scratch: bool,
    seed: int,
) -> TrainingSettings:
    """The run that a preset and the user's parameters ask for on these images; None stands for the preset's own."""
    p = parameters
    own_steps, own_batch_size, own_rate = _TRAINING[preset]
    return TrainingSettings(
        n_steps=p.n_steps or own_steps,
        batch_size=p.batch_size or own_batch_size,
        learning_rate=p.learning_rate or (own_rate if from_scratch else _REFINING_RATE * own_rate),
        max_objects=bounds.max_objects,
        density=bounds.density,
        seed=seed,
        augment=p.augment,
        touching_lessons=_TOUCHING_LESSONS[shape],
        from_scratch=from_scratch,
        progress=p.verbose,
        checkpoint=None if p.checkpoint is None else Path(p.checkpoint),
        given={
            "images": fingerprint(images),
            "intensity": p.intensity,
            "noise_scale": None if p.noise_scale is None else float(p.noise_scale),
        },
    )


def teaching_settings(
    parameters: Parameters, bounds: Bounds, wake: TrainingSettings, config: ModelConfig
) -> TeachingSettings:
    """The sleep phase that follows a run: short runs have a short one."""
    p = parameters
    # What teaches is the published way with its defaults, whatever the user predicts with.
    windows = InferenceSettings(
        stride=bounds.window_size // 4,
        n_samples=1,
        max_objects=prediction_slots(bounds, config),
        overlap_threshold=prediction_overlap(p),
        intensity=p.intensity,
        seed=wake.seed,
    )
    return TeachingSettings(
        windows=windows,
        n_steps=p.recognition_steps or min(_RECOGNITION_STEPS, wake.n_steps),
        seed=wake.seed,
        n_jobs=p.n_jobs,
        progress=p.verbose,
        checkpoint=None if wake.checkpoint is None else sleep_checkpoint(wake.checkpoint),
        images=wake.given["images"],
    )


def sleep_checkpoint(checkpoint: Path) -> Path:
    """Where the sleep phase of a training keeps its state: beside that of the training."""
    return checkpoint.with_name(f"{checkpoint.stem}-sleep{checkpoint.suffix}")
