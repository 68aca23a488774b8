"""What the latent codes of digits know of their class: k-means and a linear probe on held-out multi-MNIST.

    python benchmarks/multi_mnist.py --data PATH/TO/mnist --background grid --seed 3 --save grid.safetensors
    python benchmarks/latent_codes.py --data PATH/TO/mnist --background grid --model grid.safetensors

Objects of 500 held-out images that match an annotated digit (IoU above 0.5) give one code each.  k-means with ten
clusters never sees a class; it takes the codes as they are, since the prior already gives every dimension its scale and
those that carry nothing stay near zero.  The probe is a logistic regression, fitted on the codes of every other
image and scored on the rest.  Prints and writes results/latent_codes_BACKGROUND.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from multi_mnist import digit_images
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import DigitImages

RESULTS = Path(__file__).parent / "results"


def matched_codes(segmenter: CellSegmenter, test: DigitImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (n, D) of objects that match a digit, the digits' classes (n,) and their images (n,)."""
    codes, classes, images = [], [], []
    for start in range(0, len(test.images), 50):
        posterior = segmenter.sample_posterior(test.images[start : start + 50], n_samples=None)
        for i in range(len(posterior.presence)):
            labels, digits = test.labels[start + i], test.classes[start + i]
            for k in np.flatnonzero(posterior.presence[i, 0]):
                mask = posterior.mixing_prob[i, 0, k] > 0.5
                common = np.bincount(labels[mask], minlength=len(digits) + 1)
                union = np.bincount(labels.ravel(), minlength=len(digits) + 1) + mask.sum() - common
                best = 1 + int(np.argmax(common[1:] / union[1:]))
                if common[best] > 0.5 * union[best]:
                    codes.append(posterior.z_what[i, 0, k])
                    classes.append(digits[best - 1])
                    images.append(start + i)
    return np.array(codes), np.array(classes), np.array(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the four MNIST files")
    parser.add_argument("--model", type=Path, required=True, help="of benchmarks/multi_mnist.py --save")
    parser.add_argument("--background", choices=("black", "grid"), default="grid")
    options = parser.parse_args()

    _, test = digit_images(options.data, options.background)
    codes, classes, images = matched_codes(CellSegmenter.load(options.model), test)
    clusters = KMeans(10, n_init=10, random_state=0).fit_predict(codes)
    fitted = images % 2 == 0
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(codes[fitted], classes[fitted])
    result = {
        "background": options.background,
        "objects": len(codes),
        "kmeans_nmi": round(normalized_mutual_info_score(classes, clusters), 4),
        "kmeans_ari": round(adjusted_rand_score(classes, clusters), 4),
        "linear_probe": round(float(probe.score(codes[~fitted], classes[~fitted])), 4),
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"latent_codes_{options.background}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
