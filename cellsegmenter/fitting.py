"""What `fit` does, from the user's images to the attributes of a fitted estimator."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from cellsegmenter.callbacks import learn_observed
from cellsegmenter.learning import (
    Learned,
    continued_model,
    learn,
    new_model,
    noise_scale_of,
    teaching_settings,
    training_objective,
    training_settings,
)
from cellsegmenter.model.config import preset_of
from cellsegmenter.model.device import resolve_device
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.parameters import Bounds, model_config, seed_of
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.provenance import model_card
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.scale_search import see_by_estimate
from cellsegmenter.scales import warn_of_extreme_scale
from cellsegmenter.shape import choose_shape
from cellsegmenter.teaching import LEAST_OBJECTS, Recognised, learn_recognition
from cellsegmenter.training.loop import Run
from cellsegmenter.validation import check_images
from cellsegmenter.wording import counted

__all__ = ["fit_attributes"]

_ON_THE_CARD = ("density", "area", "object_size", "window_size", "diameter", "polarity")


def fit_attributes(segmenter: Any, X: Any, y: Any, bounds: Bounds, preset: str) -> dict[str, Any]:
    """Train a model, and give what `CellSegmenter.fit` leaves in the estimator, by name.

    Parameters
    ----------
    segmenter : CellSegmenter
        Its parameters are checked; with ``warm_start`` its model is gone on from.  It is not changed.
    X, y
        As in `CellSegmenter.fit`.
    bounds : Bounds
    preset : str
        The network; to go on with ``network="auto"``, that of the model at hand is taken instead.
    """
    device = resolve_device(segmenter.device)
    goes_on = segmenter.warm_start and hasattr(segmenter, "model_")
    if goes_on and segmenter.network == "auto":
        preset = preset_of(segmenter.model_.config) or preset
    images, shape, trained_on = _images_to_learn(segmenter, X, bounds, goes_on)
    if goes_on:
        trained_on = f"{trained_on}; went on from a model trained on {segmenter.card_['trained_on']}"
    seed = seed_of(segmenter.random_state)
    estimated_scale = noise_scale_of(images, bounds.window_size, seed)
    noise_scale = estimated_scale if segmenter.noise_scale is None else segmenter.noise_scale
    config = model_config(segmenter, bounds, preset, shape=shape, n_channels=images[0].shape[0])
    model = continued_model(segmenter.model_, config) if goes_on else new_model(config, seed)
    objective = training_objective(segmenter, bounds, shape=shape, noise_scale=noise_scale)
    settings = training_settings(
        segmenter, bounds, preset, images, shape=shape, from_scratch=not goes_on, seed=seed
    )
    on_the_card = {name: getattr(segmenter, name) for name in _ON_THE_CARD}

    nothing = Recognised(None, {}, {}, np.zeros((0, 2, 0, 0), np.uint8))

    def as_fitted(model: StructuredVAE, learned: Learned, recognised: Recognised = nothing) -> dict[str, Any]:
        card = model_card(
            model,
            learned.history,
            trained_on=trained_on,
            working_diameter=bounds.diameter,
            parameters=on_the_card,
            recognition=recognised.facts,
        )
        return {
            "model_": model,
            "history_": learned.history,
            "n_channels_in_": config.n_channels,
            "noise_scale_": objective.settings.noise_scale,  # of a checkpoint that was gone on from: its own
            "working_diameter_": bounds.diameter,
            "penalties_": learned.penalties,
            "card_": card,
            "recognition_": recognised.network,
            "recognition_history_": recognised.history,
            "recognition_examples_": recognised.examples,
        }

    def train(observe: Callable[[Run], bool]) -> dict[str, Any]:
        learned = learn(model, objective, images, settings, device, observe)
        recognised = nothing
        if segmenter.recognition == "one_pass" or (segmenter.recognition == "auto" and shape == "blob"):
            fitted = FittedModel(model, None, bounds.diameter, segmenter.intensity, device)
            recognised = learn_recognition(
                fitted, images, teaching_settings(segmenter, bounds, settings, config)
            )
            _tell(segmenter, recognised)
        return as_fitted(model, learned, recognised)

    return learn_observed(
        segmenter,
        (X, y),
        settings.n_steps,
        train,
        as_fitted,
    )


def _tell(segmenter: Any, recognised: Recognised) -> None:
    """Say what a sleep phase learned from, and warn where it was asked for and had nothing to learn from."""
    facts = recognised.facts
    if recognised.network is not None:
        segmenter._say(
            f"sleep phase: {facts['objects_in_library']} of {counted(facts['objects_seen'], 'object')} in the library, "
            f"{facts['composites']} composites, {facts['share_ignored']:.1%} of the pixels ignored"
        )
        return
    message = (
        f"only {facts['objects_in_library']} of {facts['objects_seen']} objects are confident, whole and alone, and "
        f"a recognition network needs {LEAST_OBJECTS}; more steps or images may help"
    )
    if segmenter.recognition == "one_pass":
        remedy = 'set recognition="auto" to predict with this model, by sliding windows'
        warnings.warn(f"{message}; {remedy}", stacklevel=2)
    else:
        segmenter._say(f"{message}; prediction slides windows")


def _images_to_learn(
    segmenter: Any, X: Any, bounds: Bounds, goes_on: bool
) -> tuple[list[PreparedImage], str, str]:
    """Images of one number of channels at working scale, the form of masks, and in words how X was understood."""
    views, interpretation = check_images(X, channel_axis=segmenter.channel_axis)
    segmenter._say(f"fit on {interpretation}")
    check_images(X, channel_axis=segmenter.channel_axis, n_channels=views[0].shape[0])
    seen = [
        see_by_estimate(
            view,
            segmenter.diameter,
            segmenter.polarity,
            working_diameter=bounds.diameter,
            intensity=segmenter.intensity,
        )
        for view in views
    ]
    for image in seen:
        warn_of_extreme_scale(image.diameters, bounds.diameter)
    for note, count in Counter(note for image in seen for note in image.notes).items():
        segmenter._say(f"{note} ({count} of {len(seen)} images)")
    shape = segmenter.shape
    if shape == "auto":
        shape = segmenter.model_.config.shape if goes_on else choose_shape([image.repaired for image in seen])
        segmenter._say(f'masks are {"blobs" if shape == "blob" else "free"} (shape="{shape}")')
    images = [view for image in seen for view in image.views]
    return images, shape, interpretation
