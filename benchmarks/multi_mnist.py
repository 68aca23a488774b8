"""Counting on multi-MNIST through the public interface: `fit` with defaults and the user's bounds.

    python benchmarks/multi_mnist.py --data PATH/TO/mnist --background black --seed 0

5000 training images, 500 held-out images of held-out digits, 80 × 80 px, 2 to 6 digits of 20 to 40 px (PAPER Sec. 7).
Prints and writes results/multi_mnist_BACKGROUND_SEED.json.  Compare seeds with --summary.  With --density, --no-sapr or
--steps it asks what these do, and the file's name says so.  With --every N it also counts the test images after every
N steps, with the model as if its training had ended there, and --curves FILE draws all such runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scoring import count_scores, find

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import DigitImages, load_mnist, make_multi_mnist
from cellsegmenter.metrics import counting_accuracy

RESULTS = Path(__file__).parent / "results"
# The paper's crude bounds for 2 to 6 digits, and the frame that such a digit's ink can have.
BOUNDS = {"density": (1.5, 6.5), "area": (0.05, 0.15), "object_size": (10, 36)}
BATCH_SIZE = 16  # the preset's own


class LearningCurve:
    """A callback of scikit-learn's: counting accuracy after every so many steps; nothing is chosen by it.

    Parameters
    ----------
    test : DigitImages
    every : int
        Steps.
    batch_size : int
        Windows in a step.
    """

    def __init__(self, test: DigitImages, every: int, batch_size: int) -> None:
        self.test, self.every, self.batch_size = test, every, batch_size
        self.points: list[dict[str, float]] = []
        self._spent = 0.0  # s, on looking

    def setup(self, estimator: Any, context: Any) -> None:
        """Nothing to prepare."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing to close."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing to see yet."""

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: CellSegmenter) -> None:
        """Ten more steps are done."""
        step = int(fitted_estimator.history_["step"][-1])
        if context.parent is None or step % self.every:
            return
        started = time.perf_counter()
        seconds = float(fitted_estimator.history_["seconds"][-1]) - self._spent
        accuracy = counting_accuracy(self.test.count, find(fitted_estimator, self.test.images).counts)
        self.points.append(
            {
                "step": step,
                "windows": step * self.batch_size,
                "seconds": round(seconds, 1),
                "accuracy": accuracy,
            }
        )
        self._spent += time.perf_counter() - started


def draw_curves(path: Path) -> None:
    """Counting accuracy against training time, of all runs that have a curve."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for file in sorted(RESULTS.glob("multi_mnist_*.json")):
        row = json.loads(file.read_text())
        if "curve" in row:
            x, y = ([point[name] for point in row["curve"]] for name in ("seconds", "accuracy"))
            axes.plot(x, y, label=f"{row['background']}, seed {row['seed']}, {row['steps']} steps")
    axes.axhline(0.95, color="0.6", linewidth=0.8)
    axes.set(xlabel="seconds of training", ylabel="images counted right", ylim=(0.5, 1))
    axes.legend()
    figure.savefig(path, dpi=100)


def evaluate(segmenter: CellSegmenter, test: DigitImages) -> dict[str, float]:
    """Counts and masks of held-out images from the most probable posterior, and counts from single samples."""
    sampled = find(segmenter, test.images, n_samples=1)
    accuracy = round(counting_accuracy(test.count, sampled.counts), 4)
    return count_scores(test, find(segmenter, test.images)) | {"counting_accuracy_of_one_sample": accuracy}


def digit_images(folder: Path, background: str) -> tuple[DigitImages, DigitImages]:
    """5000 images to train on and 500 of held-out digits."""
    train, test = (
        make_multi_mnist(n, digits=load_mnist(folder, split=part), background=background, random_state=seed)
        for n, part, seed in ((5000, "train", 1), (500, "test", 2))
    )
    return train, test


def run(options: argparse.Namespace) -> dict[str, object]:
    """One training and its scores."""
    train, test = digit_images(options.data, options.background)
    segmenter = CellSegmenter(
        **BOUNDS | {"density": tuple(options.density)},
        n_steps=options.steps,
        batch_size=options.batch_size,
        random_state=options.seed,
        sapr=not options.no_sapr,
        verbose=True,
    )
    curve = LearningCurve(test, options.every or 0, options.batch_size)
    if options.every:
        segmenter.set_callbacks(curve)
    started = time.perf_counter()
    segmenter.fit(train.images)
    seconds = time.perf_counter() - started
    if options.save:
        segmenter.save(options.save)
    return {
        "background": options.background,
        "seed": options.seed,
        "sapr": not options.no_sapr,
        "density": options.density,
        "fit_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "steps": segmenter.card_["steps"],
        "mean_count": float(np.mean(test.count)),
        **evaluate(segmenter, test),
        **({"curve": curve.points} if options.every else {}),
    }


def file_stem(options: argparse.Namespace) -> str:
    """The name of a run's result: background, seed, and what is not the default."""
    parts = ["multi_mnist", options.background, str(options.seed)]
    if tuple(options.density) != BOUNDS["density"]:
        parts.append("density_{:g}_{:g}".format(*options.density))
    if options.no_sapr:
        parts.append("no_sapr")
    if options.steps:
        parts.append(f"{options.steps}_steps")
    if options.batch_size != BATCH_SIZE:
        parts.append(f"{options.batch_size}_windows")
    return "_".join(parts)


def summary() -> None:
    """A table of all runs so far with default settings."""
    paths = sorted(RESULTS.glob("multi_mnist_*_[0-9].json"))
    rows = [json.loads(path.read_text()) for path in paths]
    print("| background | seed | counting accuracy | one sample | AP@0.5 | steps | seconds (threads) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['background']} | {row['seed']} | {row['counting_accuracy']:.1%} | "
            f"{row['counting_accuracy_of_one_sample']:.1%} | {row['ap50']:.3f} | {row['steps']} | "
            f"{row['fit_seconds']} ({row['threads']}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the four MNIST files")
    parser.add_argument("--background", choices=("black", "grid"), default="black")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="at most; by default the estimator's own number")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument(
        "--every", type=int, metavar="N", help="count the test images after every N steps too"
    )
    parser.add_argument(
        "--curves", type=Path, metavar="FILE", help="draw the runs that were counted on the way"
    )
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--density", type=float, nargs=2, default=BOUNDS["density"], metavar=("LO", "HI"))
    parser.add_argument("--no-sapr", action="store_true", help="switch the constraints off")
    parser.add_argument("--save", type=Path, help="keep the model in this file")
    parser.add_argument("--summary", action="store_true", help="print the table of the runs so far")
    options = parser.parse_args()
    if options.summary:
        summary()
        return
    if options.curves:
        draw_curves(options.curves)
        return
    if options.data is None:
        parser.error("--data is needed to run")
    if options.threads:
        torch.set_num_threads(options.threads)
    result = run(options)
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{file_stem(options)}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
