"""Ending `cellseg` at random moments: what a run has written must let the same command go on to the same result."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tifffile
import torch
from safetensors import safe_open
from subjects import CELLSEG, QUIET, cpu_seconds, nuclei, run


def killed(command: list[str], wanted: str, delay: float, stage: Callable[[], str]) -> str | None:
    """Run a command and kill it some CPU seconds after it came to a stage: how far it was; None if it had finished."""
    process = subprocess.Popen(command, **QUIET)
    came: float | None = None
    while process.poll() is None:
        seconds = cpu_seconds(process) or 0
        if came is None and stage() == wanted:
            came = seconds
        if came is not None and seconds >= came + delay:
            reached = stage()
            process.send_signal(signal.SIGKILL)
            process.wait()
            return reached
        time.sleep(0.02)
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
    """Kill a command at random moments of each stage, starting it again; its results must be those of a run left alone.

    Parameters
    ----------
    command : list of str
    results, state : list of Path
        Files, deleted before every new run; the results are compared.
    stage : callable
        Says how far the run has come; in its first stage there is nothing yet to go on from, and no kill.
    """
    draw = random.Random(options.seed)
    begins: dict[str, float] = {}
    seconds = run(command, lambda passed: begins.setdefault(stage(), passed))
    expected = contents(results)
    ends = [*begins.values(), seconds][1:]
    lengths = {name: end - begin for (name, begin), end in zip(begins.items(), ends, strict=True)}
    kills: dict[str, int] = {}
    resumed_runs = 0
    while sum(kills.values()) < options.kills:
        for path in (*results, *state):
            path.unlink(missing_ok=True)
        for wanted in list(lengths)[1:][: options.kills - sum(kills.values())]:
            reached = killed(command, wanted, draw.uniform(0, lengths[wanted]), stage)
            if reached is None:  # a run that goes on can be done sooner
                break
            kills[reached] = kills.get(reached, 0) + 1
            print(f"killed: {reached}", file=sys.stderr)
        else:
            run(command)
        assert contents(results) == expected, "the results of a run that was killed differ"
        resumed_runs += 1
    return {"killed_while": kills, "runs": resumed_runs, "cpu_seconds_of_a_run": round(seconds, 1)}


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
