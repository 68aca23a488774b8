"""`cellseg predict` on ever larger images: peak memory, CPU time, and the price of a second cut.

    python benchmarks/streaming.py --data PATH/TO/mosaic --sides 4096 8192 16384

The image is the mosaic, repeated, and all of it is seen at one scale, so that rows differ in size alone.  Everything
that grows with the image is kept in a work folder.  With --in-memory SIZE the same is done without one, where SIZE is
the option --max-memory of `cellseg predict`, for example 4G; a larger image gets a folder then, too.

The second cut is measured twice: as a command, which starts Python and PyTorch again, and as a call of `cut` on a
consensus that is there already.  results/streaming.json has a row for each side, way and kind of memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from commands import Cost, run_cellseg
from numpy.lib.format import open_memmap
from scoring import keep_row

RESULTS = Path(__file__).parent / "results" / "streaming.json"
DIAMETER = 24.0  # px, about that of the mosaic's nuclei

GAMMAS = (0.2, 0.35)
BAND = 1024  # rows of the image that are written at a time

CUT_AGAIN = """
import sys
import time
import numpy as np
from cellsegmenter import AbsoluteResolution, CellSegmenter
image, folder, diameter, gamma, recognition, model = sys.argv[1:]
segmenter = CellSegmenter.load(model) if model else CellSegmenter.pretrained()
segmenter.set_params(recognition=recognition, random_state=0)
pixels = np.load(image, mmap_mode="r")
consensus = segmenter.consensus(pixels, work_folder=folder, diameter=float(diameter))
consensus.cut(AbsoluteResolution(float(gamma) + 0.01))  # the graph is there now
start = time.process_time()
consensus.cut(AbsoluteResolution(float(gamma)))
print(time.process_time() - start)
"""


def write_image(mosaic: np.ndarray, side: int, path: Path) -> None:
    """A square of repeated mosaics, band by band."""
    image = open_memmap(path, mode="w+", dtype=mosaic.dtype, shape=(side, side))
    columns = np.arange(side) % mosaic.shape[1]
    for row in range(0, side, BAND):
        rows = np.arange(row, min(row + BAND, side)) % mosaic.shape[0]
        image[row : row + BAND] = mosaic[rows[:, None], columns]
    image.flush()


def predict(image: Path, gamma: float, memory: list[object], options: argparse.Namespace) -> Cost:
    """`cellseg predict` in a process of its own."""
    command: list[object] = ["predict", image, "-q", "-o", image.with_name("labels.tif")]
    command += ["--save", "labels,table", "--gamma-abs", gamma, "--seed", 0, "--diameter", DIAMETER]
    command += ["--recognition", options.recognition, *memory]
    if options.model:
        command += ["--model", options.model]
    return run_cellseg(*command)


def cut_alone(image: Path, graph: Path, options: argparse.Namespace) -> float:
    """CPU seconds of one more cut of the same graph, without the start of a process."""
    folder = next(path.parent for path in graph.glob("**/manifest.json"))
    given = [image, folder, DIAMETER, 0.5, options.recognition, options.model or ""]
    command = [sys.executable, "-c", CUT_AGAIN, *map(str, given)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def disk_mib(folder: Path) -> float:
    """What a folder holds."""
    return sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file()) / 2**20


def measure(side: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers for the image in a folder."""
    image, graph = folder / "image.npy", folder / "graph"
    memory: list[object] = ["--keep-graph", graph]
    if options.in_memory:
        memory = ["--max-memory", options.in_memory]
    first = predict(image, GAMMAS[0], memory, options)
    result = {
        "objects": int(tifffile.imread(folder / "labels.tif").max()),
        "cpu_seconds": round(first.cpu_seconds, 1),
        "cpu_seconds_per_megapixel": round(first.cpu_seconds / (side**2 / 1e6), 2),
        "wall_seconds": round(first.wall_seconds, 1),
        "peak_mib": round(first.peak_mib),
    }
    if options.in_memory:
        return result
    second = predict(image, GAMMAS[1], memory, options)
    alone = cut_alone(image, graph, options)
    return result | {
        "work_folder_mib": round(disk_mib(graph)),
        "second_cut_cpu_seconds": round(second.cpu_seconds, 1),
        "second_cut_peak_mib": round(second.peak_mib),
        "second_cut_alone_cpu_seconds": round(alone, 2),
        "second_cut_alone_share": round(alone / first.cpu_seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with image.tif")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[4096, 8192, 16384], help="px of the square images"
    )
    parser.add_argument("--recognition", default="one_pass", choices=("one_pass", "windows"))
    parser.add_argument("--in-memory", metavar="SIZE", help="without a work folder, if SIZE will do")
    parser.add_argument("--scratch", type=Path, help="where images and work folders are put for a while")
    options = parser.parse_args()
    mosaic = tifffile.imread(options.data / "image.tif")
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            write_image(mosaic, side, Path(folder) / "image.npy")
            measured = measure(side, Path(folder), options)
        asked = {"side": side, "recognition": options.recognition, "max_memory": options.in_memory}
        keep_row(RESULTS, asked, measured)


if __name__ == "__main__":
    main()
