"""`cellseg` in a process of its own, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import NamedTuple

__all__ = ["Cost", "run_cellseg"]

# The peak is the process's own.  What `wait4` and `getrusage` say of a child is at least what its parent held.
_PROGRAM = """
import json, re, sys
from pathlib import Path
from cellsegmenter_cli.main import cellseg
try:
    cellseg(sys.argv[1:])
finally:
    import resource
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(json.dumps([sum(one.ru_utime + one.ru_stime for one in used), peak / 1024]))
"""


class Cost(NamedTuple):
    """What a process took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float  # of its main process


def run_cellseg(*arguments: object) -> Cost:
    """Run the command line; Linux only, as its peak memory is read from /proc."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall = time.perf_counter() - started
    cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return Cost(cpu, wall, peak)
