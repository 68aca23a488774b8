"""Choosing the resolution by eye: one region, cut at many resolutions, on a page with a slider."""

from cellsegmenter.tuning.page import write_tuning_page
from cellsegmenter.tuning.sweep import ResolutionCut, ResolutionSweep, region_pixels, sweep_resolutions

__all__ = [
    "ResolutionCut",
    "ResolutionSweep",
    "region_pixels",
    "sweep_resolutions",
    "write_tuning_page",
]
