"""Train the nuclei model that ships with the package: without labels, on fluorescence images of BBBC038.

    python benchmarks/train_nuclei.py --data PATH/TO/dsb2018 --output cellsegmenter/data/nuclei.safetensors

Of the 325 images 40 are held out (`load_dsb2018`, "test") and never trained on; the model is scored on them
once, after training, and the scores go on its card.  Annotations are read for that score alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from nuclei import score_segmenter

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import load_dsb2018

# What we tell the model, at its working scale, where a nucleus is about 16 px wide: 2 to 10 in a window of
# 80 px that cover 8 to 30 % of it.
BOUNDS = {"density": (2, 10), "area": (0.08, 0.30), "object_size": (8, 40)}


def carried_over_resolution(segmenter: CellSegmenter, images: list[np.ndarray]) -> AbsoluteResolution:
    """The median of what "auto" chooses on some training images: an absolute resolution carries over."""
    chosen = [segmenter.consensus(image).cut("auto").resolution.absolute for image in images]
    return AbsoluteResolution(round(float(np.nanmedian(chosen)), 3))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--output", type=Path, required=True, help="the model, NAME.safetensors")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="small")
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()

    train = load_dsb2018(options.data, split="train")
    segmenter = CellSegmenter(
        **BOUNDS,
        diameter="auto",
        augment=True,
        network=options.network,
        n_steps=options.steps,
        random_state=options.seed,
        device=options.device,
        checkpoint=options.checkpoint,
        verbose=True,
    )
    started = time.perf_counter()
    segmenter.fit(train.images)
    print(f"trained in {time.perf_counter() - started:.0f} s")

    segmenter.set_params(checkpoint=None, verbose=False, device="auto")
    segmenter.save(options.output, half=True)
    segmenter.set_params(
        resolution=carried_over_resolution(segmenter, train.images[:: len(train.images) // 12])
    )
    print(f"resolution chosen on training images: {segmenter.resolution}")
    scores = score_segmenter(segmenter, load_dsb2018(options.data, split="test"))
    segmenter.card_ |= {
        "name": "fluorescence nuclei",
        "trained_on": f"{len(train.images)} fluorescence images of BBBC038 (Data Science Bowl 2018, CC0), "
        "each rescaled by its automatic diameter estimate",
        "held_out": "40 images of the same collection, never trained on",
        "held_out_scores": scores,
        "licence": "GPL-3.0-or-later; training images CC0",
        "made_by": "benchmarks/train_nuclei.py",
    }
    segmenter.save(options.output, half=True)
    print(segmenter.card_)


if __name__ == "__main__":
    main()
