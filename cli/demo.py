"""`cellseg demo`: the built-in model on the built-in image, compared with its annotation."""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import options
from .models import load_model
from .outputs import ENDINGS, check_outputs
from .results import Seen, describe


@click.command()
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    default=Path("cellseg-demo"),
    show_default=True,
    metavar="FOLDER",
    help="Where labels, table and overlay go.",
)
@options.running
def demo(output: Path, running: options.Running) -> None:
    """Segment a small built-in image of nuclei.

    Writes labels, table and overlay, and compares the labels with the image's annotation.
    """
    from cellsegmenter import io
    from cellsegmenter.datasets import load_nuclei
    from cellsegmenter.metrics import average_precision

    labels, table, overlay = (output / f"nuclei{ENDINGS[kind]}" for kind in ("labels", "table", "overlay"))
    check_outputs([labels, table, overlay], [])
    image, annotation = load_nuclei()
    segmenter = load_model(None).set_params(device=running.device)
    started = time.perf_counter()
    consensus = segmenter.consensus(image, random_state=running.seed)
    segmentation = consensus.cut()
    io.write_labels(labels, segmentation.labels)
    io.write_table(table, segmenter.table(segmentation, image))
    io.write_overlay(overlay, image, segmentation.labels)
    seen = Seen.of(consensus)
    running.say(describe(segmentation, seen, time.perf_counter() - started, given=False))
    precision = average_precision(annotation, segmentation.labels)
    running.say(f"  {annotation.max()} were annotated by hand; average precision at IoU 0.5: {precision:.2f}")
    for path in (labels, table, overlay):
        running.say(f"  wrote {path}")
