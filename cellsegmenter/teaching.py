"""What the sleep phase of `fit` does: from a trained generative model and its images to a recognition network.

The model segments its training images by sliding windows.  What it is sure of becomes a library and labels, from which
the network learns (`cellsegmenter.sleep`); images that were held back tell how far its scores can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.draw import polygon
from tqdm import tqdm

from cellsegmenter.consensus import AbsoluteResolution
from cellsegmenter.fitted import FittedModel
from cellsegmenter.inference import InferenceSettings
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.recognition.calibration import Calibration, JudgedCandidates, fit_calibration
from cellsegmenter.recognition.candidates import Candidates, find_candidates, load_candidates
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork
from cellsegmenter.recognition.sampling import OVERLAP
from cellsegmenter.recognition.stars import vertices
from cellsegmenter.recognition.suppression import overlapping_pairs, suppress
from cellsegmenter.region import Region
from cellsegmenter.segmenting import window_graph
from cellsegmenter.sleep.composites import Composite, make_composite
from cellsegmenter.sleep.crops import CropSource
from cellsegmenter.sleep.library import IGNORED, TaughtImage, build_library, taught_labels
from cellsegmenter.sleep.phase import SleepSettings, sleep
from cellsegmenter.store import MemoryStore
from cellsegmenter.workspace import Workspace

__all__ = ["Recognised", "TeachingSettings", "learn_recognition"]

# γ_abs of the segmentation that teaches.
_RESOLUTION = AbsoluteResolution(0.2)
_SMALLEST_FRACTION = 0.25  # of the smallest box's area
# Images are segmented in squares of this side at most, px at working scale, and so many pixels in all.
_SIDE = 1024
_MOST_PIXELS = 2**25
# Confident objects below which there is nothing to learn from, and the pixels after which not one of them ends the try.
LEAST_OBJECTS = 30
_FIRST_LOOK = 2**18
# Composites that are made, once; and those that are shown in the report.
_COMPOSITES, _EXAMPLES, _EXAMPLE_SIDE = 350, 6, 128
# One in so many images is held back to calibrate by; as many composites are made for it.
_HELD_BACK = 8
_CALIBRATION_COMPOSITES = 64
_RIGHT = 0.5  # intersection over union


@dataclass(frozen=True)
class TeachingSettings:
    """How a sleep phase is done."""

    windows: InferenceSettings  # of the segmentation that teaches
    n_steps: int
    seed: int
    n_jobs: int | None = 1
    progress: bool = False
    checkpoint: Path | None = None
    images: str = ""  # fingerprint, which a checkpoint has to agree with


class Recognised(NamedTuple):
    """What a sleep phase leaves behind."""

    network: RecognitionNetwork | None  # None: too few confident objects
    history: dict[str, np.ndarray]  # each (n_rows,)
    facts: dict[str, Any]  # what it learned from, in words and numbers that JSON holds
    examples: np.ndarray  # (6, 2, side, side) uint8: composites, their brightest channel and their borders


def learn_recognition(
    model: FittedModel, images: Sequence[PreparedImage], settings: TeachingSettings
) -> Recognised:
    """Teach a recognition network what the generative model is sure of.

    Parameters
    ----------
    model : FittedModel
        Its recognition network, if any, is not looked at.
    images : sequence of PreparedImage
        The training images.
    settings : TeachingSettings
    """
    random = np.random.default_rng(settings.seed)
    diameter, method = model.working_diameter, model.intensity
    taught = list(_taught_images(model, images, settings, random))
    library = build_library(taught, diameter, method, random)
    facts: dict[str, Any] = {
        "images": len(taught),
        "objects_seen": library.n_seen,
        "objects_in_library": library.n_kept,
    }
    if library.n_kept < LEAST_OBJECTS:
        return Recognised(None, {}, facts, _examples([]))
    labels = [taught_labels(image, diameter) for image in taught]
    lessons = list(zip([image.pixels for image in taught], labels, strict=True))
    held_back = lessons[::_HELD_BACK] if len(lessons) >= 2 * _HELD_BACK else []
    real = [lesson for number, lesson in enumerate(lessons) if not held_back or number % _HELD_BACK]
    composites = [make_composite(library, diameter, method, random) for _ in range(_COMPOSITES)]
    facts |= {
        "distractors": len(library.distractors),
        "backdrops": len(library.backdrops),
        "composites": len(composites),
        "share_ignored": round(float(np.mean([np.mean(of_image == IGNORED) for of_image in labels])), 4),
        "images_held_back": len(held_back),
    }
    network = _new_network(model, settings.seed)
    sources = [CropSource(source, diameter, method, network.config) for source in (composites, real)]
    rows = sleep(
        network,
        sources,
        SleepSettings(
            n_steps=settings.n_steps,
            seed=settings.seed,
            progress=settings.progress,
            checkpoint=settings.checkpoint,
        ),
        device=model.device,
        given={"images": settings.images, "library": library.n_kept},
    )
    fresh = [make_composite(library, diameter, method, random) for _ in range(_CALIBRATION_COMPOSITES)]
    network.calibration = _calibrated(model, network, fresh, held_back)
    history = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Recognised(network, history, facts | {"steps": settings.n_steps}, _examples(composites))


def _new_network(model: FittedModel, seed: int) -> RecognitionNetwork:
    """A network whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RecognitionNetwork(
            RecognitionConfig(model.generative.config.n_channels, float(model.working_diameter))
        )


def _taught_images(
    model: FittedModel,
    images: Sequence[PreparedImage],
    settings: TeachingSettings,
    random: np.random.Generator,
) -> Iterator[TaughtImage]:
    """What the model says of its training images, in random order, until enough pixels were seen."""
    squares = [(image, square) for image in images for square in _squares(image.shape[-2:])]
    least = max(1, round(_SMALLEST_FRACTION * model.smallest_side**2))
    seen, found = 0, 0
    for number in tqdm(random.permutation(len(squares)), "teaching", disable=not settings.progress):
        image, square = squares[number]
        pixels = image[(slice(None), *square.slices)]
        taught = _teach(model, pixels, settings, least)
        yield taught
        seen += square.height * square.width
        found += len(taught.confidence)
        if seen >= _MOST_PIXELS or (seen >= _FIRST_LOOK and not found):
            return


def _squares(shape: tuple[int, int]) -> list[Region]:
    whole = Region(0, 0, *shape)
    rows, columns = (range(0, side, _SIDE) for side in shape)
    return [Region(row, column, _SIDE, _SIDE).common(whole) for row in rows for column in columns]


def _teach(model: FittedModel, pixels: np.ndarray, settings: TeachingSettings, min_size: int) -> TaughtImage:
    """Segment normalised pixels (C, H, W) at working scale by sliding windows."""
    workspace = Workspace(n_jobs=settings.n_jobs)
    graph = window_graph(model, pixels, settings.windows, MemoryStore(), workspace)
    found = graph.cut(_RESOLUTION, min_size=min_size, random_state=settings.seed)
    return TaughtImage(
        pixels, np.asarray(found.labels), found.confidence, np.asarray(found.foreground_prob, np.float32)
    )


# --- how far scores can be trusted ------------------------------------------------------------------------------


def _calibrated(
    model: FittedModel,
    network: RecognitionNetwork,
    composites: Sequence[Composite],
    real: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Calibration:
    """The calibration of a trained network, from images that it has not seen."""
    with_network = FittedModel(
        model.generative, network, model.working_diameter, model.intensity, model.device
    )
    groups = [
        [_judged(with_network, pixels, labels) for pixels, labels in images] for images in (composites, real)
    ]
    return fit_calibration(groups)


def _judged(model: FittedModel, pixels: np.ndarray, labels: np.ndarray) -> JudgedCandidates:
    """The candidates of an image that suppression leaves, and whether each is an object of its labels.

    Those that lie mostly where labels are ignored are left out.
    """
    store = MemoryStore()
    whole = Region(0, 0, *labels.shape)
    candidates = load_candidates(store, find_candidates(model, pixels, store, region=whole))
    candidates = _best_alone(candidates)
    verdicts = [_verdict(outline, labels) for outline in vertices(candidates.stars)]
    known = np.array([verdict is not None for verdict in verdicts], bool)
    right = np.array([bool(verdict) for verdict in verdicts], bool)
    return JudgedCandidates(candidates.evidence.take(np.flatnonzero(known)), right[known])


def _best_alone(candidates: Candidates) -> Candidates:
    """The candidates that greedy suppression by score leaves."""
    rank = np.argsort(np.argsort(-candidates.evidence.score, kind="stable"))[:, None]
    pairs = overlapping_pairs(candidates.stars, OVERLAP)
    return candidates.take(np.flatnonzero(suppress(rank, np.ones(rank.shape, bool), pairs)[:, 0]))


def _verdict(outline: np.ndarray, labels: np.ndarray) -> bool | None:
    """Whether an outline (32, 2) is an object of the labels; None where that is not known."""
    row, column = (outline - 0.5).T
    inside = labels[polygon(row, column, shape=labels.shape)]
    if not len(inside) or np.mean(inside == IGNORED) > 0.5:
        return None
    counts = np.bincount(inside[inside > 0])
    if not len(counts):
        return False
    most = int(counts.argmax())
    return bool(counts[most] > _RIGHT * (len(inside) + np.sum(labels == most) - counts[most]))


# --- what is shown ----------------------------------------------------------------------------------------------


def _examples(composites: Sequence[Composite]) -> np.ndarray:
    """(n, 2, side, side) uint8: corners of composites, their brightest channel and the object at each pixel."""
    corner = np.s_[..., :_EXAMPLE_SIDE, :_EXAMPLE_SIDE]
    examples = np.zeros((min(_EXAMPLES, len(composites)), 2, _EXAMPLE_SIDE, _EXAMPLE_SIDE), np.uint8)
    for example, composite in zip(examples, composites, strict=False):
        grey = np.clip(composite.pixels.max(axis=0), 0, 1)[corner]
        numbers = np.where(composite.labels > 0, 1 + (composite.labels - 1) % 255, 0)[corner]
        example[:, : grey.shape[0], : grey.shape[1]] = np.rint(255 * grey), numbers
    return examples
