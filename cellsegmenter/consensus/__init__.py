"""Consensus segmentation by community detection on the co-membership graph (Sec. 4, Suppl. S9)."""

from cellsegmenter.consensus.consensus import Consensus, build_consensus
from cellsegmenter.consensus.contraction import MERGE_TOLERANCE
from cellsegmenter.consensus.edges import MIN_EDGE, Visits
from cellsegmenter.consensus.labels import Segmentation
from cellsegmenter.consensus.membership import found_record
from cellsegmenter.consensus.resolution import (
    AbsoluteResolution,
    Method,
    Resolution,
    ResolutionError,
    Solver,
    check_resolution,
    mean_pair_weight,
    resolve,
)
from cellsegmenter.consensus.shapes import ShapeConsensus, ShapePosterior

__all__ = [
    "MERGE_TOLERANCE",
    "MIN_EDGE",
    "AbsoluteResolution",
    "Consensus",
    "Method",
    "Resolution",
    "ResolutionError",
    "Segmentation",
    "ShapeConsensus",
    "ShapePosterior",
    "Solver",
    "Visits",
    "build_consensus",
    "check_resolution",
    "found_record",
    "mean_pair_weight",
    "resolve",
]
