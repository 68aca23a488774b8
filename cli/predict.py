"""`cellseg predict`: images in; label images, tables and what other programs open out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from . import options
from .batch import run_batch
from .inputs import find_inputs
from .masks import mask, masks_of
from .memory import Memory, memory
from .models import load_model
from .outputs import Kinds, Target, TargetPath, check_outputs, check_packages, plan
from .results import stack
from .series import choose_inputs
from .work import Cutting, Work

EXIT_CODES = (
    "Exit codes: 0 all done; 1 the image, the model or a value does not fit; 2 an option is unknown or ill-formed; "
    "3 of several images some failed, which are listed."
)


class Saving(NamedTuple):
    """What is written, and where to."""

    output: Target | None
    save: tuple[str, ...]
    table: Path | None
    overlay: Target | None


saving = options.as_one(
    "saving",
    Saving,
    click.option(
        "-o",
        "--output",
        type=TargetPath(),
        help="Label image (TIFF), or the folder for all results; what ends in / is a folder. Images from several "
        "folders go to folders of the same names in it.  [default: beside each image]",
    ),
    click.option(
        "--save",
        type=Kinds(),
        default="labels",
        show_default=True,
        metavar="KIND,...",
        help="What to save of each image: labels; table (CSV), parquet, anndata (for scanpy); overlay (PNG); "
        "geojson (QuPath); rois (Fiji); ome-zarr; maps (foreground, confidence).",
    ),
    click.option(
        "--table",
        type=options.FILE,
        help="One table of all images, one row per object: .csv, .parquet or .h5ad (AnnData).",
    ),
    click.option(
        "--overlay", type=TargetPath(), help="Write a PNG of the outlines on the image, or a folder of them."
    ),
)


cutting = options.as_one(
    "cutting",
    Cutting,
    click.option(
        "--gamma",
        type=options.NumberOr("auto"),
        metavar="G|auto",
        help="Resolution as published, relative to the whole image: larger splits more.  "
        "[default: the model's own]",
    ),
    click.option(
        "--gamma-abs",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="X",
        help="Resolution as a threshold in 0..1, which carries over from a crop to the whole image.",
    ),
    click.option(
        "--method",
        type=click.Choice(["cpm", "rb"]),
        default="cpm",
        show_default=True,
        help="Community model.",
    ),
    click.option(
        "--min-size", type=click.IntRange(min=1), metavar="PX", help="Drop objects with fewer pixels."
    ),
    options.samples,
    options.stride,
    options.diameter,
    options.polarity,
    options.recognition,
)


@click.command(epilog=EXIT_CODES)
@click.argument("images", nargs=-1, required=True, type=options.FILE)
@options.model
@mask
@saving
@click.option("--skip-existing", is_flag=True, help="Leave images alone whose results are all there.")
@click.option("--dry-run", is_flag=True, help="Say how files are understood and what would be written.")
@cutting
@click.option(
    "--jobs",
    "n_jobs",
    type=int,
    metavar="N",
    help="Processes for sampling and consensus; -1 for one per core.",
)
@memory
@options.measured_reading
@options.running
def predict(
    images: tuple[Path, ...],
    model: Path | None,
    mask: Path | None,
    saving: Saving,
    skip_existing: bool,
    dry_run: bool,
    n_jobs: int | None,
    cutting: Cutting,
    memory: Memory,
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Segment images: TIFF, PNG, JPEG, NPY, OME-Zarr, CZI or ND2, or folders or "patterns*" of them.

    Writes NAME_labels.tif beside each image unless -o or --save say otherwise: 0 is background, 1..n are the
    objects. NAME_manifest.json records how they were made.
    """
    if cutting.gamma is not None and cutting.gamma_abs is not None:
        raise click.UsageError("Give --gamma or --gamma-abs, not both.")
    from cellsegmenter import io

    memory.warn_of_too_little()
    inputs = find_inputs(images, running.say)
    chosen = choose_inputs(inputs, reading)
    masks = masks_of(mask, chosen)
    jobs = plan(chosen, saving.output, saving.save, saving.overlay)
    jobs = [job._replace(mask=of_job) for job, of_job in zip(jobs, masks, strict=True)]
    table = saving.table
    if table is not None:
        io.check_table_path(table)
        if skip_existing and len(jobs) > 1:
            raise click.UsageError(
                "--table would miss the images that --skip-existing leaves alone; use --save table."
            )
    outputs = [path for job in jobs for path in job.outputs] + ([table] if table else [])
    check_outputs(outputs, [*inputs, *filter(None, [model, *masks])])
    check_packages(saving.save)
    segmenter = load_model(model).set_params(
        device=running.device,
        verbose=not running.quiet and len(jobs) == 1,
        **options.parameters(
            n_jobs=n_jobs,
            diameter=cutting.diameter,
            polarity=cutting.polarity,
            recognition=cutting.recognition,
        ),
    )
    work = Work(
        segmenter,
        cutting,
        reading,
        running,
        model,
        memory,
        skip_existing=skip_existing,
        keep_tables=table is not None,
    )
    if dry_run:
        run_batch(jobs, work.preview, running, done="understood")
        return
    try:
        run_batch(jobs, work.segment, running)
    finally:
        if table is not None and work.tables:
            io.write_table(table, stack(work.tables))
            running.say(f"  wrote {table}")
