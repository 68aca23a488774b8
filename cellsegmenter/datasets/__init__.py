"""Synthetic and real images with instance masks, named in scikit-learn's way: make_… and load_…"""

from ._blobs import make_blobs
from ._mnist import Digits, load_mnist, make_multi_mnist
from ._nuclei import make_nuclei
from ._real import load_dsb2018, load_nuclei
from ._types import DigitImages, ImageCollection, LabelledImages

__all__ = [
    "DigitImages",
    "Digits",
    "ImageCollection",
    "LabelledImages",
    "load_dsb2018",
    "load_mnist",
    "load_nuclei",
    "make_blobs",
    "make_multi_mnist",
    "make_nuclei",
]
