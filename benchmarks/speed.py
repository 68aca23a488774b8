"""What a segmentation costs beside the published way and a classical one: CPU seconds and ratios of one run.

    python benchmarks/speed.py --data PATH/TO/data [--model FILE]

DATA holds dsb2018/ and mosaic/.  Measured are the 40 test images of the former and a 13-Mpx part of the latter,
3120 × 4176 px, each segmented with labels, confidence and table:

- one pass: `CellSegmenter.detect`, the product; with a profile by stage, each without the stages inside of it;
- sliding windows: the same model in the published way;
- watershed: Otsu's threshold, distance transform and watershed of scikit-image, with the same table.

CPU seconds with one thread and one process, on whatever machine this is: only ratios carry over.  Then, of the part of
the mosaic, a second cut at another γ as a share of the run, and seconds on the clock with two threads and with two
processes.  And `import cellsegmenter` in a process of its own, best of three.  Writes results/speed.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tifffile
import torch
from scoring import by_windows, cpu_seconds, load_model
from threadpoolctl import threadpool_limits
from watershed import watershed_segment

from cellsegmenter import AbsoluteResolution, CellSegmenter, estimator, segmenting
from cellsegmenter.datasets import load_dsb2018
from cellsegmenter.image_consensus import ImageConsensus
from cellsegmenter.measurements import measure_objects
from cellsegmenter.preparation import PreparedImage

RESULTS = Path(__file__).parent / "results" / "speed.json"
PART = (3120, 4176)  # px of the mosaic
OTHER_RESOLUTION = AbsoluteResolution(0.35)
# Where a stage begins: the name is that of the profile.
STAGES: list[tuple[str, Any, str]] = [
    ("size", estimator, "image_diameter"),
    ("prepare", estimator, "prepare_at_scale"),
    ("prepare", PreparedImage, "__getitem__"),
    ("networks", segmenting, "find_candidates"),
    ("suppression and samples", segmenting, "shape_posterior"),
    ("graph and labels", ImageConsensus, "cut"),
    ("table", estimator, "object_columns"),
]


class Profile:
    """CPU seconds by stage; a stage inside of another one is not counted twice."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = ["other"]
        self._since = cpu_seconds()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs in here is of this stage."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are a stage."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return wrapper

    def _count(self) -> None:
        now = cpu_seconds()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def shares(self) -> dict[str, float]:
        """CPU seconds of each stage, the longest first."""
        self._count()
        return {name: round(spent, 2) for name, spent in self.seconds.most_common()}


@contextmanager
def profiled() -> Iterator[Profile]:
    """Every call of a stage's function is counted."""
    profile = Profile()
    with ExitStack() as stack:
        for name, owner, attribute in STAGES:
            function = profile.timed(name, getattr(owner, attribute))
            # As a property of the class, a plain function is bound to the object as the original is.
            stack.enter_context(patch.object(owner, attribute, function))
        yield profile


def cost_of(work: Callable[[], Any]) -> float:
    """CPU seconds of some work."""
    started = cpu_seconds()
    work()
    return cpu_seconds() - started


def classical(images: list[np.ndarray]) -> None:
    """The baseline with its table."""
    for image in images:
        measure_objects(watershed_segment(image), image)


def compare(segmenter: CellSegmenter, images: list[np.ndarray]) -> dict[str, Any]:
    """CPU seconds of all three on the same images."""
    segmenter.predict(images[0][:256, :256])  # what is done once in a process is no part of it
    with profiled() as profile:
        one_pass = cost_of(lambda: segmenter.detect(images))
        stages = profile.shares()
    watershed = cost_of(lambda: classical(images))
    windows = cost_of(lambda: by_windows(segmenter).detect(images))
    megapixels = sum(image.size for image in images) / 1e6
    return {
        "megapixels": round(megapixels, 2),
        "one_pass_cpu_seconds": round(one_pass, 2),
        "one_pass_cpu_seconds_per_megapixel": round(one_pass / megapixels, 3),
        "windows_cpu_seconds": round(windows, 2),
        "watershed_cpu_seconds": round(watershed, 2),
        "one_pass_over_windows": round(one_pass / windows, 4),
        "one_pass_over_watershed": round(one_pass / watershed, 2),
        "stages_cpu_seconds": stages,
    }


def second_cut(segmenter: CellSegmenter, image: np.ndarray) -> dict[str, float]:
    """What another γ costs, as a share of the first run with its table."""
    found: list[ImageConsensus] = []

    def first_run() -> None:
        found.append(segmenter.consensus(image))
        segmenter.table(found[0].cut(), image)

    first = cost_of(first_run)
    second = cost_of(lambda: found[0].cut(OTHER_RESOLUTION))
    return {"second_cut_cpu_seconds": round(second, 2), "second_cut_share": round(second / first, 4)}


def on_two_cores(segmenter: CellSegmenter, image: np.ndarray) -> dict[str, float]:
    """Seconds on the clock, with two threads and with two processes."""
    seconds = {}
    for name, threads, jobs in (("two_threads", 2, 1), ("two_processes", 1, 2)):
        segmenter.set_params(n_jobs=jobs)
        with threads_limited(threads):
            started = time.perf_counter()
            segmenter.detect(image)
            seconds[f"{name}_wall_seconds"] = round(time.perf_counter() - started, 2)
    segmenter.set_params(n_jobs=1)
    return seconds


@contextmanager
def threads_limited(n: int) -> Iterator[None]:
    """At most so many threads of PyTorch and of linear algebra."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    with threadpool_limits(n):
        yield
    torch.set_num_threads(before)


def import_seconds() -> float:
    """CPU seconds of a process that imports the package and nothing else."""
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import cellsegmenter"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/ and mosaic/")
    parser.add_argument("--model", type=Path, help="a model file; by default the one that ships")
    parser.add_argument("--images", type=int, help="of the test images, at most; for trying this out")
    parser.add_argument(
        "--part", type=int, nargs=2, default=PART, metavar=("H", "W"), help="px of the mosaic"
    )
    options = parser.parse_args()
    segmenter = load_model(options.model).set_params(recognition="one_pass")
    images = load_dsb2018(options.data / "dsb2018", split="test").images[: options.images]
    mosaic = tifffile.imread(options.data / "mosaic" / "image.tif")[: options.part[0], : options.part[1]]
    result: dict[str, Any] = {"import_cpu_seconds": round(import_seconds(), 2)}
    with threads_limited(1):
        result["test_images"] = compare(segmenter, images)
        print(json.dumps(result, indent=2), flush=True)
        result["mosaic"] = compare(segmenter, [mosaic]) | second_cut(segmenter, mosaic)
    result["mosaic"] |= on_two_cores(segmenter, mosaic)
    print(json.dumps(result["mosaic"], indent=2))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
