"""Cluster nuclei by their latent codes, without labels, in one scikit-learn pipeline.

The built-in model finds the nuclei of the built-in image and describes each by its latent code; the codes are
grouped, and the groups are painted back on the image: an outline's colour is its nucleus' group.

    python examples/latent_clustering.py                      # a minute
    python examples/latent_clustering.py --fast               # seconds: a part of the image, in coarse steps
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_nuclei
from cellsegmenter.io import write_overlay

N_CLUSTERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="a part of the image")
    parser.add_argument("--output", type=Path, help="write the image with the painted clusters to this PNG")
    arguments = parser.parse_args()

    image, _ = load_nuclei()
    segmenter = CellSegmenter.pretrained().set_params(random_state=0)
    if arguments.fast:
        image = image[64:224, 64:224]
    # Frozen: the pipeline fits the scaler and the clusters, and leaves the trained segmenter as it is.
    pipeline = make_pipeline(FrozenEstimator(segmenter), StandardScaler(), KMeans(N_CLUSTERS, random_state=0))
    clusters = pipeline.fit_predict(image)  # one entry for each nucleus, in the order of the labels

    labels = segmenter.predict(image)
    area = np.bincount(labels.ravel())[1:]
    for cluster in range(N_CLUSTERS):
        own = clusters == cluster
        print(f"cluster {cluster}: {own.sum()} nuclei of {area[own].mean():.0f} px on average")
    if arguments.output:
        write_overlay(arguments.output, image, paint(labels, clusters))


def paint(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Replace each label by 1 + the cluster of its object; 0 stays background."""
    return np.concatenate([[0], 1 + clusters])[labels]


if __name__ == "__main__":
    main()
