"""Does an object's confidence rank right objects above wrong ones?  AUROC on annotated nuclei.

    python benchmarks/confidence.py --data PATH/TO/dsb2018

An object is right if it overlaps an annotated nucleus with IoU of at least 0.5.  Definitions are compared on images
of the "train" part (training uses no labels), and reported on held-out ones; on small ones only (LARGEST), as some
definitions need all windows at once, and of these on those where something is found.  The one that ships is "best of
each visit".  How many objects of some confidence are right is counted, and nothing is fitted to it.
Writes results/confidence.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.metrics import roc_auc_score

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.consensus import Segmentation
from cellsegmenter.consensus.membership import instances_of_record, join_instances
from cellsegmenter.datasets import ImageCollection, load_dsb2018
from cellsegmenter.types import CERTAIN, Instances

RESULTS = Path(__file__).parent / "results" / "confidence.json"
RESOLUTION = AbsoluteResolution(0.3)
LARGEST = 360**2  # px of an image
SHIPS = "best of each visit"
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of what is counted as one confidence


def is_right(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) whether each object overlaps an annotated one with IoU of at least 0.5."""
    shape = (int(labels.max()) + 1, int(truth.max()) + 1)
    overlap = sparse.coo_array((np.ones(labels.size), (labels.ravel(), truth.ravel())), shape=shape).toarray()
    union = overlap.sum(1)[:, None] + overlap.sum(0) - overlap
    return (overlap / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0) >= 0.5


def candidates(instances: Instances, found: Segmentation) -> dict[str, np.ndarray]:
    """Definitions of confidence, (n,) each, straight from Π and the labels at working scale."""
    flat = np.asarray(found.labels).ravel()
    pixels = np.flatnonzero(flat)
    size = np.bincount(flat)[1:].astype(float)
    select = sparse.csr_array(
        (np.ones(len(pixels)), (flat[pixels] - 1, pixels)), shape=(len(size), len(flat))
    )
    membership = instances.membership.astype(float) / CERTAIN
    mass = sparse.coo_array(select @ membership)
    row, column = mass.coords
    area = membership.sum(axis=0)
    iou = mass.data / (size[row] + area[column] - mass.data)
    visible = visible_by_windows(instances, flat)
    iou_visible = mass.data / (visible[row, instances.window[column]] + area[column] - mass.data)
    visits = size * instances.n_visits

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, weights=values, minlength=len(size))

    def best(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Mean over visits, by the weight (n, windows) of their windows, of the best of their instances."""
        of_visit = np.zeros((*visible.shape, instances.n_samples))
        np.maximum.at(of_visit, (row, instances.window[column], instances.sample[column]), values)
        return (of_visit.mean(axis=2) * weight).sum(axis=1) / weight.sum(axis=1)

    most = visible == visible.max(axis=1, keepdims=True)
    return {
        SHIPS: found.confidence,
        "best of each visit, cuts held against it": best(iou, visible),
        "best of each visit, windows alike": best(iou_visible, visible > 0),
        "best of each visit, windows that see all": best(iou_visible, most),
        "best of each visit, by presence": best(iou_visible * instances.presence_prob[column], visible),
        "expected IoU, cuts held against it": total(mass.data * iou) / visits,
        "expected IoU": total(mass.data * iou_visible) / visits,
        "presence probability": total(mass.data * instances.presence_prob[column]) / visits,
        "foreground probability": total(mass.data) / visits,
        "pair co-membership": total(mass.data**2) / (size * visits),
        "size": size,
    }


def visible_by_windows(instances: Instances, flat: np.ndarray) -> np.ndarray:
    """(n, windows) how many pixels of each object of flat labels each window sees."""
    labels = flat.reshape(instances.image_shape)
    side, n = instances.window_size, int(flat.max())
    return np.stack(
        [
            np.bincount(labels[max(y, 0) : y + side, max(x, 0) : x + side].ravel(), minlength=n + 1)[1:]
            for y, x in instances.window_origin
        ],
        axis=1,
    )


def by_confidence(right: np.ndarray, confidence: np.ndarray) -> list[dict[str, float]]:
    """How many objects have a confidence between two edges, their mean confidence, and what share is right."""
    place = np.clip(np.searchsorted(EDGES, confidence, side="right") - 1, 0, len(EDGES) - 2)
    bins = [place == i for i in range(len(EDGES) - 1)]
    return [
        {
            "from": low,
            "to": high,
            "objects": int(here.sum()),
            "confidence": round(float(confidence[here].mean()), 3),
            "right": round(float(right[here].mean()), 3),
        }
        for low, high, here in zip(EDGES[:-1], EDGES[1:], bins, strict=True)
        if here.any()
    ]


class Measured(NamedTuple):
    """The objects of all images that could be scored."""

    n_images: int
    right: np.ndarray  # (n,) bool
    scores: dict[str, np.ndarray]  # (n,) each: what the definitions say


def measure(segmenter: CellSegmenter, images: ImageCollection) -> Measured:
    """Whether the objects of images are right, and what each definition says of them."""
    right: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    for image, truth in zip(images.images, images.labels, strict=True):
        consensus = segmenter.consensus(image, random_state=0)
        segmentation = consensus.cut(RESOLUTION)
        min_size = max(1, int(consensus.min_size * consensus.scale**2))
        at_scale = consensus.graph.cut(RESOLUTION, min_size=min_size)
        if not len(segmentation) or len(at_scale) != len(segmentation):
            continue  # an object vanished on the way to the image's own scale
        tiles = range(len(consensus.graph.tiling))
        found = [instances_of_record(consensus.graph.store.load(f"found-{t}")) for t in tiles]
        values = candidates(join_instances(found), at_scale)
        right.append(is_right(truth, np.asarray(segmentation.labels)))
        for name, of_image in values.items():
            scores.setdefault(name, []).append(of_image)
    joined = {name: np.concatenate(parts) for name, parts in scores.items()}
    return Measured(len(right), np.concatenate(right), joined)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--images", type=int, default=125, help="of each part at most, evenly spread")
    options = parser.parse_args()
    segmenter = CellSegmenter.pretrained()
    result = {}
    for split in ("train", "test"):
        every = load_dsb2018(options.data, split=split)
        small = [i for i, image in enumerate(every.images) if image.size <= LARGEST]
        spread = np.linspace(0, len(small) - 1, min(options.images, len(small))).astype(int)
        chosen = [small[i] for i in spread]
        part = every._replace(
            images=[every.images[i] for i in chosen], labels=[every.labels[i] for i in chosen]
        )
        n_images, right, scores = measure(segmenter, part)
        result[split] = {
            "images": n_images,
            "largest_image_px": LARGEST,
            "images_not_scored": len(chosen) - n_images,  # nothing found, or an object lost in rescaling
            "objects": len(right),
            "right": round(float(right.mean()), 3),
            "auroc": {name: round(float(roc_auc_score(right, values)), 3) for name, values in scores.items()},
            "by_confidence": by_confidence(right, scores[SHIPS]),
        }
        print(split, json.dumps(result[split], indent=2), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
