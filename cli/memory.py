"""Large images: which folder holds what does not fit into memory, and whether it is kept."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import click

from . import options, reporting
from .outputs import Job

_LEAST_MEMORY = 2**29  # bytes, of Python and the networks
_LONGEST_STEM = 100  # bytes; a name that tells images apart follows
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Size(click.ParamType):
    """A number of bytes such as 500M or 4G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", value.strip(), re.IGNORECASE)
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is no size; write 500M or 4G.", param, ctx)
        return int(float(match[1]) * UNITS[match[2].upper()])


class Memory(NamedTuple):
    """How much memory there is, and the folder that replaces it."""

    max_memory: int  # bytes
    keep_graph: Path | None

    def warn_of_too_little(self) -> None:
        """Say so if no image can be done with as little memory."""
        if self.max_memory < _LEAST_MEMORY:
            reporting.warn(
                f"--max-memory {_in_words(self.max_memory)} cannot be kept: Python and the networks need about "
                f"{_in_words(_LEAST_MEMORY)} in any case; as much as possible is done on disk"
            )

    def options(self, job: Job, plane: int) -> dict[str, Any]:
        """What `CellSegmenter.consensus` has to know to work on one plane of an image."""
        name = job.manifest.stem.removesuffix("_manifest")
        if self.keep_graph is None:
            return {
                "work_folder": job.manifest.with_name(f"{name}-{plane}_work"),
                "max_memory": self.max_memory,
            }
        from cellsegmenter.store import short_hash

        # Named by the image and not by the result: another result of it has the same graph.  Images of one name may
        # come from several folders.
        stem = os.fsencode(job.image.stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
        place = str(job.image.resolve()) + ("" if job.series is None else f" {job.series}")
        name = f"{stem}-{short_hash(place)}-{plane}"
        return {"work_folder": self.keep_graph / name}

    def release(self, folder: Path | None) -> None:
        """Delete a folder that is not to be kept, once the results are written; None if memory did."""
        if folder is not None and self.keep_graph is None:
            shutil.rmtree(folder)


def _in_words(size: int) -> str:
    """A number of bytes as --max-memory takes it."""
    for unit in reversed(UNITS):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.3g}{unit}"
    return f"{size} bytes"


memory = options.as_one(
    "memory",
    Memory,
    click.option(
        "--max-memory",
        type=Size(),
        default="4G",
        show_default=True,
        metavar="SIZE",
        help="Images that need more are done piece by piece, in a folder beside the result that is deleted at "
        "the end; if the run is killed, the same command goes on.",
    ),
    click.option(
        "--keep-graph",
        type=options.FILE,
        metavar="FOLDER",
        help="Work piece by piece in this folder and keep it: another --gamma then needs no sampling.",
    ),
)
