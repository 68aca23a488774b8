"""Blobs of one intensity that touch and overlap (Suppl. S6): nothing but their outline tells them apart.

    python benchmarks/touching_blobs.py [--max-overlap 0.3] [--steps 3000] [--seed 0] [--overlap-penalty 0 1 10]

5000 training and 500 test images of 2 to 6 blobs, overlapping by up to a part of the smaller: 0.3 or 0.6; the threshold
of suppression is raised to what their boxes overlap by then.  For each weight of the overlap penalty one training, with
everything else the default; with blobs that includes the sleep phase.  Each is scored in both ways: the generative
model's most probable posterior of each image, which is one window, and one pass of the recognition network.
results/touching_blobs.json has the scores of all runs so far.  With --figure FILE a picture of test images, what was
found, and the U-Net's features.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scoring import count_scores, find, find_in_one_pass, keep_row
from sklearn.decomposition import PCA

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import LabelledImages, make_blobs

RESULTS = Path(__file__).parent / "results" / "touching_blobs.json"
# By the overlap of the blobs.  Boxes overlap more than what is in them: with blobs that overlap by up to 0.3, one image
# in five has two boxes that overlap by more than 0.3, and one in forty by more than 0.5.
OVERLAP_THRESHOLD = {0.3: 0.5, 0.6: 0.75}
BOUNDS = {"density": (1.5, 6.5), "area": (0.10, 0.30), "object_size": (10, 40)}
TEST_SEED = 2
N_SHOWN = 6


def feature_colours(segmenter: CellSegmenter, images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3): the first three principal components, over foreground pixels, of the U-Net's fine features."""
    model = segmenter.model_
    with torch.no_grad():
        windows = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
        features = model.features(windows).fine.float().numpy()
    n, channels, height, width = features.shape
    step = images.shape[-1] // width
    foreground = images[:, ::step, ::step] > 0.5
    pixels = features.transpose(0, 2, 3, 1)
    projected = (
        PCA(3).fit(pixels[foreground]).transform(pixels.reshape(-1, channels)).reshape(n, height, width, 3)
    )
    low, high = np.percentile(projected[foreground], [2, 98], axis=0)
    return np.clip((projected - low) / (high - low), 0, 1) * foreground[..., None]


def draw(segmenters: dict[float, CellSegmenter], test: LabelledImages, path: Path) -> None:
    """Rows: images, annotation, and for every penalty what was found and the features."""
    from matplotlib.figure import Figure
    from skimage.color import label2rgb

    images, labels = test.images[:N_SHOWN], test.labels[:N_SHOWN]
    rows = [("image", images), ("drawn", [label2rgb(label, bg_label=0) for label in labels])]
    for penalty, segmenter in segmenters.items():
        ways = {"windows": find} | ({"one pass": find_in_one_pass} if segmenter.recognition_ else {})
        for way, finds in ways.items():
            found = finds(segmenter, images).labels
            rows.append((f"penalty {penalty:g}, {way}", [label2rgb(label, bg_label=0) for label in found]))
        rows.append(("features", feature_colours(segmenter, images)))
    figure = Figure(figsize=(1.6 * N_SHOWN, 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), N_SHOWN)
    for row, (title, pictures) in zip(axes, rows, strict=True):
        row[0].set_ylabel(title)
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, cmap="gray")
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-overlap", type=float, choices=OVERLAP_THRESHOLD, default=0.3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--recognition-steps", type=int, help="of the sleep phase; by default the estimator's own number"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overlap-penalty", type=float, nargs="+", default=[0.0, 1.0], metavar="WEIGHT")
    parser.add_argument("--shape", default="blob", choices=("auto", "blob", "free"))
    parser.add_argument("--save", type=Path, help="keep the last model in this file")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--images", type=int, default=5000, help="to train on")
    options = parser.parse_args()
    train, test = (
        make_blobs(n, max_overlap=options.max_overlap, random_state=seed)
        for n, seed in ((options.images, 1), (500, TEST_SEED))
    )
    segmenters = {}
    for penalty in options.overlap_penalty:
        segmenter = CellSegmenter(
            **BOUNDS,
            shape=options.shape,
            overlap_penalty=penalty,
            overlap_threshold=OVERLAP_THRESHOLD[options.max_overlap],
            n_steps=options.steps,
            recognition_steps=options.recognition_steps,
            random_state=options.seed,
        )
        started = time.perf_counter()
        segmenters[penalty] = segmenter.fit(train.images)
        asked = {
            "max_overlap": options.max_overlap,
            "overlap_threshold": OVERLAP_THRESHOLD[options.max_overlap],
            "overlap_penalty": penalty,
            "shape": segmenter.model_.config.shape,
            "seed": options.seed,
            "steps": segmenter.card_["steps"],
        }
        seconds = round(time.perf_counter() - started)
        scores: dict[str, object] = count_scores(test, find(segmenter, test.images))
        if segmenter.recognition_ is not None:
            learned = segmenter.card_["recognition"]
            asked["recognition_steps"] = learned["steps"]
            scores["objects_in_library"] = learned["objects_in_library"]
            scores["one_pass"] = count_scores(test, find_in_one_pass(segmenter, test.images))
        keep_row(RESULTS, asked, {"seconds": seconds, **scores})
        if options.save:
            segmenter.save(options.save)
    if options.figure:
        draw(segmenters, test, options.figure)


if __name__ == "__main__":
    main()
