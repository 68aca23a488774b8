"""Whether long runs hold: memory, kills, full disks, workers that die.

    OMP_NUM_THREADS=1 python benchmarks/reliability.py memory
    OMP_NUM_THREADS=1 python benchmarks/reliability.py kill-fit
    OMP_NUM_THREADS=1 python benchmarks/reliability.py kill-predict
    OMP_NUM_THREADS=1 python benchmarks/reliability.py disk --side 1200  # as root, to mount a small disk
    OMP_NUM_THREADS=1 python benchmarks/reliability.py workers

`memory` predicts small images again and again in one process.  `kill-fit` and `kill-predict` end `cellseg fit`, and
`cellseg predict` of a large image, by SIGKILL at random moments of each stage, start them again, and compare the bytes
of what they write with those of a run left alone; of a model all but its seconds.  `disk` predicts on disks of ever
more room, too small at first.  `workers` kills a worker of a dask cluster while it is at each stage.  Images are made
up.
results/reliability.json has a row for each of them; anything that does not hold is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import tifffile
import torch
from killing import kill_fit, kill_predict
from scoring import keep_row
from subjects import CELLSEG, nuclei, run

from cellsegmenter import AbsoluteResolution, CellSegmenter

RESULTS = Path(__file__).parent / "results" / "reliability.json"
LARGEST_GROWTH = 0.05  # of the memory after the warm-up


# --- memory -----------------------------------------------------------------------------------------------------


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Predict, measure and forget; memory after the warm-up and at its highest later."""
    segmenter = CellSegmenter.pretrained().set_params(random_state=0, device="cpu")
    images = [nuclei(side, seed) for seed in range(10) for side in (96, 128, 160)]
    after_warm_up, highest = 0.0, 0.0
    for number in range(options.predictions):
        image = images[number % len(images)]
        cut = segmenter.consensus(image).cut()
        segmenter.table(cut, image)
        if number == options.predictions // 5:
            after_warm_up = resident_mib()
        highest = max(highest, resident_mib()) if after_warm_up else 0.0
    growth = highest / after_warm_up - 1
    assert growth < LARGEST_GROWTH, f"memory grew by {growth:.1%}"
    return {
        "predictions": options.predictions,
        "mib_after_warm_up": round(after_warm_up),
        "highest_mib_later": round(highest),
        "growth": round(growth, 4),
    }


# --- full disks -------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of so much room at a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disk(options: argparse.Namespace) -> dict[str, Any]:
    """Predict on disks that are too small; what is there must be whole and recorded, and more room must complete it."""
    outcomes: dict[str, int] = {}
    image, out = options.scratch / "image.tif", options.scratch / "out"
    tifffile.imwrite(image, nuclei(options.side))
    command = [*CELLSEG, "predict", str(image), "--max-memory", "1M", "--device", "cpu", "-o", str(out)]
    command += ["--save", "labels,table,overlay,geojson,maps"]
    with small_disk(out, 2**21):
        run(command)
        expected = whole_results(out)
        most = sum(map(len, expected.values())) // 1024
    room = 128
    while room < 2**21:
        with small_disk(out, room):
            done = subprocess.run(command, capture_output=True, text=True)
            kept = whole_results(out)
            if done.returncode == 0:
                assert kept == expected
                break
            assert done.returncode == 1, done.stderr
            message = done.stderr.strip().splitlines()[-1]
            assert "No space left on device" in message, done.stderr
            assert str(out) in message, message
            reached = f"{len(kept)} files kept"
            outcomes[reached] = outcomes.get(reached, 0) + 1
            print(f"{room} KiB: {message}", file=sys.stderr)
            subprocess.run(["mount", "-o", "remount,size=2G", str(out)], check=True)
            run([*command, "--skip-existing"])
            assert whole_results(out) == expected
        room *= 2
    return {"refused_with": outcomes, "enough_kib": room, "results_kib": most}


def whole_results(out: Path) -> dict[str, bytes]:
    """The results in a folder; each must be recorded, and nothing half written may lie beside it."""
    assert not list(out.glob(".*")), list(out.glob(".*"))
    files = {path.name: path.read_bytes() for path in out.glob("*") if path.is_file()}
    manifest = json.loads(files.pop("image_manifest.json", b'{"outputs": {}}'))
    recorded = {Path(file).name for file in manifest["outputs"].values()}
    assert recorded == set(files), (recorded, set(files))
    return files


# --- workers ----------------------------------------------------------------------------------------------------

STAGES = {
    "one_pass": ("found", "cells"),
    "windows": ("found", "pixels", "components", "edges", "communities", "parts", "mass"),
}


def workers(options: argparse.Namespace) -> dict[str, Any]:
    """Kill a worker of a dask cluster when the first record of a stage is there; labels must be the same."""
    killed: dict[str, list[str]] = {}
    image = nuclei(600)
    for way, stages in STAGES.items():
        segmenter = CellSegmenter.pretrained().set_params(random_state=0, device="cpu", recognition=way)
        segmenter.set_params(n_jobs=1)
        expected = segmenter.consensus(image).cut(AbsoluteResolution(0.2)).labels
        for stage in stages:
            labels = with_a_kill(segmenter, image, options.scratch / f"{way}-{stage}", stage)
            np.testing.assert_array_equal(labels, expected)
            killed.setdefault(way, []).append(stage)
    return {"killed_in": killed}


def with_a_kill(segmenter: CellSegmenter, image: np.ndarray, folder: Path, stage: str) -> np.ndarray:
    """Labels by a cluster of two workers, one of which is killed."""
    import distributed

    shape = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**shape) as cluster, distributed.Client(cluster) as client:
        client.run(torch.set_num_threads, 1)
        killed = threading.Event()

        def kill_one() -> None:
            while not any(stage in path.name for path in folder.glob("*.npz")):
                time.sleep(0.002)
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
            killed.set()

        threading.Thread(target=kill_one, daemon=True).start()
        with joblib.parallel_config(backend="dask", n_jobs=-1):
            segmenter.set_params(n_jobs=None)
            consensus = segmenter.consensus(image, work_folder=folder)
            labels = consensus.cut(AbsoluteResolution(0.2)).labels[...]
        assert killed.wait(1), f"no worker was killed: there is no record of {stage}"
    return labels


MEASURES = {
    "memory": memory,
    "kill-fit": kill_fit,
    "kill-predict": kill_predict,
    "disk": disk,
    "workers": workers,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--predictions", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--steps", type=int, default=420, help="of the wake phase of a fit")
    parser.add_argument("--sleep-steps", type=int, default=60)
    parser.add_argument("--side", type=int, default=2000, help="px of the large image")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--scratch", type=Path, help="where files are put for a while")
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        options.scratch = Path(folder)
        found = MEASURES[options.what](options)
    keep_row(RESULTS, {"what": options.what}, found | {"seconds": round(time.perf_counter() - started)})


if __name__ == "__main__":
    main()
