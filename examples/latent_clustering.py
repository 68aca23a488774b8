"""Cluster cells by their latent codes, without labels, in one scikit-learn pipeline.

The images hold several handwritten digits each, in place of cells of several kinds.  The pipeline finds the
objects, describes each by its latent code, and groups the codes; the groups are then painted back.

    python examples/latent_clustering.py                      # minutes
    python examples/latent_clustering.py --fast               # a minute: badly trained, shows that it runs
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import make_multi_mnist

N_CLUSTERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few images and training steps")
    parser.add_argument("--output", type=Path, help="write the painted clusters to this TIFF")
    arguments = parser.parse_args()

    images = make_multi_mnist(24 if arguments.fast else 1000, random_state=0).images
    segmenter = CellSegmenter(
        density=(1.5, 6.5),
        area=(0.05, 0.15),
        object_size=(12, 40),
        max_objects=10,
        n_steps=250 if arguments.fast else None,
        batch_size=8 if arguments.fast else None,
        random_state=0,
    )
    pipeline = make_pipeline(segmenter, StandardScaler(), KMeans(N_CLUSTERS, random_state=0))
    clusters = pipeline.fit_predict(images)  # one entry per object, image after image, in label order

    painted = paint(segmenter.predict(images), clusters)
    print(f"{len(clusters)} objects in {N_CLUSTERS} clusters of {np.bincount(clusters).tolist()}")
    if arguments.output:
        tifffile.imwrite(arguments.output, painted, compression="zlib")


def paint(labels: list[np.ndarray], clusters: np.ndarray) -> np.ndarray:
    """Replace each label by 1 + the cluster of its object; 0 stays background."""
    per_image = np.split(clusters, np.cumsum([label.max(initial=0) for label in labels])[:-1])
    return np.stack(
        [np.concatenate([[0], 1 + own])[label] for label, own in zip(labels, per_image, strict=True)]
    ).astype(np.uint8)


if __name__ == "__main__":
    main()
