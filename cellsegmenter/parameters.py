"""The estimator's parameters: their defaults, their checks, and the sizes of a model that follow from them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from cellsegmenter.consensus import AbsoluteResolution, check_resolution
from cellsegmenter.io import check_writable
from cellsegmenter.model.config import PRESETS, ModelConfig, grid_level_for
from cellsegmenter.model.device import resolve_device
from cellsegmenter.packages import needs
from cellsegmenter.validation import check_bounds, check_choice, check_number
from cellsegmenter.windows import check_stride

__all__ = [
    "Bounds",
    "BoundsWarning",
    "Parameters",
    "bounds_of",
    "check_bounds_together",
    "check_for_prediction",
    "check_for_training",
    "check_repeatable",
    "model_config",
    "prediction_overlap",
    "prediction_slots",
    "predicts_by_windows",
    "samples_of",
    "seed_of",
    "stride_of",
    "training_overlap",
    "warn_of_conflicts",
]

# A box is this much wider than the circle of its object's area.
_BOX_OVER_DIAMETER = 1.25
# Slots for objects over the user's upper density, when max_objects is left to us.
_SLOTS_OVER_DENSITY = 1.5
# alpha in training (Suppl. S5), by the form of masks.  The paper has 0.3, and 0.5 in prediction.  Boxes are loose
# while they are learnt, and 0.3 then blocks close neighbours.  A free mask can be a half of an object, and then halves
# have to be kept apart: on digits with grid, 1000 steps, 0.55 counts 74 % and 0.4 94 %.  A blob can not, and the boxes
# of slanted neighbours overlap: pooled AP@0.5 of nuclei, 1200 steps, 21 training images: .73 with 0.4, .75 with 0.55,
# .71 with 0.7.
_TRAINING_OVERLAP = {"free": 0.4, "blob": 0.55}
# alpha in prediction.  With more, a posterior sample draws objects twice: digits with grid, 1000 steps, one sample
# counts 83 % of the images with 0.3 and 71 % with 0.4, the most probable posterior 94 % with both.  Nuclei, 56 training
# images, pooled AP@0.5: .835 with 0.3, .827 with 0.4 and .822 with 0.5.
_PREDICTION_OVERLAP = 0.3
_RECOGNITION = ("auto", "one_pass", "windows")
# Posterior samples: of each of the 16 windows that see a pixel, and of the whole image in one pass.
_WINDOW_SAMPLES, _IMAGE_SAMPLES = 1, 32
# Slots of a window in prediction, over those in training.  Some windows of real images are far denser than the mean;
# suppression, not a lack of slots, should limit them.
_PREDICTION_SLOTS = 2
# px across, below which no object can be seen.
_LEAST_DIAMETER = 2.0
# Of its bounding box a thin stroke covers this fraction; a disc covers 0.79.
_LEAST_FILL = 0.25


class BoundsWarning(UserWarning):
    """The user's bounds can hardly hold together."""


@dataclass(eq=False, repr=False)
class Parameters:
    """The constructor of `CellSegmenter`, whose docstring says what they mean.

    It stores its arguments and nothing else, as scikit-learn wants it; what they are worth is checked in `fit`.
    """

    density: tuple[float, float] = (5, 10)
    area: tuple[float, float] = (0.10, 0.15)
    object_size: tuple[float, float] = (8, 28)
    _: KW_ONLY
    window_size: int = 80
    max_objects: int | None = None
    network: str = "auto"
    shape: str = "auto"
    appearance: str = "smooth"
    latent_dim: int = 20
    n_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    noise_scale: float | None = None
    overlap_penalty: float = 0.0
    overlap_threshold: float | Literal["auto"] = "auto"
    sapr: bool = True
    presence_update: str = "mean_field"
    intensity: Literal["log", "linear"] = "log"
    diameter: float | Sequence[float] | Literal["auto"] | None = None
    polarity: Literal["auto", "bright", "dark"] = "auto"
    channel_axis: int | None = None
    augment: bool = False
    recognition: Literal["auto", "one_pass", "windows"] = "auto"
    recognition_steps: int | None = None
    stride: int | None = None
    n_samples: int | None = None
    resolution: Literal["auto"] | float | AbsoluteResolution = "auto"
    min_size: int | None = None
    device: str = "auto"
    random_state: Any = None
    warm_start: bool = False
    checkpoint: str | Path | None = None
    tensorboard: str | Path | None = None
    n_jobs: int = 1
    verbose: bool = False


@dataclass(frozen=True)
class Bounds:
    """What the user knows of the images, at working scale; crude estimates, never the truth."""

    density: tuple[float, float]  # objects per window
    area: tuple[float, float]  # foreground fraction
    object_size: tuple[float, float]  # shortest and longest side of a bounding box, px
    window_size: int  # px
    max_objects: int  # K_max per window

    @property
    def expected_objects(self) -> float:
        """Per window: the middle of the density bounds."""
        return sum(self.density) / 2

    @property
    def object_area(self) -> float:
        """px² of an object: the middle of the area bounds shared among the expected objects."""
        return sum(self.area) / 2 * self.window_size**2 / self.expected_objects

    @property
    def diameter(self) -> float:
        """px of the circle of an object's area: the working scale that the bounds imply."""
        return math.sqrt(4 / math.pi * self.object_area)

    @property
    def box_side(self) -> float:
        """px of a typical object's box."""
        return min(max(_BOX_OVER_DIAMETER * self.diameter, self.object_size[0]), self.object_size[1])


def check_bounds_together(
    *, density: Any, area: Any, object_size: Any, window_size: Any, max_objects: Any
) -> Bounds:
    """Check each bound and that they can hold together.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, the value and the remedy.
    """
    window = int(check_number("window_size", window_size, low=32, integer=True))
    if window % 16:
        nearest = max(32, 16 * round(window / 16))
        raise ValueError(
            f"window_size={window} must be a multiple of 16, for the U-Net's four poolings; use {nearest}"
        )
    low, high = check_bounds("density", density, low=0)
    if high == 0:
        raise ValueError(f"density=({low}, {high}) asks for no object at all; give a positive maximum")
    fraction = check_bounds("area", area, low=0, high=1)
    if fraction[1] == 0:
        raise ValueError(f"area={fraction} asks for no foreground at all; give a positive maximum")
    size = check_bounds("object_size", object_size, low=2, high=window)
    if size[0] == size[1]:
        raise ValueError(
            f"object_size={size} leaves boxes no choice; give a shorter minimum or a longer maximum"
        )
    slots = math.ceil(_SLOTS_OVER_DENSITY * high)
    if max_objects is not None:
        slots = int(check_number("max_objects", max_objects, low=1, integer=True))
        if high > slots:
            raise ValueError(
                f"density=({low}, {high}) exceeds max_objects={slots}, the slots of a window; "
                f"use max_objects={math.ceil(_SLOTS_OVER_DENSITY * high)} or leave it out"
            )
    points = (window >> grid_level_for(size[0])) ** 2
    if high > points:
        raise ValueError(
            f"density=({low}, {high}) exceeds the {points} points of the object grid of a {window}-px window with "
            f"objects of at least {size[0]} px; use a smaller object_size or fewer objects"
        )
    bounds = Bounds((low, high), fraction, size, window, min(slots, points))
    if bounds.diameter < _LEAST_DIAMETER:
        raise ValueError(
            f"area={fraction} with density=({low}, {high}) speaks of objects {bounds.diameter:.2g} px across, and "
            f"below {_LEAST_DIAMETER:g} px there is nothing to see; give area as a fraction of the pixels (0.1 is a "
            "tenth), or rescale the images"
        )
    return bounds


def warn_of_conflicts(bounds: Bounds) -> None:
    """Warn where density, area and object_size contradict each other, before the training pays for it.

    An object covers at most its box, and at least a quarter of it.
    """
    window, (fewest, most), (least, largest) = bounds.window_size**2, bounds.density, bounds.area
    smallest_area, largest_area = _LEAST_FILL * bounds.object_size[0] ** 2, bounds.object_size[1] ** 2
    given = f"density={bounds.density}, area={bounds.area} and object_size={bounds.object_size}"
    advice = "`suggest_bounds(images)` or `cellseg suggest` proposes bounds that fit the images"
    if fewest * smallest_area > largest * window:
        problem = (
            f"even {fewest:g} objects of the smallest size cover {fewest * smallest_area / window:.2g} of a "
            f"{bounds.window_size}-px window, more than area allows"
        )
    elif most * largest_area < least * window:
        problem = (
            f"even {most:g} objects of the largest size cover only {most * largest_area / window:.2g} of a "
            f"{bounds.window_size}-px window, less than area demands"
        )
    elif not smallest_area <= bounds.object_area <= largest_area:
        problem = (
            f"density and area speak of objects about {bounds.diameter:.0f} px across, which boxes of these sizes "
            "do not fit"
        )
    else:
        return
    warnings.warn(f"{given} can hardly hold together: {problem}; {advice}", BoundsWarning, stacklevel=3)


def bounds_of(parameters: Parameters) -> Bounds:
    """The bounds among the parameters; see `check_bounds_together`."""
    return check_bounds_together(
        density=parameters.density,
        area=parameters.area,
        object_size=parameters.object_size,
        window_size=parameters.window_size,
        max_objects=parameters.max_objects,
    )


def check_for_training(parameters: Parameters) -> tuple[Bounds, str]:
    """Check all parameters: those of prediction too, as nobody wants to hear of them after the training.

    Returns
    -------
    bounds : Bounds
    preset : str
        The network; what "auto" stands for here.

    Raises
    ------
    TypeError, ValueError, ImportError
        Naming the parameter, the value and the remedy.
    """
    bounds, p = bounds_of(parameters), parameters
    check_choice("network", p.network, ("auto", *PRESETS))
    check_choice("shape", p.shape, ("auto", "blob", "free"))
    check_choice("appearance", p.appearance, ("smooth", "free"))
    check_choice("presence_update", p.presence_update, ("mean_field", "straight_through"))
    check_choice("intensity", p.intensity, ("log", "linear"))
    if p.recognition_steps is not None:
        check_number("recognition_steps", p.recognition_steps, low=1, integer=True)
    check_number("latent_dim", p.latent_dim, low=1, integer=True)
    check_number("overlap_penalty", p.overlap_penalty, low=0)
    prediction_overlap(p)
    for name, low, integer in (
        ("n_steps", 1, True),
        ("batch_size", 2, True),
        ("learning_rate", 1e-9, False),
        ("noise_scale", 1e-6, False),
    ):
        if getattr(p, name) is not None:
            check_number(name, getattr(p, name), low=low, integer=integer)
    if p.checkpoint is not None:
        check_writable(p.checkpoint)
    if p.tensorboard is not None:
        check_writable(p.tensorboard, folder=True)
        if find_spec("tensorboard") is None:
            raise ImportError(needs(f"tensorboard={str(p.tensorboard)!r}", "tensorboard"))
    check_for_prediction(p)
    samples_of(p, by_windows=True)
    stride_of(p, bounds.window_size)
    predicts_by_windows(p, has_network=True)
    if p.network != "auto":
        return bounds, p.network
    return bounds, "reference" if resolve_device(p.device).type == "cuda" else "small"


def check_for_prediction(parameters: Parameters) -> None:
    """Check what a prediction needs; samples, stride and way are checked where they are asked for."""
    check_resolution(parameters.resolution)
    check_choice("recognition", parameters.recognition, _RECOGNITION)
    if parameters.min_size is not None:
        check_number("min_size", parameters.min_size, low=0, integer=True)
    jobs = parameters.n_jobs
    if jobs is not None and check_number("n_jobs", jobs, integer=True) == 0:
        raise ValueError("n_jobs is 0; give a number of processes, or -1 for one on each core")


def samples_of(parameters: Parameters, n_samples: int | None = None, *, by_windows: bool) -> int:
    """Posterior samples of a prediction, of each window or of the whole image: those given, else the parameters'."""
    own = _WINDOW_SAMPLES if by_windows else _IMAGE_SAMPLES
    samples = next(n for n in (n_samples, parameters.n_samples, own) if n is not None)
    return int(check_number("n_samples", samples, low=1, integer=True))


def stride_of(parameters: Parameters, window_size: int, stride: int | None = None) -> int:
    """px between the windows of a prediction: that given, else the parameters'; checked."""
    step = next(s for s in (stride, parameters.stride, window_size // 4) if s is not None)
    check_number("stride", step, low=1, high=window_size, integer=True)
    check_stride(window_size, int(step))
    return int(step)


def predicts_by_windows(parameters: Parameters, *, has_network: bool, stride: int | None = None) -> bool:
    """Whether a prediction slides windows, instead of one pass over the whole image.

    Raises
    ------
    ValueError
        If one pass is asked for, and the model has no recognition network, or a stride was given, too.
    """
    step = parameters.stride if stride is None else stride
    if parameters.recognition != "one_pass":
        return parameters.recognition == "windows" or step is not None or not has_network
    if not has_network:
        raise ValueError(
            'recognition="one_pass" needs a recognition network, and this model has none: too few confident objects '
            'were found in training, or it was switched off. Use recognition="auto", which slides windows then, or '
            "fit again"
        )
    if step is not None:
        raise ValueError(
            f'stride={step} is the distance of sliding windows, and recognition="one_pass" has none; leave one of '
            "the two out"
        )
    return False


def training_overlap(parameters: Parameters, shape: str) -> float:
    """alpha in training: how much of the smaller box two objects may share."""
    return _overlap_or(parameters.overlap_threshold, _TRAINING_OVERLAP[shape])


def prediction_slots(bounds: Bounds, config: ModelConfig) -> int:
    """The most objects that a window can hold in prediction."""
    return min(_PREDICTION_SLOTS * bounds.max_objects, int(np.prod(config.grid_shape)))


def prediction_overlap(parameters: Parameters) -> float:
    """alpha in prediction."""
    return _overlap_or(parameters.overlap_threshold, _PREDICTION_OVERLAP)


def _overlap_or(given: float | str, automatic: float) -> float:
    if isinstance(given, str):
        check_choice("overlap_threshold", given, ("auto",))
        return automatic
    return check_number("overlap_threshold", given, low=0, high=1)


def seed_of(random_state: Any) -> int:
    """A seed from a random state; global generators are left alone.

    Raises
    ------
    TypeError, ValueError
        If it is neither a whole number of 32 bits, nor a RandomState, nor None.
    """
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, Integral):
        return int(check_number("random_state", random_state, low=0, high=2**32 - 1, integer=True))
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise ValueError(
            f"random_state={random_state!r} is no seed; give a whole number, a RandomState or None"
        ) from error


def check_repeatable(random_state: Any, work_folder: Any) -> None:
    """Refuse to fill a folder that no later call could go on from.

    Raises
    ------
    ValueError
        If the random state is not a whole number: it would give another seed each time.
    """
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"random_state={random_state!r} gives another seed at each call, and work_folder={str(work_folder)!r} "
            "serves one seed only; give a whole number, for example random_state=0"
        )


def model_config(
    parameters: Parameters, bounds: Bounds, preset: str, *, shape: str, n_channels: int
) -> ModelConfig:
    """The sizes of the model that these parameters and their bounds call for; `shape` is never "auto"."""
    return ModelConfig(
        n_channels=n_channels,
        window_size=bounds.window_size,
        object_size=bounds.object_size,
        initial_side=bounds.box_side,
        expected_objects=bounds.expected_objects,
        grid_level=grid_level_for(bounds.object_size[0]),
        shape=shape,
        appearance=parameters.appearance,
        latent_dim=parameters.latent_dim,
        **PRESETS[preset],
    )
