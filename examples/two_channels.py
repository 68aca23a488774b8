"""Images of two channels: nuclei, and the cytoplasm around them.

A model that is fitted on both channels takes a cell, nucleus and cytoplasm together, for one object; one that is
fitted on the first channel alone takes nuclei.  The images are made, so what is in them is known.

    python examples/two_channels.py --fast                    # half a minute: badly trained, shows that it runs
    python examples/two_channels.py                           # four minutes of one CPU core
"""

import argparse

import numpy as np
from scipy import ndimage
from skimage.segmentation import expand_labels

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import make_nuclei
from cellsegmenter.metrics import average_precision

MARGIN = 4  # px of cytoplasm around a nucleus


def make_cells(n_images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 2, H, W), and the labels (n, H, W) of nuclei and of cells."""
    nuclei = make_nuclei(
        n_images, size=128, count=(10, 14), diameter=12, brightness=(0.3, 1), touching=0, random_state=seed
    )
    cells = np.stack([expand_labels(labels, MARGIN) for labels in nuclei.labels])
    random = np.random.default_rng(seed)
    level = random.uniform(0.5, 1.0, size=int(cells.max()) + 1)
    level[0] = 0.05
    cytoplasm = np.where(nuclei.labels > 0, 0.5, 1) * level[cells]
    cytoplasm = ndimage.gaussian_filter(cytoplasm, (0, 0.8, 0.8)) + random.normal(0, 0.02, cells.shape)
    return np.stack([nuclei.images, cytoplasm.astype(np.float32)], axis=1), nuclei.labels, cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="few images and training steps")
    fast = parser.parse_args().fast
    images, _, _ = make_cells(8 if fast else 24, seed=0)
    shown, nuclei, cells = make_cells(2 if fast else 8, seed=1)
    how = {"n_steps": 30 if fast else 300, "random_state": 0}
    of_nuclei = CellSegmenter(density=(3, 6), area=(0.05, 0.12), object_size=(8, 20), **how)
    of_cells = CellSegmenter(density=(3, 6), area=(0.2, 0.3), object_size=(14, 28), channel_axis=1, **how)
    of_nuclei.fit(images[:, 0])
    of_cells.fit(images)
    for what, found, truth in (
        ("nuclei, from the first channel", of_nuclei.predict(shown[:, 0]), nuclei),
        ("cells, from both channels", of_cells.predict(shown), cells),
        ("nuclei, built-in model, first channel", CellSegmenter.pretrained().predict(shown[:, 0]), nuclei),
    ):
        precision = np.mean([average_precision(t, f) for t, f in zip(truth, found, strict=True)])
        counts = [int(labels.max()) for labels in found], [len(np.unique(labels)) - 1 for labels in truth]
        print(f"{what}: {counts[0]} of {counts[1]}; average precision at IoU 0.5: {precision:.2f}")
    table = of_cells.detect(shown)
    first, second = table["mean_intensity-0"].mean(), table["mean_intensity-1"].mean()
    print(f"mean intensity of the cells: {first:.2f} in the first channel, {second:.2f} in the second")


if __name__ == "__main__":
    main()
