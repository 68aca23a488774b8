"""`cellseg tune`: a page on which the resolution is chosen by eye, on a region of a large image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click

from . import options, reporting
from .masks import mask, masked, masks_of
from .models import load_model, take_channels
from .outputs import check_outputs
from .pasting import reading_words
from .series import choose_inputs, read_inputs

# A larger region makes a page that browsers show slowly.
LARGEST_SIDE = 2048  # px
DEFAULT_SIDE = 512  # px


class Sampling(NamedTuple):
    """How the image is seen and sampled; what is None is left to the model."""

    samples: int | None
    stride: int | None
    diameter: float | str | tuple[float, ...] | None
    polarity: str | None
    recognition: str | None

    @property
    def seeing(self) -> dict[str, Any]:
        """Those that are the estimator's parameters of the same names."""
        return {name: value for name, value in self._asdict().items() if name != "samples"}


sampling = options.as_one(
    "sampling",
    Sampling,
    options.samples,
    options.stride,
    options.diameter,
    options.polarity,
    options.recognition,
)


@click.command()
@click.argument("image", type=options.FILE)
@click.option(
    "--region",
    type=int,
    nargs=4,
    metavar="ROW COLUMN HEIGHT WIDTH",
    help=f"The part to look at, px.  [default: the middle, up to {DEFAULT_SIDE} × {DEFAULT_SIDE}]",
)
@click.option(
    "-o",
    "--output",
    type=options.FILE,
    default=Path("tune.html"),
    show_default=True,
    metavar="FILE",
    help="The page; it needs nothing beside it.",
)
@options.model
@mask
@sampling
@options.reading
@options.running
def tune(
    image: Path,
    region: tuple[int, int, int, int] | None,
    output: Path,
    model: Path | None,
    mask: Path | None,
    sampling: Sampling,
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Choose the resolution by eye.

    Cuts a region of IMAGE at some twenty resolutions and writes one HTML page: move the slider, and the page says
    which `cellseg predict` command applies what you see to the whole image.
    """
    from cellsegmenter.files import pasteable, text_of
    from cellsegmenter.tuning import write_tuning_page
    from cellsegmenter.tuning.page import GAMMA_PLACE
    from cellsegmenter.wording import counted

    check_outputs([output], [image])
    inputs = choose_inputs([image], reading)
    files = [file for _, file in read_inputs(inputs, reading)]
    if len(files) != 1:
        raise click.UsageError(
            f"{image} holds {counted(len(files), 'image')}; choose one of them by --series, --z, --t or --page."
        )
    file = files[0]
    running.say(f"{image}: {file.interpretation}")
    place = middle(file.array.shape[-2:]) if region is None else region
    if max(place[2:]) > LARGEST_SIDE:
        raise click.UsageError(
            f"--region may be {LARGEST_SIDE} px high and wide; {place[2]} × {place[3]} is more."
        )
    segmenter = load_model(model).set_params(
        device=running.device,
        verbose=not running.quiet,
        random_state=running.seed,
        **options.parameters(n_samples=sampling.samples, **sampling.seeing),
    )
    take_channels(segmenter, file, image)
    (of_image,) = masks_of(mask, inputs)
    pixels = masked(file.array, of_image)
    with reporting.warnings_about(str(image)):
        sweep = segmenter.sweep(pixels, region=place)
    seed = running.seed or None  # 0 is what predict takes by default too
    shown = options.given(model=model, mask=mask, **sampling._asdict(), seed=seed)
    words = [word for name, value in shown.items() for word in (f"--{name}", options.word(value))]
    command = ["cellseg", "predict", image, *words, *reading_words(reading), "--gamma-abs", GAMMA_PLACE]
    used = "the built-in model" if model is None else text_of(model.name)
    subtitle = (
        f"{text_of(image.name)}, rows {place[0]} to {place[0] + place[2]} and columns {place[1]} to "
        f"{place[1] + place[3]}, cut at {len(sweep.cuts)} resolutions with {used}"
    )
    write_tuning_page(output, sweep, command=pasteable(command), subtitle=subtitle)
    best = sweep.cuts[sweep.automatic]
    if any(cut.n_objects for cut in sweep.cuts):
        running.say(
            f"  {counted(best.n_objects, 'object')} at γ_abs = {best.absolute:.3g}, the automatic choice"
        )
    else:
        reporting.warn("nothing is found in this region at any resolution; choose another by --region")
    running.say(f"  wrote {output}")


def middle(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The region that is looked at by default."""
    height, width = (min(int(side), DEFAULT_SIDE) for side in shape)
    return (int(shape[0]) - height) // 2, (int(shape[1]) - width) // 2, height, width
