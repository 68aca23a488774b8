"""Does an object's confidence rank right objects above wrong ones?  AUROC on annotated nuclei.

    python benchmarks/confidence.py --data PATH/TO/dsb2018

An object is right if it overlaps an annotated nucleus with IoU of at least 0.5.  Definitions are compared on images
of the "train" part (training uses no labels), and reported on held-out ones.  The one that ships is "expected IoU".
Writes results/confidence.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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
    visits = size * instances.n_visits

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(row, weights=values, minlength=len(size))

    return {
        "pair co-membership": total(mass.data**2) / (size * visits),
        "foreground probability": total(mass.data) / visits,
        "presence probability": total(mass.data * instances.presence_prob[column]) / visits,
        "expected IoU": total(mass.data * iou) / visits,
        "best of each visit": best_of_visits(instances, row, column, iou, len(size)),
        "size": size,
    }


def best_of_visits(instances, row, column, iou, n) -> np.ndarray:
    """Mean over the visits that see anything of an object of the largest IoU that one of their instances has."""
    group = instances.window.astype(np.int64)[column] * instances.n_samples + instances.sample[column]
    key = row.astype(np.int64) * (len(instances.window_origin) * instances.n_samples) + group
    unique, inverse = np.unique(key, return_inverse=True)
    best = np.zeros(len(unique))
    np.maximum.at(best, inverse, iou)
    owner = unique // (len(instances.window_origin) * instances.n_samples)
    return np.bincount(owner, weights=best, minlength=n) / instances.n_visits


def measure(segmenter: CellSegmenter, images: ImageCollection) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Whether the objects of all images are right, and what each definition says of them."""
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
    return np.concatenate(right), {name: np.concatenate(parts) for name, parts in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--images", type=int, default=25, help="of each part, evenly spread")
    options = parser.parse_args()
    segmenter = CellSegmenter.pretrained()
    result = {}
    for split in ("train", "test"):
        every = load_dsb2018(options.data, split=split)
        small = [i for i, image in enumerate(every.images) if image.size <= 360**2]
        chosen = [small[i] for i in np.linspace(0, len(small) - 1, options.images).astype(int)]
        part = every._replace(
            images=[every.images[i] for i in chosen], labels=[every.labels[i] for i in chosen]
        )
        right, scores = measure(segmenter, part)
        result[split] = {
            "images": len(chosen),
            "objects": len(right),
            "right": round(float(right.mean()), 3),
            "auroc": {name: round(float(roc_auc_score(right, values)), 3) for name, values in scores.items()},
        }
        print(split, json.dumps(result[split], indent=2), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
