"""`cellseg predict` piece by piece on ever larger images: peak memory, CPU time, and the price of a second cut.

    python benchmarks/streaming.py --data PATH/TO/mosaic --sides 512 1024 2048 4096

The image is the mosaic, repeated, and all of it is seen at one scale, so that rows differ in size alone.  The second
cut is measured twice: as a command, which starts Python and PyTorch again, and as a call of `cut` on a consensus that
is there already.  results/streaming.json has a row for each side.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from scoring import keep_row

RESULTS = Path(__file__).parent / "results" / "streaming.json"
DIAMETER = 24.0  # px, about that of the mosaic's nuclei

CUT_AGAIN = """
import sys, time
import numpy as np
from cellsegmenter import AbsoluteResolution, CellSegmenter
image, graph, diameter = np.load(sys.argv[1], mmap_mode="r"), sys.argv[2], float(sys.argv[3])
consensus = CellSegmenter.pretrained().consensus(image, work_folder=graph, diameter=diameter, random_state=0)
start = time.process_time()
consensus.cut(AbsoluteResolution(0.5))
print(time.process_time() - start)
"""


class Run(NamedTuple):
    """What a process cost."""

    cpu_seconds: float
    peak_mib: float


def run(image: Path, graph: Path, gamma_abs: float) -> Run:
    """`cellseg predict` in a process of its own."""
    command = [str(Path(sys.executable).with_name("cellseg")), "predict", str(image), "-q"]
    command += ["-o", str(image.with_name("labels.tif")), "--save", "labels,table"]
    command += ["--keep-graph", str(graph), "--gamma-abs", str(gamma_abs), "--seed", "0"]
    command += ["--diameter", str(DIAMETER)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)  # KiB on Linux


def cut_alone(image: Path, graph: Path) -> float:
    """CPU seconds of one more cut of the same graph, without the start of a process."""
    folder = next(path.parent for path in graph.glob("**/manifest.json"))
    command = [sys.executable, "-c", CUT_AGAIN, str(image), str(folder), str(DIAMETER)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stages(graph: Path) -> dict[str, float]:
    """Seconds on the clock between the first and the last file of each stage."""

    def last(pattern: str) -> float:
        return max(path.stat().st_mtime for path in graph.glob(f"**/{pattern}"))

    patterns = ("manifest.json", "found-*", "pixels-*", "edges-*", "cut-*-objects.npz")
    times = [last(pattern) for pattern in patterns]
    names = ("inference", "gather", "edges", "communities_and_labels")
    return {name: round(b - a, 1) for name, a, b in zip(names, times[:-1], times[1:], strict=True)}


def measure(pixels: np.ndarray, folder: Path) -> dict[str, object]:
    """All numbers for one image."""
    image, graph = folder / "image.npy", folder / "graph"
    np.save(image, pixels)
    first = run(image, graph, 0.3)
    seconds = stages(graph)
    second = run(image, graph, 0.4)
    alone = cut_alone(image, graph)
    return {
        "objects": int(tifffile.imread(folder / "labels.tif").max()),
        "cpu_seconds": round(first.cpu_seconds, 1),
        "cpu_seconds_per_megapixel": round(first.cpu_seconds / (pixels.size / 1e6), 2),
        "peak_mib": round(first.peak_mib),
        "second_cut_cpu_seconds": round(second.cpu_seconds, 1),
        "second_cut_alone_cpu_seconds": round(alone, 2),
        "second_cut_alone_share": round(alone / first.cpu_seconds, 3),
        "wall_seconds": seconds,
        "outside_the_networks": round(1 - seconds["inference"] / sum(seconds.values()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048], help="px of the square images")
    options = parser.parse_args()
    mosaic = tifffile.imread(options.data / "image.tif")
    for side in options.sides:
        repeats = [-(-side // length) for length in mosaic.shape]
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(np.tile(mosaic, repeats)[:side, :side], Path(folder))
        keep_row(RESULTS, {"side": side}, measured)


if __name__ == "__main__":
    main()
