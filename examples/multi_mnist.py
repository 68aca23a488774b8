"""Learn to find and count handwritten digits without labels: the paper's multi-MNIST experiment.

Given only that an image holds 1.5 to 6.5 digits on 5 to 15 % of its area.  Without --mnist it uses the small
digits that come with scikit-learn.

    python examples/multi_mnist.py --mnist FOLDER             # MNIST's four files; minutes
    python examples/multi_mnist.py --fast                     # seconds: badly trained, shows that it runs
"""

import argparse
from pathlib import Path

import numpy as np

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_mnist, make_multi_mnist
from cellsegmenter.metrics import counting_accuracy, mean_average_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few images and training steps")
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="the folder of MNIST's original files")
    parser.add_argument("--background", choices=["black", "grid"], default="black")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="save the model here (NAME.safetensors)")
    arguments = parser.parse_args()

    n_train, n_test = (100, 10) if arguments.fast else (5000, 500)
    train, test = (
        make_multi_mnist(
            n_images,
            digits=load_mnist(arguments.mnist, split=split) if arguments.mnist else None,
            background=arguments.background,
            random_state=arguments.seed + offset,
        )
        for offset, (split, n_images) in enumerate([("train", n_train), ("test", n_test)])
    )
    segmenter = CellSegmenter(
        density=(1.5, 6.5),
        area=(0.05, 0.15),
        object_size=(12, 40),
        max_objects=10,
        n_steps=30 if arguments.fast else None,
        random_state=arguments.seed,
    ).fit(train.images)
    labels = segmenter.predict(test.images)
    found = np.array([label.max(initial=0) for label in labels])
    print(f"counting accuracy {counting_accuracy(test.count, found):.3f}")
    print(f"average precision at IoU 0.5 {mean_average_precision(test.labels, labels):.3f}")
    if arguments.output:
        segmenter.save(arguments.output)


if __name__ == "__main__":
    main()
