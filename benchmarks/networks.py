"""Recognition networks that learn from given labels, and what they find above a threshold.

`fit` learns from the model's own confident objects.  Benchmarks compare this with other labels, human ones above all.
A score is taken as it is here (no calibration, no samples), so that only the labels differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit, logit
from scoring import label_scores
from torch import Tensor, nn

from cellsegmenter import CellSegmenter
from cellsegmenter.consensus import ShapePosterior
from cellsegmenter.image_posterior import ImagePosterior
from cellsegmenter.model.device import resolve_device
from cellsegmenter.preparation import PreparedImage
from cellsegmenter.recognition.calibration import Calibration
from cellsegmenter.recognition.candidates import Candidates, find_candidates, load_candidates
from cellsegmenter.recognition.fitted import FittedModel
from cellsegmenter.recognition.network import RecognitionConfig, RecognitionNetwork, StarMap
from cellsegmenter.recognition.sampling import OVERLAP, most_probable
from cellsegmenter.recognition.stars import Stars
from cellsegmenter.recognition.suppression import overlapping_pairs
from cellsegmenter.region import Region
from cellsegmenter.scales import image_diameter, prepare_at_scale
from cellsegmenter.sleep.crops import CropSource
from cellsegmenter.sleep.phase import SleepSettings, sleep
from cellsegmenter.store import MemoryStore

__all__ = [
    "AveragedNetworks",
    "Decoded",
    "LabelledPixels",
    "at_working_scale",
    "best_threshold",
    "candidates_of",
    "choosing_images",
    "decoded",
    "labels_above",
    "painted",
    "prepared",
    "train_network",
    "wake_model",
]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)

LabelledPixels = tuple[np.ndarray, np.ndarray]  # (C, H, W) normalised, (H, W) labels: -1 is ignored


def choosing_images(n_images: int) -> np.ndarray:
    """(n,) bool: every fifth training image from the fourth, by which things may be chosen."""
    return np.arange(n_images) % 5 == 3


def wake_model(segmenter: CellSegmenter, network: nn.Module | None = None) -> FittedModel:
    """The generative model of a segmenter, with another recognition network or none."""
    device = resolve_device(segmenter.device)
    return FittedModel(
        segmenter.model_.to(device).eval(), network, segmenter.working_diameter_, segmenter.intensity, device
    )


def prepared(segmenter: CellSegmenter, image: np.ndarray) -> PreparedImage:
    """An image (H, W) at working scale, by its estimated diameter."""
    pixels = image[None].astype(np.float32)
    return prepare_at_scale(
        pixels,
        image_diameter(pixels, "auto"),
        working_diameter=segmenter.working_diameter_,
        intensity=segmenter.intensity,
    )


def at_working_scale(image: PreparedImage, labels: np.ndarray) -> LabelledPixels:
    """A prepared image's pixels, and its labels (H, W) at the nearest pixels of the same size."""
    pixels = image[:, :, :]
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for new, old in zip(pixels.shape[1:], labels.shape, strict=True)
    )
    return pixels, np.ascontiguousarray(labels[rows[:, None], columns])


def train_network(
    model: FittedModel, sources: Sequence[Sequence[LabelledPixels]], n_steps: int, seed: int = 0
) -> RecognitionNetwork:
    """A network that learned from labelled images; every source gives an equal share of each batch."""
    torch.manual_seed(seed)
    config = RecognitionConfig(model.generative.config.n_channels, float(model.working_diameter))
    network = RecognitionNetwork(config)
    crops = [CropSource(images, model.working_diameter, model.intensity, config) for images in sources]
    settings = SleepSettings(n_steps=n_steps, seed=seed, progress=True)
    sleep(network, crops, settings, device=model.device, given={})
    return network


class AveragedNetworks(nn.Module):
    """The mean of what networks of one configuration say; stands in for one of them."""

    def __init__(self, networks: Sequence[RecognitionNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.config = networks[0].config
        self.calibration = Calibration.usual()

    def forward(self, image: Tensor) -> StarMap:
        """As `RecognitionNetwork.forward`."""
        seen = [network(image) for network in self.networks]
        return StarMap(*(torch.stack(maps).mean(0) for maps in zip(*seen, strict=True)))


def candidates_of(model: FittedModel, image: Any) -> Candidates:
    """The candidates of an image (C, H, W) at working scale."""
    store = MemoryStore()
    return load_candidates(
        store, find_candidates(model, image, store, region=Region(0, 0, *image.shape[-2:]))
    )


class Decoded(NamedTuple):
    """Objects of an image."""

    labels: np.ndarray  # (H, W) int32
    score: np.ndarray  # (n,) in 0..1, of objects 1..n


def decoded(
    candidates: Candidates,
    shape: tuple[int, int],
    working_shape: tuple[int, int],
    threshold: float,
    least: float,
) -> Decoded:
    """The candidates whose score is above a threshold and that suppression leaves, painted.

    Parameters
    ----------
    candidates : Candidates
        px at working scale.
    shape, working_shape : (height, width)
        Of the image, px, and at working scale.
    threshold : float
        Of the score, 0..1.
    least : float
        px² at working scale; smaller objects are left out.
    """
    score = np.asarray(candidates.evidence.score, np.float64)
    best = most_probable(score - logit(threshold), overlapping_pairs(candidates.stars, OVERLAP))
    kept = np.flatnonzero(best.present)
    kept = kept[np.argsort(score[kept], kind="stable")]
    factor = np.array(shape) / np.array(working_shape)
    stars = Stars(
        (candidates.stars.centre[kept] * factor).astype(np.float32),
        (candidates.stars.radii[kept] * np.sqrt(factor.prod())).astype(np.float32),
    )
    labels = painted(stars, shape)
    size = np.bincount(labels.ravel(), minlength=len(kept) + 1)[1:]
    objects = np.flatnonzero(size >= max(1.0, least * factor.prod()))
    number = np.zeros(len(kept) + 1, np.int32)
    number[objects + 1] = np.arange(1, len(objects) + 1)
    return Decoded(number[labels], expit(score[kept][objects]))


def painted(stars: Stars, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 labels 1..n of stars, px; where some overlap, the last one has the pixel."""
    n = len(stars.centre)
    if not n:
        return np.zeros(shape, np.int32)
    last_first = np.arange(n)[::-1]
    shapes = ShapePosterior(
        stars, last_first, np.ones((n, 1), bool), np.ones(n), np.zeros((n, 0), np.float32)
    )
    return ImagePosterior((shape[0], shape[1]), shapes, np.ones(n)).labels(0)


def labels_above(
    model: FittedModel, images: Sequence[PreparedImage], thresholds: Sequence[float]
) -> dict[float, list[np.ndarray]]:
    """The label images of prepared images, for each threshold of the score."""
    least = model.least_area
    labels: dict[float, list[np.ndarray]] = {threshold: [] for threshold in thresholds}
    for image in images:
        candidates = candidates_of(model, image)
        for threshold, found in labels.items():
            shapes = image.original_shape, image.shape[-2:]
            found.append(decoded(candidates, *shapes, threshold, least).labels)
    return labels


def best_threshold(
    truth: Sequence[np.ndarray], labels: dict[float, list[np.ndarray]]
) -> tuple[float, list[np.ndarray]]:
    """The threshold with the highest sum of the four APs, and its label images."""

    def merit(threshold: float) -> float:
        scores = label_scores(truth, labels[threshold])
        return sum(value for name, value in scores.items() if name.startswith("ap"))

    best = max(labels, key=merit)
    return best, labels[best]
