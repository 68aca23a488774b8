"""What the latent codes of digits know of their class: clusters and a linear probe on held-out multi-MNIST.

    python benchmarks/multi_mnist.py --data PATH/TO/mnist --background grid --seed 3 --save grid.safetensors
    python benchmarks/latent_codes.py --data PATH/TO/mnist --background grid --model grid.safetensors

Objects of 500 held-out images that match an annotated digit (IoU above 0.5) give one code each.  k-means, a mixture of
Gaussians, and k-means in the spectral embedding of each code's ten nearest neighbours, all with ten clusters, never see
a class; they take the codes as they are, since the prior already gives every dimension its scale and those that carry
nothing stay near zero.  The probe is a logistic regression, fitted on
the codes of the 5000 training images.  Prints and writes results/latent_codes_BACKGROUND.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from multi_mnist import digit_images
from scoring import by_windows
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import DigitImages

RESULTS = Path(__file__).parent / "results"
N_CLASSES = 10


def matched_codes(segmenter: CellSegmenter, annotated: DigitImages) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, D) of objects that match a digit, and the digits' classes (n,)."""
    codes, classes = [], []
    for start in range(0, len(annotated.images), 50):
        posterior = segmenter.sample_posterior(annotated.images[start : start + 50], n_samples=None)
        for i in range(len(posterior.presence)):
            labels, digits = annotated.labels[start + i], annotated.classes[start + i]
            for k in np.flatnonzero(posterior.presence[i, 0]):
                mask = posterior.mixing_prob[i, 0, k] > 0.5
                common = np.bincount(labels[mask], minlength=len(digits) + 1)
                union = np.bincount(labels.ravel(), minlength=len(digits) + 1) + mask.sum() - common
                best = 1 + int(np.argmax(common[1:] / union[1:]))
                if common[best] > 0.5 * union[best]:
                    codes.append(posterior.z_what[i, 0, k])
                    classes.append(digits[best - 1])
    return np.array(codes), np.array(classes)


def agreement(name: str, classes: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """How clusters agree with classes, both (n,)."""
    scores = {"nmi": normalized_mutual_info_score, "ari": adjusted_rand_score}
    return {f"{name}_{score}": round(float(of(classes, clusters)), 4) for score, of in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the four MNIST files")
    parser.add_argument("--model", type=Path, required=True, help="of benchmarks/multi_mnist.py --save")
    parser.add_argument("--background", choices=("black", "grid"), default="grid")
    options = parser.parse_args()

    train, test = digit_images(options.data, options.background)
    segmenter = by_windows(CellSegmenter.load(options.model))
    codes, classes = matched_codes(segmenter, test)
    spectral = SpectralClustering(N_CLASSES, affinity="nearest_neighbors", random_state=0)
    mixture = GaussianMixture(N_CLASSES, n_init=10, random_state=0)
    kmeans = KMeans(N_CLASSES, n_init=10, random_state=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(*matched_codes(segmenter, train))
    result = {
        "background": options.background,
        "objects": len(codes),
        **agreement("kmeans", classes, kmeans.fit_predict(codes)),
        **agreement("mixture", classes, mixture.fit_predict(codes)),
        **agreement("spectral", classes, spectral.fit_predict(codes)),
        "linear_probe": round(float(probe.score(codes, classes)), 4),
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"latent_codes_{options.background}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
