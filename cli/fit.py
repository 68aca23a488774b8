"""`cellseg fit`: learns a model from images without labels."""

from __future__ import annotations

import time
from pathlib import Path

import click

from . import options
from .models import channel_axis
from .outputs import check_outputs


def bounds(name: str, kind: type, text: str) -> options.Option:
    """An option that takes two numbers, the lower and the upper bound."""
    return click.option(name, type=kind, nargs=2, metavar="LO HI", help=text)


@click.command()
@click.argument("images", nargs=-1, required=True, type=options.FILE)
@click.option(
    "-o", "--output", type=options.FILE, required=True, metavar="FILE", help="The model, NAME.safetensors."
)
@bounds("--density", float, "About how many objects a window holds.  [default: 5 10]")
@bounds("--area", float, "About which fraction of the image they cover.  [default: 0.10 0.15]")
@bounds("--object-size", float, "Sides of the smallest and largest bounding box in pixels.  [default: 8 28]")
@click.option(
    "--window-size", type=click.IntRange(min=1), metavar="PX", help="Side of a window.  [default: 80]"
)
@click.option(
    "--max-objects", type=click.IntRange(min=1), metavar="N", help="The most objects a window can hold."
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Training steps at most.")
@click.option("--batch-size", type=click.IntRange(min=2), metavar="N", help="Windows in a training step.")
@click.option(
    "--checkpoint", type=options.FILE, metavar="FILE", help="Save the state of the training here as it goes."
)
@options.diameter
@options.reading
@options.running
def fit(
    images: tuple[Path, ...],
    output: Path,
    density: tuple[float, float] | None,
    area: tuple[float, float] | None,
    object_size: tuple[float, float] | None,
    window_size: int | None,
    max_objects: int | None,
    steps: int | None,
    batch_size: int | None,
    checkpoint: Path | None,
    diameter: float | str | None,
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Learn a model from images without labels.

    Density, area and object size are crude estimates of what a window holds; they need not be exact.
    """
    from cellsegmenter import CellSegmenter, io

    paths = io.expand_inputs(images)
    check_outputs([output] if checkpoint is None else [output, checkpoint], paths)
    started = time.perf_counter()
    files = []
    for path in paths:
        for file in reading.images(path):
            running.say(f"{path}: {file.interpretation}")
            files.append(file)
    segmenter = CellSegmenter(
        **options.given(
            density=density,
            area=area,
            object_size=object_size,
            window_size=window_size,
            max_objects=max_objects,
            n_steps=steps,
            batch_size=batch_size,
            checkpoint=checkpoint,
            diameter=diameter,
        ),
        channel_axis=channel_axis(files[0]),
        device=running.device,
        random_state=running.seed,
        verbose=not running.quiet,
    )
    segmenter.fit([file.array for file in files]).save(output)
    running.say(f"trained in {time.perf_counter() - started:.0f} s; wrote {output}")
