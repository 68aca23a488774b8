"""Synthetic and real images with instance masks, named in scikit-learn's way: make_… and load_…"""

from ._mnist import Digits, load_mnist, make_multi_mnist
from ._types import DigitImages, LabelledImages

__all__ = ["DigitImages", "Digits", "LabelledImages", "load_mnist", "make_multi_mnist"]
