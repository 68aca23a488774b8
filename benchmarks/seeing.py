"""How well the model finds the scale and the polarity of an image by itself, and what disturbs it.

    python benchmarks/seeing.py scales --data BBBC038 [--inverted] [--every 1]
    python benchmarks/seeing.py sizes
    python benchmarks/seeing.py disturbed
    python benchmarks/seeing.py noise
    python benchmarks/seeing.py cost --mosaic PATH/TO/image.tif

`scales` compares `diameter="auto"` with the classical estimate on the training images, in two groups: where the
estimate is more than a fifth off the annotation, and the others.  `cost` is CPU seconds of the search over those of a
prediction at a given diameter.  Each writes rows of results/seeing.json.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from disturbed import disturbances, noisy_nuclei
from scoring import cpu_seconds, keep_row, load_model

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_dsb2018, load_nuclei, make_nuclei
from cellsegmenter.diameter import estimate_diameter
from cellsegmenter.metrics import average_precision

RESULTS = Path(__file__).parent / "results" / "seeing.json"
_OFF = 1.2  # factor between diameters
_SEEDS = range(4)


def scales(segmenter: CellSegmenter, options: argparse.Namespace) -> None:
    """AP@0.5 with the estimated diameter and with the one that the model finds."""
    collection = load_dsb2018(options.data, split="train")
    rows = []
    for image, labels in list(zip(collection.images, collection.labels, strict=True))[:: options.every]:
        seen = 255 - image if options.inverted else image
        estimate = estimate_diameter(image[None])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            by_estimate = segmenter.consensus(image, diameter=estimate if math.isfinite(estimate) else None)
            consensus = segmenter.consensus(seen)
        before, after = (np.asarray(one.cut().labels) for one in (by_estimate, consensus))
        inverted = any("inverted" in note for note in consensus.seen.notes)
        rows.append(
            (
                not _is_near(estimate, mean_diameter(labels)),
                average_precision(labels, before),
                average_precision(labels, after),
                _is_half_or_double(before, labels),
                _is_half_or_double(after, labels),
                inverted != options.inverted,
                len(consensus.seen.diameters) > 1,
            )
        )
    is_off, ap_before, ap_after, bad_before, bad_after, wrong, several = np.array(rows, float).T
    is_off = is_off.astype(bool)
    keep_row(
        RESULTS,
        {"what": "scales", "inverted": options.inverted, "every": options.every},
        {
            "images": len(rows),
            "estimate_off": int(is_off.sum()),
            "ap50_off": _pair(ap_before[is_off], ap_after[is_off]),
            "ap50_others": _pair(ap_before[~is_off], ap_after[~is_off]),
            "count_half_or_double": [int(bad_before.sum()), int(bad_after.sum())],
            "wrong_polarity": int(wrong.sum()),
            "several_scales": int(several.sum()),
        },
    )


def sizes(segmenter: CellSegmenter, options: argparse.Namespace) -> None:
    """AP@0.5 of fields of nuclei of 8, 16, 32 and 64 px."""
    found: dict[str, list[float]] = {"auto": [], "8, 20, 50": []}
    for seed in _SEEDS:
        mixed = [8] * 12 + [16] * 6 + [32] * 3 + [64]
        made = make_nuclei(
            1, size=768, count=(240, 240), diameter=mixed, brightness=(0.3, 1), random_state=seed
        )
        for name, diameter in (("auto", "auto"), ("8, 20, 50", (8, 20, 50))):
            labels = segmenter.consensus(made.images[0], diameter=diameter).cut().labels
            found[name].append(round(average_precision(made.labels[0], np.asarray(labels)), 3))
    keep_row(RESULTS, {"what": "sizes"}, found)


def disturbed(segmenter: CellSegmenter, options: argparse.Namespace) -> None:
    """AP@0.5 of the shipped image with each disturbance, and what was said of it."""
    for name, image, labels in disturbances(*load_nuclei()):
        consensus = segmenter.consensus(image)
        found = np.asarray(consensus.cut().labels)
        keep_row(
            RESULTS,
            {"what": "disturbed", "by": name},
            {
                "ap50": round(average_precision(labels, found), 3),
                "objects": [int(found.max()), len(np.unique(labels)) - 1],
                "notes": list(consensus.seen.notes),
            },
        )


def noise(segmenter: CellSegmenter, options: argparse.Namespace) -> None:
    """AP@0.5 of noisy nuclei at the true diameter and at the one that is found, without and with dark nucleoli."""
    for nucleoli in (0, 3):
        for snr in (1, 2, 4):
            for diameter in (14, 24, 50, 90):
                rows = []
                for seed in _SEEDS:
                    _, image, labels = noisy_nuclei(diameter, snr, nucleoli, seed)
                    true = mean_diameter(labels)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        known, free = (segmenter.consensus(image, diameter=d) for d in (true, "auto"))
                    precision = [
                        average_precision(labels, np.asarray(one.cut().labels)) for one in (known, free)
                    ]
                    rows.append((*precision, _is_near(free.seen.diameters[0], true)))
                at_true, at_found, near = np.mean(rows, axis=0)
                keep_row(
                    RESULTS,
                    {"what": "noise", "nucleoli": nucleoli, "snr": snr, "diameter": diameter},
                    {
                        "ap50_true_diameter": round(at_true, 3),
                        "ap50_auto": round(at_found, 3),
                        "within_a_fifth": near,
                    },
                )


def cost(segmenter: CellSegmenter, options: argparse.Namespace) -> None:
    """CPU seconds of a prediction at the diameter that is found, and of finding it."""
    mosaic = tifffile.imread(options.mosaic)
    made = make_nuclei(1, size=1024, count=(700, 700), diameter=16, random_state=0).images[0]
    images = {"made, 1 Mpx": made, "mosaic, 1 Mpx": mosaic[:1024, :1024], "mosaic, 17 Mpx": mosaic}
    segmenter.predict(made[:256, :256])  # what is loaded once is no cost of an image
    for name, image in images.items():
        found = segmenter.consensus(image).seen.diameters
        auto = min(_seconds(lambda image=image: segmenter.consensus(image).cut()) for _ in range(3))
        given = min(
            _seconds(lambda image=image, found=found: segmenter.consensus(image, diameter=found).cut())
            for _ in range(3)
        )
        answer = {"predict": round(given, 2), "search": round(auto - given, 2)}
        keep_row(RESULTS, {"what": "cost", "image": name}, answer | {"share": round(auto / given - 1, 2)})


def mean_diameter(labels: np.ndarray) -> float:
    """px, of the circles of equal area; nan without objects."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.mean(2 * np.sqrt(areas / np.pi))) if len(areas) else math.nan


def _is_near(found: float, true: float) -> bool:
    return math.isfinite(found) and abs(math.log(found / true)) <= math.log(_OFF)


def _is_half_or_double(found: np.ndarray, labels: np.ndarray) -> bool:
    n = len(np.unique(labels)) - 1
    return not n / 2 <= found.max() <= 2 * n


def _pair(before: np.ndarray, after: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 4) for values in (before, after)]


def _seconds(call: Callable[[], Any]) -> float:
    started = cpu_seconds()
    call()
    return cpu_seconds() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("scales", "sizes", "disturbed", "noise", "cost"))
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--data", type=Path, help="of scales: the folder of BBBC038")
    parser.add_argument("--every", type=int, default=1, help="of scales: every n-th image alone")
    parser.add_argument("--inverted", action="store_true", help="of scales: dark nuclei on bright")
    parser.add_argument("--mosaic", type=Path, help="of cost: a large image")
    options = parser.parse_args()
    work = {"scales": scales, "sizes": sizes, "disturbed": disturbed, "noise": noise, "cost": cost}
    work[options.what](load_model(options.model), options)


if __name__ == "__main__":
    main()
