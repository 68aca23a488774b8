"""`cellseg predict`: images in; label images, a table and overlays out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .models import channel_axis, load_model
from .outputs import check_outputs, describe, plan, stack, write_results

if TYPE_CHECKING:
    from cellsegmenter.consensus import ResolutionError

    from .outputs import Table


class Refusal(click.ClickException):
    """Why a --gamma does not suit an image, and which value does."""

    exit_code = 2  # as for other options that cannot be used as given

    def __init__(self, image: Path, error: ResolutionError) -> None:
        fits = error.suggestion
        super().__init__(
            f"this --gamma leaves no object in {image}: it is relative to the size of the image. Use --gamma "
            f"{fits.gamma:.3g} here, or --gamma-abs {fits.absolute:.3g}, which carries over to other images."
        )


@click.command()
@click.argument("images", nargs=-1, required=True, type=options.FILE)
@click.option(
    "--model", type=options.FILE, help="A model file of `cellseg fit`.  [default: the built-in nuclei model]"
)
@click.option(
    "-o", "--output", type=options.FILE, help="Label image (TIFF), or a folder.  [default: IMAGE_labels.tif]"
)
@click.option(
    "--table", type=options.FILE, help="Write one CSV row per object: place, size, confidence, latent code."
)
@click.option(
    "--overlay", type=options.FILE, help="Write a PNG of the outlines on the image, or a folder of them."
)
@click.option(
    "--gamma",
    type=options.NumberOrAuto(),
    metavar="G|auto",
    help="Resolution as published, relative to the whole image: larger splits more.  [default: the model's own]",
)
@click.option(
    "--gamma-abs",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="Resolution as a threshold in 0..1, which carries over from a crop to the whole image.",
)
@click.option(
    "--method", type=click.Choice(["cpm", "rb"]), default="cpm", show_default=True, help="Community model."
)
@click.option("--min-size", type=click.IntRange(min=1), metavar="PX", help="Drop objects with fewer pixels.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Posterior samples to agree on.")
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Step between windows; a divisor of their size.",
)
@click.option(
    "--jobs", "n_jobs", type=int, metavar="N", help="Processes for the consensus; -1 for one per core."
)
@options.diameter
@options.reading
@options.running
def predict(
    images: tuple[Path, ...],
    model: Path | None,
    output: Path | None,
    table: Path | None,
    overlay: Path | None,
    gamma: float | str | None,
    gamma_abs: float | None,
    method: str,
    min_size: int | None,
    samples: int | None,
    stride: int | None,
    n_jobs: int | None,
    diameter: float | str | None,
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Segment images: TIFF, PNG, NPY or OME-Zarr, or folders of them.

    Writes NAME_labels.tif beside each image unless -o says otherwise: 0 is background, 1..n are the objects.
    """
    if gamma is not None and gamma_abs is not None:
        raise click.UsageError("Give --gamma or --gamma-abs, not both.")
    from cellsegmenter import io
    from cellsegmenter.consensus import AbsoluteResolution, ResolutionError

    inputs = io.expand_inputs(images)
    jobs = plan(inputs, output, overlay)
    outputs = [path for job in jobs for path in job.outputs] + ([table] if table else [])
    check_outputs(outputs, inputs if model is None else [*inputs, model])
    segmenter = load_model(model).set_params(
        device=running.device, verbose=not running.quiet, **options.given(n_jobs=n_jobs)
    )
    resolution = AbsoluteResolution(gamma_abs) if gamma_abs is not None else gamma
    settings = options.given(n_samples=samples, stride=stride, diameter=diameter, random_state=running.seed)
    tables: list[Table] = []
    for job in jobs:
        started = time.perf_counter()
        image = reading.images(job.image)[0]
        running.say(f"{job.image}: {image.interpretation}")
        segmenter.set_params(channel_axis=channel_axis(image))
        consensus = segmenter.consensus(image.array, **settings)
        try:
            segmentation = consensus.cut(resolution, method=method, **options.given(min_size=min_size))
        except ResolutionError as error:
            raise Refusal(job.image, error) from error
        tables.append(write_results(job, image.array, segmentation, segmenter))
        running.say(describe(segmentation, time.perf_counter() - started))
        running.say("\n".join(f"  wrote {path}" for path in job.outputs))
    if table is not None:
        io.write_table(table, stack(tables))
        running.say(f"  wrote {table}")
