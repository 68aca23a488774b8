"""What the recognition network learns from: an ablation on training images that were set aside.

    python benchmarks/recognition.py --data PATH/TO/dsb2018 [--model FILE] [--steps 1400] [--only ROW ...]
        [--lessons FILE]

The generative model of FILE teaches on 228 training images.  The other 57 (every fifth from the fourth) are only
scored, so things may be chosen by this table; the 40 test images stay out of it.  Each row is one network, decoded by
its score at the best of five thresholds, without calibration and samples.  The row "as fit does it" has both, and
"sliding windows" is the teacher itself.  Writes results/recognition.json row by row.  Teaching takes long: --lessons
keeps what the teacher said in a file, for another run with the same model and seed.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import networks
import numpy as np
from networks import LabelledPixels
from scipy import ndimage
from scoring import by_windows, keep_row, label_scores, load_model, outcomes
from torch import nn
from train_nuclei import RESOLUTION, WINDOWS_RESOLUTION

from cellsegmenter.datasets import load_dsb2018
from cellsegmenter.learning import teaching_settings, training_settings
from cellsegmenter.metrics import match_objects
from cellsegmenter.parameters import bounds_of
from cellsegmenter.sleep.composites import make_composite
from cellsegmenter.sleep.library import IGNORED, TaughtImage, build_library, taught_labels
from cellsegmenter.teaching import learn_recognition, taught_images

RESULTS = Path(__file__).parent / "results" / "recognition.json"
N_COMPOSITES = 350  # as in `fit`
# A second round believes an object of the first network above the lower score if the teacher has it too, with this
# overlap; above the higher one if it lies on foreground.  Foreground that neither explains is ignored, but for rims.
FOUND, AGREED, SURE = 0.35, 0.5, 0.75
SAME_OBJECT, ON_FOREGROUND, DOUBTFUL_FOREGROUND, RIM = 0.6, 0.4, 0.3, 2


class Experiment:
    """What the rows share: made when a row asks for it, and kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.n_steps, self.seed, self.file = options.steps, options.seed, options.lessons
        self.segmenter = load_model(options.model)
        self.model = networks.wake_model(self.segmenter)
        train = load_dsb2018(options.data, split="train")
        chosen = networks.choosing_images(len(train.images))
        taught, scored = np.flatnonzero(~chosen)[: options.images], np.flatnonzero(chosen)[: options.images]
        self.scored_pixels = [train.images[i] for i in scored]
        self.truth = [train.labels[i] for i in scored]
        self.scored = [networks.prepared(self.segmenter, pixels) for pixels in self.scored_pixels]
        self.images = [networks.prepared(self.segmenter, train.images[i]) for i in taught]
        self.annotated = [
            networks.at_working_scale(image, train.labels[i])
            for image, i in zip(self.images, taught, strict=True)
        ]

    @cached_property
    def settings(self) -> Any:
        """Of the sleep phase that `fit` would do here."""
        parameters = copy.copy(self.segmenter).set_params(
            recognition_steps=self.n_steps, random_state=self.seed, verbose=True
        )
        bounds = bounds_of(parameters)
        wake = training_settings(
            parameters, bounds, "small", self.images, shape="blob", from_scratch=True, seed=self.seed
        )
        return teaching_settings(parameters, bounds, wake, self.model.generative.config)

    @cached_property
    def lessons(self) -> list[TaughtImage]:
        """What the teacher says of its images."""
        if self.file is not None and self.file.exists():
            return pickle.loads(self.file.read_bytes())
        random = np.random.default_rng(self.seed)
        lessons = list(taught_images(self.model, self.images, self.settings, random))
        if self.file is not None:
            self.file.write_bytes(pickle.dumps(lessons))
        return lessons

    @cached_property
    def composites(self) -> list[LabelledPixels]:
        """Copy-paste composites of the teacher's confident objects."""
        random = np.random.default_rng(self.seed)
        diameter, method = self.model.working_diameter, self.model.intensity
        library = build_library(self.lessons, diameter, method, random)
        return [make_composite(library, diameter, method, random) for _ in range(N_COMPOSITES)]

    @cached_property
    def filtered(self) -> list[LabelledPixels]:
        """The teacher's confident objects; what is doubtful is ignored."""
        diameter = self.model.working_diameter
        return [(lesson.pixels, taught_labels(lesson, diameter)) for lesson in self.lessons]

    @cached_property
    def copied(self) -> list[LabelledPixels]:
        """All objects of the teacher, and no doubt."""
        return [(lesson.pixels, lesson.labels) for lesson in self.lessons]

    @cached_property
    def first(self) -> nn.Module:
        """The network of the row "both"."""
        return self.trained([self.composites, self.filtered])

    @cached_property
    def second_lessons(self) -> list[LabelledPixels]:
        """Labels of the first network and the teacher fused."""
        model = networks.wake_model(self.segmenter, self.first)
        return [(lesson.pixels, fused_labels(model, lesson)) for lesson in self.lessons]

    def trained(self, sources: list[list[LabelledPixels]], seed: int | None = None) -> nn.Module:
        """A network that learned from these."""
        seed = self.seed if seed is None else seed
        return networks.train_network(self.model, sources, self.n_steps, seed)

    def scores_of(self, network: nn.Module) -> dict[str, Any]:
        """How good a network is at its best threshold."""
        model = networks.wake_model(self.segmenter, network)
        labels = networks.labels_above(model, self.scored, networks.THRESHOLDS)
        threshold, best = networks.best_threshold(self.truth, labels)
        return self.scores(best) | {"threshold": threshold}

    def scores(self, predicted: list[np.ndarray]) -> dict[str, Any]:
        """How good label images are."""
        return label_scores(self.truth, predicted) | outcomes(self.truth, predicted)


def fused_labels(model: Any, lesson: TaughtImage) -> np.ndarray:
    """(H, W) labels of objects that a network is sure of, or that the teacher has too; -1 where they differ."""
    shape = lesson.labels.shape
    least = model.least_area
    found = networks.decoded(networks.candidates_of(model, lesson.pixels), shape, shape, FOUND, least)
    number = np.arange(1, len(found.score) + 1)
    agrees = np.isin(number, match_objects(lesson.labels, found.labels, threshold=SAME_OBJECT).predicted)
    foreground = ndimage.mean(lesson.foreground, found.labels, number) if len(number) else np.zeros(0)
    believed = (agrees & (found.score >= AGREED)) | ((found.score >= SURE) & (foreground > ON_FOREGROUND))
    kept = np.where(np.concatenate([[False], believed])[found.labels], found.labels, 0)
    doubtful = (found.labels > 0) | (lesson.labels > 0) | (lesson.foreground > DOUBTFUL_FOREGROUND)
    rim = ndimage.binary_dilation(kept > 0, iterations=RIM)
    return np.where(doubtful & (kept == 0) & ~rim, IGNORED, kept).astype(np.int32)


def sliding_windows(experiment: Experiment) -> dict[str, Any]:
    """The teacher's own segmentation."""
    segmenter = by_windows(experiment.segmenter)
    return experiment.scores(segmenter.predict(experiment.scored_pixels, WINDOWS_RESOLUTION))


def as_fit_does(experiment: Experiment) -> dict[str, Any]:
    """Both sources, calibrated, with the consensus of posterior samples."""
    learned = learn_recognition(experiment.model, experiment.images, experiment.settings)
    if learned.network is None:
        return dict(learned.facts)
    segmenter = copy.copy(experiment.segmenter).set_params(recognition="one_pass")
    segmenter.recognition_ = learned.network
    calibration = [round(number, 2) for number in learned.network.calibration]
    labels = segmenter.predict(experiment.scored_pixels, RESOLUTION)
    return experiment.scores(labels) | {"calibration": calibration}


def averaged(experiment: Experiment) -> nn.Module:
    """Two networks that learned from the same with other random numbers."""
    other = experiment.trained([experiment.composites, experiment.filtered], experiment.seed + 1)
    return networks.AveragedNetworks([experiment.first, other])


NETWORKS: dict[str, Callable[[Experiment], nn.Module]] = {
    "composites only": lambda e: e.trained([e.composites]),
    "filtered real only": lambda e: e.trained([e.filtered]),
    "both": lambda e: e.first,
    "plain copying": lambda e: e.trained([e.copied]),
    "second round": lambda e: e.trained([e.composites, e.second_lessons]),
    "two networks averaged": averaged,
    "human labels": lambda e: e.trained([e.annotated]),
}
ROWS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "sliding windows": sliding_windows,
    **{name: lambda e, make=make: e.scores_of(make(e)) for name, make in NETWORKS.items()},
    "as fit does it": as_fit_does,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--model", type=Path, help="the teacher; by default the model that ships")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lessons", type=Path, help="file that keeps what the teacher says")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--images", type=int, help="taught and scored at most; for trying this out")
    options = parser.parse_args()
    experiment = Experiment(options)
    for name in options.only:
        started = time.perf_counter()
        answer = ROWS[name](experiment)
        asked = {"row": name, "steps": options.steps, "seed": options.seed}
        keep_row(RESULTS, asked, answer | {"seconds": round(time.perf_counter() - started)})


if __name__ == "__main__":
    main()
