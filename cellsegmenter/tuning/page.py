"""The page on which a resolution is chosen by eye; data and pictures are inside of the file."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from cellsegmenter.html import (
    filled_template,
    grey_picture,
    outline_picture,
    page_file,
    picture_uri,
    write_page,
)
from cellsegmenter.tuning.sweep import ResolutionCut, ResolutionSweep

__all__ = ["GAMMA_PLACE", "write_tuning_page"]

GAMMA_PLACE = "GAMMA_ABS"  # stands in a command for the value that the user chooses


def write_tuning_page(path: str | Path, sweep: ResolutionSweep, *, command: str, subtitle: str = "") -> None:
    """Write a self-contained HTML page with a slider over the cuts of a sweep.

    Parameters
    ----------
    path : str or Path
        Ends in ``.html``.
    sweep : ResolutionSweep
        From `CellSegmenter.sweep`.
    command : str
        What applies the choice to the whole image, with ``GAMMA_ABS`` in place of the value.
    subtitle : str
        Which image, region and model; plain text.

    Raises
    ------
    ImageFileError
        If the path cannot be written to or is not a page's.
    """
    cuts = [_cut_data(cut) for cut in sweep.cuts]
    # "</" would end the script element, whatever the JSON says.
    data = json.dumps({"cuts": cuts, "automatic": sweep.automatic, "command": command}).replace("</", "<\\/")
    chosen = cuts[sweep.automatic]
    body = filled_template(
        "tune.html",
        subtitle=html.escape(subtitle),
        image=picture_uri(grey_picture(sweep.pixels)),
        overlay=chosen["overlay"],
        width=sweep.pixels.shape[1],
        height=sweep.pixels.shape[0],
        last=len(cuts) - 1,
        automatic=sweep.automatic,
        objects=chosen["objects"],
        gamma=chosen["gamma_abs"],
        command=html.escape(command.replace(GAMMA_PLACE, str(chosen["gamma_abs"]))),
    )
    body += f'\n<script type="application/json" id="data">{data}</script>'
    write_page(
        path, title="Choosing the resolution", body=body, styles=("tune.css",), script=page_file("tune.js")
    )


def _cut_data(cut: ResolutionCut) -> dict[str, Any]:
    return {
        "gamma_abs": float(f"{cut.absolute:.4g}"),
        "objects": cut.n_objects,
        "diameter": _plain(cut.median_diameter, 1),
        "confidence": _plain(cut.confidence, 3),
        "agreement": round(cut.agreement, 4),
        "overlay": picture_uri(outline_picture(cut.labels)),
    }


def _plain(value: float, digits: int) -> float | None:
    """A number as JSON holds it."""
    return None if math.isnan(value) else round(value, digits)
