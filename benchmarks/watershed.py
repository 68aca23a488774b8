"""The classical baseline on real nuclei: Otsu's threshold and a watershed on the distance transform.

    python benchmarks/watershed.py --data PATH/TO/dsb2018

The seeds' least distance is chosen on the training images and scored on the 40 test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from scoring import label_scores
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed

from cellsegmenter.datasets import ImageCollection, load_dsb2018

MIN_DISTANCES = (3, 5, 7, 9, 12)  # px
MIN_AREA = 20  # px


def watershed_segment(image: np.ndarray, min_distance: int = 7) -> np.ndarray:
    """Segment bright objects on a dark background.

    Gaussian blur (σ = 1 px), Otsu's threshold, holes filled, objects below 20 px removed, then a watershed on
    the distance transform from its maxima.

    Parameters
    ----------
    image : ndarray (H, W)
    min_distance : int
        Least distance between two seeds, px.

    Returns
    -------
    ndarray (H, W) int32
        0 background, 1 .. n the objects.
    """
    smooth = gaussian(image.astype(np.float64), sigma=1)
    foreground = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    components, _ = ndimage.label(foreground)
    components[np.bincount(components.ravel())[components] < MIN_AREA] = 0
    distance = ndimage.distance_transform_edt(components > 0)
    peaks = peak_local_max(distance, min_distance=min_distance, labels=components, exclude_border=False)
    seeds = np.zeros(image.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, seeds, mask=components > 0).astype(np.int32)


def score(collection: ImageCollection, min_distance: int) -> dict[str, float]:
    """See `label_scores`."""
    return label_scores(collection.labels, [watershed_segment(im, min_distance) for im in collection.images])


def main() -> None:
    parser = argparse.ArgumentParser(description="Otsu + watershed on the 40 test images of BBBC038.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with manifest.csv, images/ and masks/"
    )
    folder = parser.parse_args().data
    train, test = load_dsb2018(folder, split="train"), load_dsb2018(folder, split="test")

    scores = {distance: score(train, distance) for distance in MIN_DISTANCES}
    best = max(scores, key=lambda distance: scores[distance]["ap50_mean"])
    print("part   min_distance  " + "  ".join(scores[best]))
    for part, distance, row in [
        *(("train", *item) for item in scores.items()),
        ("test", best, score(test, best)),
    ]:
        print(
            f"{part:6} {distance:12d}  " + "  ".join(f"{value:{len(name)}.3f}" for name, value in row.items())
        )


if __name__ == "__main__":
    main()
