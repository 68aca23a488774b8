"""What the sleep phase of `fit` does: from a trained generative model and its images to a recognition network.

The model segments its training images by sliding windows.  What it is sure of becomes a library and labels, from which
the network learns (`cellsegmenter.sleep`).  Images of which it saw no real crop tell how far its scores can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.draw import polygon
from tqdm import tqdm

from cellsegmenter.consensus import AbsoluteResolution
from cellsegmenter.image_consensus import COUNT_LEVEL
from cellsegmenter.inference import InferenceSettings
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.provenance import model_hash
from cellsegmenter.recognition.calibration import Calibration, JudgedCandidates, fit_calibration, fit_stretch
from cellsegmenter.recognition.candidates import Candidates, find_candidates, load_candidates
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork
from cellsegmenter.recognition.sampling import OVERLAP, sample_candidates
from cellsegmenter.recognition.stars import vertices
from cellsegmenter.recognition.suppression import overlapping_pairs, ranks, suppress
from cellsegmenter.region import Region
from cellsegmenter.segmenting import window_graph
from cellsegmenter.sleep.composites import Composite, make_composite
from cellsegmenter.sleep.crops import CropSource
from cellsegmenter.sleep.library import IGNORED, Library, TaughtImage, build_library, taught_labels
from cellsegmenter.sleep.phase import SleepSettings, sleep
from cellsegmenter.store import MemoryStore
from cellsegmenter.windows import make_windows
from cellsegmenter.workspace import Workspace

__all__ = [
    "LEAST_OBJECTS",
    "Recognised",
    "TeachingSettings",
    "learn_recognition",
    "new_network",
    "taught_images",
]

# γ_abs of the segmentation that teaches.
_RESOLUTION = AbsoluteResolution(0.2)
# Images are segmented in squares of this side at most, px at working scale, and by so many windows and
# pixels in all.
_SIDE = 1024
_MOST_WINDOWS, _MOST_PIXELS = 100_000, 2**26
# Objects in the library below which there is nothing to learn from.  If so many windows show no confident object at
# all, no further one is looked at.
LEAST_OBJECTS = 30
_FIRST_LOOK, _CONFIDENT = 300, 0.85
# Composites that are made, once; and those that are shown in the report.
_COMPOSITES, _EXAMPLES, _EXAMPLE_SIDE = 350, 6, 128
_COMPOSITE_PIXELS = 2**24  # in all, at most
# One in so many images is held back to calibrate by.
_HELD_BACK = 8
_RIGHT = 0.5  # intersection over union
_COUNTED_SAMPLES = 64  # of each image held back


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
    examples: (
        np.ndarray
    )  # (6, 2, side, side) uint8: composites, their brightest channel and the object at each pixel


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
    taught = list(taught_images(model, images, settings, random))
    library = build_library(taught, diameter, method, random)
    facts: dict[str, Any] = {
        "images": len(taught),
        "objects_seen": library.n_seen,
        "objects_in_library": library.n_kept,
    }
    if library.n_kept < LEAST_OBJECTS:
        return Recognised(None, {}, facts, _examples([]))
    labels = [taught_labels(image, diameter) for image in taught]
    # If there are few images, all of them are used for both.
    step = _HELD_BACK if len(taught) >= 2 * _HELD_BACK else 1
    held_back = taught[::step]
    real = [
        (image.pixels, of_image)
        for number, (image, of_image) in enumerate(zip(taught, labels, strict=True))
        if step == 1 or number % step
    ]
    composites = _composites(library, model, random)
    facts |= {
        "backdrops": len(library.backdrops),
        "composites": len(composites),
        "share_ignored": round(float(np.mean([np.mean(of_image == IGNORED) for of_image in labels])), 4),
        "images_held_back": len(held_back) if step > 1 else 0,
    }
    network = new_network(model, settings.seed)
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
        given={"images": settings.images, "model": model_hash(model.generative, None, method)},
    )
    network.calibration = _calibrated(model, network, held_back)
    history = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Recognised(network, history, facts | {"steps": settings.n_steps}, _examples(composites))


def _composites(library: Library, model: FittedModel, random: np.random.Generator) -> list[Composite]:
    """The composites of a sleep phase, fewer of large ones."""
    made: list[Composite] = []
    while (
        len(made) < _COMPOSITES and (len(made) + 1) * (made[0].labels.size if made else 0) < _COMPOSITE_PIXELS
    ):
        made.append(make_composite(library, model.working_diameter, model.intensity, random))
    return made


def new_network(model: FittedModel, seed: int) -> RecognitionNetwork:
    """A network whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RecognitionNetwork(
            RecognitionConfig(model.generative.config.n_channels, float(model.working_diameter))
        )


def taught_images(
    model: FittedModel,
    images: Sequence[PreparedImage],
    settings: TeachingSettings,
    random: np.random.Generator,
) -> Iterator[TaughtImage]:
    """What the model says of its training images, in random order, until enough windows were seen."""
    squares = [(image, square) for image in images for square in _squares(image.shape[-2:])]
    least = max(1, round(model.least_area))
    seen, n_pixels, found = 0, 0, 0
    for number in tqdm(random.permutation(len(squares)), "teaching", disable=not settings.progress):
        image, square = squares[number]
        pixels = image[(slice(None), *square.slices)]
        taught = _teach(model, pixels, settings, least)
        yield taught
        windows = make_windows(square.shape, model.generative.config.window_size, settings.windows.stride)
        seen += len(windows)
        n_pixels += square.height * square.width
        found += int((taught.confidence >= _CONFIDENT).sum())
        if max(seen / _MOST_WINDOWS, n_pixels / _MOST_PIXELS) >= 1 or (seen >= _FIRST_LOOK and not found):
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
    model: FittedModel, network: RecognitionNetwork, images: Sequence[TaughtImage]
) -> Calibration:
    """The calibration of a trained network, from images that are none of its real crops."""
    model = replace(model, recognition=network)
    candidates = [_candidates_of(model, image) for image in images]
    calibration = fit_calibration(
        [_judged(of_image, image) for of_image, image in zip(candidates, images, strict=True)]
    )
    samples = [
        sample_candidates(of_image, calibration, n_samples=_COUNTED_SAMPLES, seed=0)
        for of_image in candidates
    ]
    counts = [sample.present.sum(axis=0) for sample in samples]
    expected = [len(image.confidence) for image in images]
    return calibration._replace(stretch=fit_stretch(counts, expected, COUNT_LEVEL))


def _candidates_of(model: FittedModel, image: TaughtImage) -> Candidates:
    store = MemoryStore()
    whole = Region(0, 0, *image.labels.shape)
    return load_candidates(store, "found", find_candidates(model, image.pixels, store, region=whole))


def _judged(candidates: Candidates, image: TaughtImage) -> JudgedCandidates:
    """The candidates of an image that suppression leaves and that the teacher has an opinion of."""
    candidates = _best_alone(candidates)
    opinions = np.array([_opinion(image, outline) for outline in vertices(candidates.stars)], float)
    known = np.flatnonzero(~np.isnan(opinions))  # None becomes nan
    return JudgedCandidates(candidates.evidence.take(known), opinions[known])


def _best_alone(candidates: Candidates) -> Candidates:
    """The candidates that greedy suppression by score leaves."""
    rank = ranks(candidates.evidence.score[:, None])
    pairs = overlapping_pairs(candidates.stars, OVERLAP)
    return candidates.take(np.flatnonzero(suppress(rank, np.ones(rank.shape, bool), pairs)[:, 0]))


def _opinion(image: TaughtImage, outline: np.ndarray) -> float | None:
    """How probably an outline (32, 2) is an object, by the teacher; None where it sees other objects there.

    The teacher's confidence is a mean overlap, and not a probability: with 0.95 more objects are right, with 0.3
    fewer (benchmarks/confidence.py).  Twice its log-odds are near what annotations of nuclei say.
    """
    row, column = (outline - 0.5).T
    inside = polygon(row, column, shape=image.labels.shape)
    matched = _matched(image.labels, inside)
    if matched:
        belief = float(image.confidence[matched - 1])
    else:
        belief = float(image.foreground[inside].mean()) if len(inside[0]) else 0.0
        if belief > 0.5:
            return None
    return belief**2 / (belief**2 + (1 - belief) ** 2)


def _matched(labels: np.ndarray, inside: tuple[np.ndarray, np.ndarray]) -> int:
    """The label that some pixels are, by an intersection over union above a half; 0 for none."""
    counts = np.bincount(np.maximum(labels[inside], 0), minlength=1)
    counts[0] = 0
    most = int(counts.argmax())
    union = len(inside[0]) + np.sum(labels == most) - counts[most]
    return most if most and counts[most] > _RIGHT * union else 0


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
