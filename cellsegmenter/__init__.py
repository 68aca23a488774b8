"""Segment cells and other small objects in images without labels."""

from importlib.metadata import version

from cellsegmenter.consensus import AbsoluteResolution
from cellsegmenter.estimator import CellSegmenter
from cellsegmenter.pooling import ImagePooler
from cellsegmenter.suggest import suggest_bounds

__version__ = version("cellsegmenter")
__all__ = ["AbsoluteResolution", "CellSegmenter", "ImagePooler", "__version__", "suggest_bounds"]
