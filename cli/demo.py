"""`cellseg demo`: the built-in model on the built-in image, compared with its annotation."""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import options
from .models import load_model
from .outputs import Job, describe, write_results


@click.command()
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    default=Path("cellseg-demo"),
    show_default=True,
    metavar="FOLDER",
    help="Where the image, labels, table and overlay go.",
)
@options.running
def demo(output: Path, device: str, seed: int, quiet: bool) -> None:
    """Segment a small image of nuclei that comes with the package; takes less than a minute."""
    from cellsegmenter import io
    from cellsegmenter.datasets import load_nuclei

    job = Job(image=output / "nuclei.tif", labels=output / "nuclei_labels.tif", overlay=output / "nuclei_overlay.png")
    table = output / "nuclei.csv"
    for path in [*job.outputs, table]:
        io.check_writable(path)
    image, annotation = load_nuclei()
    segmenter = load_model(None, device)
    started = time.perf_counter()
    segmentation = segmenter.consensus(image, random_state=seed).cut()
    options.say(describe(segmentation, time.perf_counter() - started), quiet)
    io.write_table(table, write_results(job, image, segmentation, segmenter))
