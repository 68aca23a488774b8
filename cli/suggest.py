"""`cellseg suggest`: the bounds that `cellseg fit` needs, proposed from the images themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, reporting
from .inputs import find_inputs
from .models import channel_axis
from .outputs import check_outputs
from .pasting import reading_words
from .series import choose_inputs, read_inputs

if TYPE_CHECKING:
    from cellsegmenter.suggest import SuggestedBounds


@click.command()
@click.argument("images", nargs=-1, required=True, type=options.FILE)
@click.option(
    "--picture",
    type=options.FILE,
    default=Path("counted.png"),
    show_default=True,
    metavar="FILE",
    help="A PNG of what was counted.",
)
@click.option(
    "--window-size",
    type=click.IntRange(min=32),
    default=80,
    show_default=True,
    metavar="PX",
    help="Side of a window.",
)
@options.learning_polarity
@click.option("--json", "as_json", is_flag=True, help="Print the bounds as JSON.")
@options.reading
def suggest(
    images: tuple[Path, ...],
    picture: Path,
    window_size: int,
    polarity: str | None,
    as_json: bool,
    reading: options.Reading,
) -> None:
    """Propose the bounds for `cellseg fit`, without labels.

    Counts objects by a threshold and cuts at necks, and prints ranges around what it counted, in the
    fit command that uses them. Look at the picture first: the bounds are as good as the outlines in it.
    """
    from cellsegmenter.counting_picture import write_counting_picture
    from cellsegmenter.suggest import suggest_bounds

    paths = find_inputs(images, reporting.note)
    check_outputs([picture], paths)
    files = [file for _, file in read_inputs(choose_inputs(paths, reading), reading)]
    suggested = suggest_bounds(
        [file.array for file in files],
        channel_axis=channel_axis(files[0]),
        window_size=window_size,
        **options.given(polarity=polarity),
    )
    write_counting_picture(picture, suggested)
    command = suggested.command([*images, *reading_words(reading)])
    if as_json:
        found = {"parameters": suggested.parameters, "noise_scale": suggested.noise_scale, "command": command}
        reporting.answer(json.dumps(found | {"notes": suggested.notes}, indent=2))
        return
    reporting.answer("\n".join(explained(suggested)))
    reporting.answer(f"  what was counted: {picture}\n\n{command}\n\n{suggested.constructor}")


def explained(suggested: SuggestedBounds) -> list[str]:
    """The proposal in sentences."""
    from cellsegmenter.wording import counted

    scale = suggested.scales[0]
    rescaled = ""
    if suggested.diameter == "auto":
        rescaled = " of an image that is rescaled to its own objects"
    elif suggested.diameter is not None:
        rescaled = f" of the image rescaled by {scale:.2g}"
    low, high = suggested.object_size
    least, most = (100 * fraction for fraction in suggested.area)
    return [
        f"counted {counted(suggested.n_objects, 'object')} in {counted(suggested.n_images, 'image')}, on average "
        f"{suggested.object_diameter:.1f} px across",
        f"  a window of {suggested.window_size} px{rescaled} holds {suggested.density[0]:g} to "
        f"{suggested.density[1]:g} objects, which cover {least:.2g} to {most:.2g} % of it",
        f"  bounding boxes have sides from {low} to {high} px{' there' if rescaled else ''}",
        f"  scale of the reconstruction error (sigma): {suggested.noise_scale:.3f}, as fit will estimate it",
        *(f"  note: {note}" for note in suggested.notes),
    ]
