"""Whether long runs hold: memory, kills, full disks, workers that die.

    OMP_NUM_THREADS=1 python benchmarks/reliability.py memory
    OMP_NUM_THREADS=1 python benchmarks/reliability.py kill-fit
    OMP_NUM_THREADS=1 python benchmarks/reliability.py kill-predict
    OMP_NUM_THREADS=1 python benchmarks/reliability.py disk --side 1200  # as root, to mount a small disk
    OMP_NUM_THREADS=1 python benchmarks/reliability.py workers

`memory` predicts small images again and again in one process.  `kill-fit` and `kill-predict` end `cellseg fit`, and
`cellseg predict` of a large image, by SIGKILL at random moments, start them again, and compare the bytes of what they
write with those of a run left alone; of a model all but its seconds.  `disk` predicts on disks of ever more
room, too small at first.  `workers` kills a worker of a dask cluster while it is at each stage.  Images are made up.
results/reliability.json has a row for each of them; anything that does not hold is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import tifffile
import torch
from safetensors import safe_open
from scoring import keep_row

from cellsegmenter import AbsoluteResolution, CellSegmenter
from cellsegmenter.datasets import make_nuclei

RESULTS = Path(__file__).parent / "results" / "reliability.json"
CELLSEG = [
    sys.executable,
    "-c",
    "import sys; from cellsegmenter_cli.main import cellseg; sys.exit(cellseg())",
]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
LARGEST_GROWTH = 0.05  # of the memory after the warm-up


def nuclei(side: int, random_state: int = 0, diameter: float = 16) -> np.ndarray:
    """A square of nuclei; beyond 1024 px it repeats itself."""
    tile = min(side, 1024)
    count = round(tile**2 / (2.7 * diameter**2))
    image = make_nuclei(
        1, size=tile, count=(count, count), diameter=diameter, random_state=random_state
    ).images[0]
    times = -(-side // tile)
    return (255 * np.clip(np.tile(image, (times, times))[:side, :side], 0, 1)).astype(np.uint8)


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


# --- kills ------------------------------------------------------------------------------------------------------


def run(command: list[str]) -> float:
    """Run a command to its end; its CPU seconds."""
    process = subprocess.Popen(command, **QUIET)
    seconds = 0.0
    while process.poll() is None:
        seconds = cpu_seconds(process) or seconds
        time.sleep(0.02)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return seconds


def cpu_seconds(process: subprocess.Popen) -> float | None:
    """What a process has used so far; None if it has ended.  Of a busy machine it says more than a clock."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def killed(command: list[str], seconds: float, stage: Callable[[], str]) -> str | None:
    """Run a command and kill it after so many CPU seconds: how far it was; None if it had finished."""
    process = subprocess.Popen(command, **QUIET)
    while process.poll() is None:
        if (cpu_seconds(process) or 0) >= seconds:
            reached = stage()
            process.send_signal(signal.SIGKILL)
            process.wait()
            return reached
        time.sleep(0.005)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return None


def contents(paths: list[Path]) -> list[bytes]:
    """The bytes of files; those of a model without the seconds that its training took."""
    return [model_bytes(path) if path.suffix == ".safetensors" else path.read_bytes() for path in paths]


def model_bytes(path: Path) -> bytes:
    with safe_open(path, framework="np") as file:
        description = json.loads(file.metadata()["description"])
        tensors = [file.get_tensor(name).tobytes() for name in sorted(file.keys())]
    assert "recognition" in description, "there was no sleep phase: too few objects are confident"
    for name in ("card_", "history_", "recognition_history_"):
        description[name].pop("seconds")
    return b"".join([json.dumps(description).encode(), *tensors])


def killed_and_resumed(
    command: list[str],
    results: list[Path],
    state: list[Path],
    stage: Callable[[], str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Kill a command at random moments, each time starting it again; its results must be those of a run left alone.

    Parameters
    ----------
    command : list of str
    results, state : list of Path
        Files, deleted before every new run; the results are compared.
    stage : callable
        Says how far the run has come.
    """
    draw = random.Random(options.seed)
    seconds = run(command)
    expected = contents(results)
    stages: dict[str, int] = {}
    resumed_runs = 0
    while sum(stages.values()) < options.kills:
        for path in (*results, *state):
            path.unlink(missing_ok=True)
        reached: str | None = ""
        while reached is not None and sum(stages.values()) < options.kills:
            reached = killed(command, draw.uniform(0.25, 0.95) * seconds, stage)
            if reached is not None:
                stages[reached] = stages.get(reached, 0) + 1
                print(f"killed: {reached}", file=sys.stderr)
        if reached is not None:
            run(command)
        assert contents(results) == expected, "the results of a run that was killed differ"
        resumed_runs += 1
    return {"killed_while": stages, "runs": resumed_runs, "cpu_seconds_of_a_run": round(seconds, 1)}


def kill_fit(options: argparse.Namespace) -> dict[str, Any]:
    """`cellseg fit`, in its wake and its sleep phase."""
    folder = options.scratch
    images = [folder / f"{number}.tif" for number in range(3)]
    for number, path in enumerate(images):
        tifffile.imwrite(path, nuclei(160, number, 10))
    model, checkpoint = folder / "model.safetensors", folder / "run.pt"
    sleep = folder / "run-sleep.pt"
    bounds = "--density 3 8 --area 0.15 0.5 --object-size 6 16 --window-size 48 --shape blob --network small"
    how = f"--steps {options.steps} --batch-size 2 --recognition-steps {options.sleep_steps} --recognition one_pass"
    command = [*CELLSEG, "fit", *map(str, images), "-o", str(model), "--checkpoint", str(checkpoint)]
    command += [*bounds.split(), *how.split(), "--device", "cpu"]

    def stage() -> str:
        if not checkpoint.exists():
            return "before the first checkpoint"
        step = torch.load(checkpoint, map_location="cpu", weights_only=True)["step"]
        return "wake phase" if step < options.steps else "sleep phase"

    return killed_and_resumed(command, [model], [checkpoint, sleep], stage, options)


def kill_predict(options: argparse.Namespace) -> dict[str, Any]:
    """`cellseg predict` of an image that has a work folder."""
    folder = options.scratch
    image = folder / "image.tif"
    tifffile.imwrite(image, nuclei(options.side))
    results = [folder / f"image_{ending}" for ending in ("labels.tif", "cells.csv", "overlay.png")]
    command = [*CELLSEG, "predict", str(image), "--max-memory", "1M", "--save", "labels,table,overlay"]

    def stage() -> str:
        records = sorted((folder / "image-0_work").glob("[!.]*.np*"), key=lambda path: path.stat().st_mtime)
        if not records:
            return "before the first block"
        return f"at {records[-1].name.split('-')[0].removesuffix('.npy')}"

    return killed_and_resumed([*command, "--device", "cpu"], results, [], stage, options)


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
