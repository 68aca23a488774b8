"""What each part of the recipe is worth: one part taken away at a time, at equal steps, on multi-MNIST.

    python benchmarks/ablation.py --data PATH/TO/mnist --background grid --steps 1000 --seed 0 [--only NAME ...]

Every row is one training through the public interface with one part replaced by nothing, or by the paper's form, and
is scored on 500 held-out images of held-out digits.  Writes results/ablation_BACKGROUND.json after every row;
rows that are there already are not run again.  --table prints them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from multi_mnist import BOUNDS, digit_images, evaluate
from scoring import find
from sklearn.metrics import adjusted_rand_score

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import DigitImages
from cellsegmenter.metrics import mean_matched_iou
from cellsegmenter.model import structured_vae
from cellsegmenter.model.dpp import DeterminantalPointProcess
from cellsegmenter.training import loop, objective, pairs, presence

RESULTS = Path(__file__).parent / "results"

Patch = tuple[ModuleType, str, Any]  # module, name in it, replacement


class _IndependentCells(DeterminantalPointProcess):
    """The DPP whose odds of one more object know nothing of the others: the expected number over all cells."""

    def __init__(self, expected_objects: float, grid_shape: tuple[int, int], length: float) -> None:
        super().__init__(expected_objects, grid_shape, length)
        share = expected_objects / (grid_shape[0] * grid_shape[1])
        self.log_odds = math.log(share / (1 - share))

    def conditional_log_odds(
        self, index: torch.Tensor, presence: torch.Tensor, grid_shape: tuple[int, int]
    ) -> torch.Tensor:
        return torch.full_like(presence, self.log_odds)


_BOX_TERMS = ((objective, "box_loss"), (pairs, "box_distance"))

# What is patched, and what the estimator is told, for each row.
PARTS: dict[str, tuple[list[Patch], dict[str, Any]]] = {
    "the whole recipe": ([], {}),
    "no DPP: independent cells": (
        [(structured_vae, "DeterminantalPointProcess", _IndependentCells)],
        {},
    ),
    "no suppression (alpha = 1)": ([], {"overlap_threshold": 1.0}),
    "no SAPR": ([], {"sapr": False}),
    "no warm-up by the residual": ([(loop, "warmup_weight", lambda step, n_steps: 0.0)], {}),
    "masks not held open": ([(loop, "mask_hold", lambda step, n_steps: 0.0)], {}),
    "all evidence from the start": ([(loop, "evidence_share", lambda step, n_steps: 1.0)], {}),
    "no pull of twins": ([(presence, "_TWIN_WEIGHT", 0.0), (pairs, "_TWIN_WEIGHT", 0.0)], {}),
    "no lessons from pairs": ([(loop, "lessons_begun", lambda step, n_steps: False)], {}),
    "no box regression": (
        [(module, name, lambda boxes, *rest: boxes.x.new_zeros(())) for module, name in _BOX_TERMS],
        {},
    ),
    "with an overlap penalty of 1": ([], {"overlap_penalty": 1.0}),
    "free appearance, the paper's": ([], {"appearance": "free"}),
    "straight-through presence, the paper's": ([], {"presence_update": "straight_through"}),
}


@contextmanager
def _without(patches: list[Patch]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, name, replacement in patches:
            stack.enter_context(patch.object(module, name, replacement))
        yield


def _foreground_ari(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean adjusted Rand index over images (n, H, W), on the pixels that the annotation calls foreground."""
    pairs = zip(truth, predicted, strict=True)
    return float(np.mean([adjusted_rand_score(t[t > 0], p[t > 0]) for t, p in pairs]))


def _score(segmenter: CellSegmenter, test: DigitImages) -> dict[str, float | None]:
    found = find(segmenter, test.images)
    # nan if nothing matches, which JSON does not know.
    iou = mean_matched_iou(list(test.labels), list(found.labels))
    return evaluate(segmenter, test) | {
        "matched_iou": None if math.isnan(iou) else round(iou, 4),
        "foreground_ari": round(_foreground_ari(np.asarray(test.labels), found.labels), 4),
    }


def run(name: str, train: DigitImages, test: DigitImages, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    patches, parameters = PARTS[name]
    with _without(patches):
        segmenter = CellSegmenter(**BOUNDS, n_steps=options.steps, random_state=options.seed, **parameters)
        segmenter.fit(train.images)
        scores = _score(segmenter, test)
    return {
        "part": name,
        "steps": segmenter.card_["steps"],
        "seed": options.seed,
        **scores,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | counting | one sample | AP@0.5 | matched IoU | foreground ARI |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        iou = "–" if row["matched_iou"] is None else f"{row['matched_iou']:.2f}"
        lines.append(
            f"| {row['part']} | {row['counting_accuracy']:.1%} | {row['counting_accuracy_of_one_sample']:.1%} | "
            f"{row['ap50']:.3f} | {iou} | {row['foreground_ari']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the four MNIST files")
    parser.add_argument("--background", choices=("black", "grid"), default="grid")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print the seed's rows so far")
    options = parser.parse_args()
    path = RESULTS / f"ablation_{options.background}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    if options.table:
        print(table([row for row in rows if row["seed"] == options.seed]))
        return
    if options.data is None:
        parser.error("--data is needed to run")
    train, test = digit_images(options.data, options.background)
    done = {(row["part"], row["seed"], row["steps"]) for row in rows}
    for name in options.only:
        if (name, options.seed, options.steps) in done:
            continue
        rows.append(run(name, train, test, options))
        print(json.dumps(rows[-1]), flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
