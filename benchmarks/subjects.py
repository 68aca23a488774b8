"""What measurements of reliability run: `cellseg` as a command, on made-up images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cellsegmenter.datasets import make_nuclei

CELLSEG = [
    sys.executable,
    "-c",
    "import sys; from cellsegmenter_cli.main import cellseg; sys.exit(cellseg())",
]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def nuclei(side: int, random_state: int = 0, diameter: float = 16) -> np.ndarray:
    """A square of nuclei; beyond 1024 px it repeats itself."""
    tile = min(side, 1024)
    count = round(tile**2 / (2.7 * diameter**2))
    image = make_nuclei(
        1, size=tile, count=(count, count), diameter=diameter, random_state=random_state
    ).images[0]
    times = -(-side // tile)
    return (255 * np.clip(np.tile(image, (times, times))[:side, :side], 0, 1)).astype(np.uint8)


def run(command: list[str], watch: Callable[[float], object] = lambda seconds: None) -> float:
    """Run a command to its end; its CPU seconds, of which `watch` is told as they pass."""
    process = subprocess.Popen(command, **QUIET)
    seconds = 0.0
    while process.poll() is None:
        seconds = cpu_seconds(process) or seconds
        watch(seconds)
        time.sleep(0.1)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return seconds


def cpu_seconds(process: subprocess.Popen) -> float | None:
    """What a process has used so far; None if it has ended.  Of a busy machine it says more than a clock."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
