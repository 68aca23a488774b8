"""Large images: which folder holds what does not fit into memory, and whether it is kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import click

from . import options
from .outputs import Job

# What `predict` holds in memory without a folder, 16 views of each pixel: 4.2 GiB for the 17 megapixels of
# benchmarks/mosaic.py.
BYTES_PER_PIXEL = 250
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

    def folder(self, job: Job, pixels: Any, plane: int, n_samples: int) -> Path | None:
        """The work folder of one plane of an image; None if memory will do."""
        name = f"{job.manifest.stem.removesuffix('_manifest')}-{plane}"
        if self.keep_graph is not None:
            return self.keep_graph / name
        height, width = pixels.shape[-2:]
        if height * width * BYTES_PER_PIXEL * n_samples <= self.max_memory:
            return None
        return job.manifest.with_name(f"{name}_work")

    def release(self, folder: Path | None) -> None:
        """Delete a folder that is not to be kept, once the results are written."""
        if folder is not None and self.keep_graph is None:
            shutil.rmtree(folder)


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
