"""`cellseg report`: how a model was trained and what it learnt, as one page."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .inputs import find_inputs
from .models import channel_axis, load_model
from .outputs import check_outputs
from .series import choose_inputs, read_inputs


@click.command()
@click.argument("model", required=False, type=options.FILE)
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="The page; it needs nothing beside it.",
)
@click.option(
    "--images",
    type=options.FILE,
    multiple=True,
    metavar="IMAGE",
    help="Show windows of these; may be repeated.",
)
@options.reading
@options.running
def report(
    model: Path | None,
    output: Path,
    images: tuple[Path, ...],
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Write a report of a model: curves, samples, card and warnings.

    MODEL is a file of `cellseg fit`; without it the report is of the built-in model.
    """
    from cellsegmenter.files import text_of
    from cellsegmenter.report import write_report

    paths = find_inputs(images, running.say)
    check_outputs([output], paths if model is None else [*paths, model])
    files = [file for _, file in read_inputs(choose_inputs(paths, reading), reading)]
    segmenter = load_model(model).set_params(device=running.device, random_state=running.seed)
    if files:
        segmenter.set_params(channel_axis=channel_axis(files[0]))
    title = "The built-in nuclei model" if model is None else text_of(model.stem)
    write_report(output, segmenter, images=[file.array for file in files], title=title)
    running.say(f"wrote {output}")
