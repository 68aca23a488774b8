"""Segment the built-in image of nuclei with the built-in model: the lines of the README."""

from cellsegmenter import CellSegmenter
from cellsegmenter.datasets import load_nuclei

image, _ = load_nuclei()  # any 2-D array
segmenter = CellSegmenter.pretrained()
labels = segmenter.predict(image)  # int32: 0 background, 1 .. n the nuclei
codes = segmenter.transform(image)  # one row per nucleus, in the order of the labels

print(f"{labels.max()} nuclei, {codes.shape[1]} latent numbers each")
