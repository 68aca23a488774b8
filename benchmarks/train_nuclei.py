"""Train the nuclei model that ships with the package: without labels, on fluorescence images of BBBC038.

    python benchmarks/train_nuclei.py --data PATH/TO/dsb2018 --output cellsegmenter/data/nuclei.safetensors

Of the 325 images 40 are held out (`load_dsb2018`, "test") and never trained on; the finished model is scored on
them, and the scores go on its card.  Training reads no annotation: neither the wake phase nor the sleep phase, in which
`fit` teaches the recognition network.  By AP on training images were chosen: the recipe for blobs in
`cellsegmenter.learning` (on 21, every 14th); the cut at half the height, the haze, that the pairs of lessons touch, the
recipe of the sleep phase, and the resolutions below (on 57, every fifth from the fourth).
With --model an existing model is scored and given its card again.  results/nuclei_seeds.json keeps the scores of every
seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scoring import by_windows, keep_row, label_scores

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import load_dsb2018

# What we tell the model, at its working scale, where a nucleus is about 16 px wide: 2 to 10 in a window of
# 80 px that cover 8 to 30 % of it.
BOUNDS = {"density": (2, 10), "area": (0.08, 0.30), "object_size": (8, 26)}
RESOLUTION = WINDOWS_RESOLUTION = AbsoluteResolution(0.2)  # of one pass, and of sliding windows
RESULTS = Path(__file__).parent / "results" / "nuclei_seeds.json"


def fit(images: list[np.ndarray], options: argparse.Namespace) -> CellSegmenter:
    segmenter = CellSegmenter(
        **BOUNDS,
        shape="blob",  # as "auto" has it on these images
        diameter="auto",
        augment=True,
        network=options.network,
        n_steps=options.steps,
        recognition_steps=options.recognition_steps,
        random_state=options.seed,
        device=options.device,
        checkpoint=options.checkpoint,
        verbose=True,
    )
    started = time.perf_counter()
    segmenter.fit(images)
    print(f"trained in {time.perf_counter() - started:.0f} s")
    return segmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--output", type=Path, required=True, help="the model, NAME.safetensors")
    parser.add_argument("--model", type=Path, help="score this model instead of training one")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--recognition-steps", type=int, help="of the sleep phase; by default the estimator's own number"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="small")
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()

    train, test = load_dsb2018(options.data, split="train"), load_dsb2018(options.data, split="test")
    segmenter = fit(train.images, options) if options.model is None else CellSegmenter.load(options.model)
    segmenter.set_params(
        checkpoint=None,
        verbose=False,
        device="auto",
        resolution=RESOLUTION,
        recognition_steps=None,
        random_state=0,
    )
    segmenter.save(options.output, half=True)
    segmenter = CellSegmenter.load(options.output)  # what is scored is what the file holds
    if segmenter.recognition_ is None:
        raise SystemExit(
            f"{options.output} has no recognition network: the sleep phase had nothing to learn from"
        )
    windows = by_windows(segmenter).predict(test.images, WINDOWS_RESOLUTION)
    segmenter.card_ |= {
        "name": "fluorescence nuclei",
        "trained_on": f"{len(train.images)} fluorescence images of BBBC038 (Data Science Bowl 2018, CC0), "
        "each rescaled by its automatic diameter estimate",
        "labels_used": "none in training, neither of the generative model nor of the recognition network, which "
        "learned from the former's confident objects; by AP on training images were chosen: the form of masks, alpha "
        "and the evidence of a typical object (21 images), the cut at half the height, the haze, that the pairs of "
        "lessons touch, the recipe of the sleep phase, and the resolution (57 images)",
        "held_out": "40 images of the same collection, never trained on",
        "held_out_scores": label_scores(test.labels, segmenter.predict(test.images)),
        "held_out_scores_by_windows": label_scores(test.labels, windows),
        "licence": "GPL-3.0-or-later; training images CC0",
        "made_by": "benchmarks/train_nuclei.py",
    }
    segmenter.save(options.output, half=True)
    card = segmenter.card_
    recognition_steps = card.get("recognition", {}).get("steps")
    asked = {"seed": options.seed, "network": options.network, "recognition_steps": recognition_steps}
    answer = {
        "steps": card["steps"],
        **card["held_out_scores"],
        "windows": card["held_out_scores_by_windows"],
    }
    keep_row(RESULTS, asked, answer)


if __name__ == "__main__":
    main()
