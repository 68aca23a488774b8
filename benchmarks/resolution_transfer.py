"""The automatic resolution of a region of 500 × 500 px, beside that of four times its area: do they cut alike?

    python benchmarks/resolution_transfer.py --data PATH/TO/mosaic

Both are applied to the larger area, and the labels compared.  Writes results/resolution_transfer.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import tifffile
from scoring import load_model
from sklearn.metrics import adjusted_rand_score

from cellsegmenter import AbsoluteResolution, CellSegmenter

RESULTS = Path(__file__).parent / "results" / "resolution_transfer.json"
CORNERS = ((600, 750), (1700, 800), (2700, 2200))  # of the regions, px; each larger area begins 250 px before


def compare(segmenter: CellSegmenter, mosaic: np.ndarray, corner: tuple[int, int]) -> dict[str, object]:
    """The resolutions that a region and its surroundings choose, and how alike they cut the surroundings."""
    row, column = corner
    region = segmenter.consensus(mosaic, region=(row, column, 500, 500), random_state=0)
    area = segmenter.consensus(mosaic, region=(row - 250, column - 250, 1000, 1000), random_state=0)
    chosen = [consensus.cut("auto").resolution.absolute for consensus in (region, area)]
    cuts = [np.ravel(area.cut(AbsoluteResolution(value)).labels) for value in chosen]
    covered = (cuts[0] > 0) | (cuts[1] > 0)  # background would make any two cuts alike
    return {
        "corner": list(corner),
        "gamma_abs_of_region": chosen[0],
        "gamma_abs_of_area": chosen[1],
        "objects": [int(labels.max()) for labels in cuts],
        "ari": round(float(adjusted_rand_score(*cuts)), 4),
        "ari_of_objects": round(float(adjusted_rand_score(*(labels[covered] for labels in cuts))), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--recognition", default="auto", choices=("auto", "one_pass", "windows"))
    options = parser.parse_args()
    mosaic = tifffile.imread(options.data / "image.tif")
    segmenter = load_model(options.model).set_params(recognition=options.recognition)
    results = []
    for corner in CORNERS:
        results.append(compare(segmenter, mosaic, corner))
        print(json.dumps(results[-1]), flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
