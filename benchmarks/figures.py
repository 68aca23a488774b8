"""The figures of docs/experiments.md: draws from the DPP and the model, samples, resolutions, codes.

python benchmarks/multi_mnist.py --data PATH/TO/mnist --background grid --seed 3 --save grid.safetensors
python benchmarks/figures.py --data PATH/TO/mnist --model grid.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from latent_codes import matched_codes
from matplotlib.figure import Figure
from multi_mnist import digit_images
from skimage.segmentation import mark_boundaries
from sklearn.decomposition import PCA

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import DigitImages, load_nuclei
from cellsegmenter.model.dpp import DeterminantalPointProcess
from cellsegmenter.report import plot_posterior, plot_prior

IMAGES = Path(__file__).parents[1] / "docs" / "images"
GRID = (40, 40)
EXPECTED, LENGTHS = (10, 40), (0.5, 2.0, 5.0)  # points on the grid, and spacings of the grid
RESOLUTIONS = (0.02, 0.1, 0.2, 0.4, 0.8)


def dpp_figure() -> Figure:
    """Samples for two strengths and three lengths of repulsion; lengths in spacings of the grid."""
    random = np.random.default_rng(0)
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    for row, expected in zip(figure.subplots(len(EXPECTED), len(LENGTHS)), EXPECTED, strict=True):
        for axis, length in zip(row, LENGTHS, strict=True):
            with torch.no_grad():
                prior = DeterminantalPointProcess(expected, GRID, length)
                y, x = np.divmod(prior.sample(GRID, random), GRID[1])
            axis.scatter(x, y, s=9)
            axis.set(xlim=(-1, GRID[1]), ylim=(-1, GRID[0]), xticks=[], yticks=[], aspect="equal")
            axis.set_title(f"{expected} expected, ℓ = {length:g}: {len(x)} points", fontsize=8.5)
    return figure


def resolution_figure() -> Figure:
    """The built-in image cut at several resolutions from one graph."""
    image, _ = load_nuclei()
    consensus = CellSegmenter.pretrained().set_params(random_state=0).consensus(image)
    figure = Figure(figsize=(2.4 * len(RESOLUTIONS), 2.7), layout="constrained")
    for axis, resolution in zip(figure.subplots(1, len(RESOLUTIONS)), RESOLUTIONS, strict=True):
        found = consensus.cut(AbsoluteResolution(resolution))
        axis.imshow(mark_boundaries(np.sqrt(image / image.max()), found.labels, color=(1, 0.6, 0)))
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"γ_abs = {resolution:g}: {len(found)}", fontsize=9)
    return figure


def code_figure(segmenter: CellSegmenter, test: DigitImages) -> Figure:
    """The first four principal components of the digits' codes, coloured by class."""
    codes, classes = matched_codes(segmenter, test)
    plane = PCA(4).fit_transform(codes)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axis, (i, j) in zip(figure.subplots(1, 2), ((0, 1), (2, 3)), strict=True):
        dots = axis.scatter(plane[:, i], plane[:, j], c=classes, cmap="tab10", s=6)
        axis.set(xlabel=f"component {i + 1}", ylabel=f"component {j + 1}")
    figure.legend(*dots.legend_elements(), title="digit", loc="outside right center", frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the four MNIST files")
    parser.add_argument("--model", type=Path, required=True, help="of benchmarks/multi_mnist.py --save")
    parser.add_argument("--background", choices=("black", "grid"), default="grid")
    options = parser.parse_args()
    _, test = digit_images(options.data, options.background)
    segmenter = CellSegmenter.load(options.model).set_params(random_state=0)
    for name, figure in {
        "dpp": dpp_figure(),
        "prior": plot_prior(segmenter),
        "posterior": plot_posterior(segmenter, test.images[:4], n_samples=3),
        "resolutions": resolution_figure(),
        "codes": code_figure(segmenter, test),
    }.items():
        figure.savefig(IMAGES / f"{name}.png", dpi=90)


if __name__ == "__main__":
    main()
