"""The picture at the top of the README: the built-in image and what the built-in model finds in it.

python docs/make_picture.py
"""

import tempfile
from pathlib import Path

import numpy as np
from skimage.io import imread, imsave

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_nuclei
from cellsegmenter.io import write_overlay

TARGET = Path(__file__).parent / "images" / "overlay.png"
ZOOM = 2  # so that outlines one pixel wide can be seen
GAP = 8  # white columns between the two panels


def main() -> None:
    """Write both panels side by side, the plain image on the same grey scale as the outlined one."""
    image, _ = load_nuclei()
    labels = CellSegmenter.pretrained().set_params(random_state=0, verbose=False).predict(image)
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.png"
        for shown in (np.zeros_like(labels), labels):
            write_overlay(path, image, shown)
            panels.append(imread(path).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1))
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    TARGET.parent.mkdir(exist_ok=True)
    imsave(TARGET, np.hstack([panels[0], gap, panels[1]]), check_contrast=False)
    print(f"{labels.max()} nuclei; wrote {TARGET}")


if __name__ == "__main__":
    main()
