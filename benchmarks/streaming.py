"""`cellseg predict` piece by piece on ever larger images: peak memory, CPU time, and the price of a second cut.

    python benchmarks/streaming.py --data PATH/TO/mosaic --sides 1024 2048 4096

The image is the mosaic, repeated.  Writes results/streaming.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

RESULTS = Path(__file__).parent / "results" / "streaming.json"


class Run(NamedTuple):
    """What a process cost."""

    cpu_seconds: float
    peak_mib: float


def run(image: Path, graph: Path, gamma_abs: float) -> Run:
    """`cellseg predict` in a process of its own."""
    command = [str(Path(sys.executable).with_name("cellseg")), "predict", str(image), "-q"]
    command += ["-o", str(image.with_name("labels.tif")), "--save", "labels,table"]
    command += ["--keep-graph", str(graph), "--gamma-abs", str(gamma_abs)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)  # KiB on Linux


def stages(graph: Path) -> dict[str, float]:
    """Seconds on the clock between the first and the last file of each stage."""

    def last(pattern: str) -> float:
        return max(path.stat().st_mtime for path in graph.glob(f"*/{pattern}"))

    times = [last("manifest.json"), last("found-*"), last("pixels-*"), last("cut-*-objects.npz")]
    names = ("inference", "gather", "graph_and_labels")
    return {name: round(b - a, 1) for name, a, b in zip(names, times[:-1], times[1:], strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048], help="px of the square images")
    options = parser.parse_args()
    mosaic = tifffile.imread(options.data / "image.tif")
    results = []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            image, graph = Path(folder) / "image.npy", Path(folder) / "graph"
            repeats = [-(-side // length) for length in mosaic.shape]
            np.save(image, np.tile(mosaic, repeats)[:side, :side])
            first = run(image, graph, 0.3)
            seconds = stages(graph)
            second = run(image, graph, 0.4)
            results.append(
                {
                    "side": side,
                    "objects": int(tifffile.imread(image.with_name("labels.tif")).max()),
                    "cpu_seconds": round(first.cpu_seconds, 1),
                    "cpu_seconds_per_megapixel": round(first.cpu_seconds / (side / 1000) ** 2, 2),
                    "peak_mib": round(first.peak_mib),
                    "second_cut_cpu_seconds": round(second.cpu_seconds, 1),
                    "wall_seconds": seconds,
                }
            )
            print(json.dumps(results[-1]), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
