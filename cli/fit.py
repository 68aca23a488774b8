"""`cellseg fit`: learns a model from images without labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from . import options
from .inputs import find_inputs
from .masks import mask, masked, masks_of
from .models import BUILT_IN, channel_axis, load_model
from .outputs import check_outputs
from .series import choose_inputs, read_inputs


class Training(NamedTuple):
    """What is learned and how; what is None is left to the package."""

    density: tuple[float, float] | None
    area: tuple[float, float] | None
    object_size: tuple[float, float] | None
    window_size: int | None
    max_objects: int | None
    network: str | None
    shape: str | None
    appearance: str | None
    overlap_threshold: float | None
    overlap_penalty: float | None
    noise_scale: float | None
    augment: bool | None
    n_steps: int | None
    batch_size: int | None
    learning_rate: float | None
    diameter: float | str | tuple[float, ...] | None
    polarity: str | None
    recognition: str | None
    recognition_steps: int | None
    checkpoint: Path | None
    tensorboard: Path | None


def bounds(name: str, text: str) -> options.Option:
    """An option that takes two numbers, the lower and the upper bound."""
    return click.option(name, type=float, nargs=2, metavar="LO HI", help=text)


training = options.as_one(
    "training",
    Training,
    bounds("--density", "About how many objects a window holds.  [default: 5 10]"),
    bounds("--area", "About which fraction of the image they cover.  [default: 0.10 0.15]"),
    bounds("--object-size", "Sides of the smallest and largest bounding box in pixels.  [default: 8 28]"),
    click.option(
        "--window-size", type=click.IntRange(min=1), metavar="PX", help="Side of a window.  [default: 80]"
    ),
    click.option(
        "--max-objects", type=click.IntRange(min=1), metavar="N", help="The most objects a window can hold."
    ),
    click.option(
        "--network",
        type=click.Choice(["auto", "small", "reference"]),
        help="The paper's sizes, or smaller ones that suit a CPU; auto takes the paper's on a GPU.  [default: auto]",
    ),
    click.option(
        "--shape",
        type=click.Choice(["auto", "blob", "free"]),
        help="Whether a mask is one smooth blob or of any form; auto looks at the objects.  [default: auto]",
    ),
    click.option(
        "--appearance",
        type=click.Choice(["smooth", "free"]),
        help="Whether an object's intensities are a level and a tilt, or free pixels.  [default: smooth]",
    ),
    click.option(
        "--overlap-threshold",
        type=click.FloatRange(0, 1),
        metavar="ALPHA",
        help="The largest overlap of two objects' boxes, as a fraction of the smaller.",
    ),
    click.option(
        "--overlap-penalty",
        type=click.FloatRange(min=0),
        metavar="X",
        help="Weight of the overlap of masks in the loss.  [default: 0]",
    ),
    click.option(
        "--noise-scale",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SIGMA",
        help="Scale of the reconstruction error.  [default: estimated from the images]",
    ),
    click.option(
        "--augment/--no-augment",
        default=None,
        help="Train on random flips and quarter turns, too.  [default: no]",
    ),
    click.option(
        "--steps", "n_steps", type=click.IntRange(min=1), metavar="N", help="Training steps at most."
    ),
    click.option("--batch-size", type=click.IntRange(min=2), metavar="N", help="Windows in a training step."),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="The highest of the training.  [default: 0.005 for the small network, 0.002 for the reference; a fifth "
        "with --start-from]",
    ),
    options.diameter,
    options.learning_polarity,
    options.recognition,
    click.option(
        "--recognition-steps",
        type=click.IntRange(min=1),
        metavar="N",
        help="Steps of the sleep phase.  [default: 1400, or --steps if these are fewer]",
    ),
    click.option(
        "--checkpoint",
        type=options.FILE,
        metavar="FILE",
        help="Save the state of the training here as it goes.",
    ),
    click.option(
        "--tensorboard",
        type=options.FILE,
        metavar="FOLDER",
        help="Write the history here as it goes, to be watched with TensorBoard.",
    ),
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=options.FILE)
@click.option(
    "-o", "--output", type=options.FILE, required=True, metavar="FILE", help="The model, NAME.safetensors."
)
@click.option(
    "--start-from",
    type=options.FILE,
    metavar="FILE|nuclei",
    help="Go on from this model, or from the built-in one, with its bounds where none are given.",
)
@mask
@training
@options.reading
@options.running
def fit(
    images: tuple[Path, ...],
    output: Path,
    start_from: Path | None,
    mask: Path | None,
    training: Training,
    reading: options.Reading,
    running: options.Running,
) -> None:
    """Learn a model from images without labels.

    Density, area and object size are crude estimates of what a window holds; they need not be exact.
    """
    from cellsegmenter import CellSegmenter

    if output.suffix != ".safetensors":
        raise click.UsageError(f"{output} is a model and must end in .safetensors.")
    segmenter = CellSegmenter()
    if start_from is not None:
        segmenter = load_model(None if start_from == BUILT_IN else start_from).set_params(warm_start=True)
    paths = find_inputs(images, running.say)
    chosen = choose_inputs(paths, reading)
    masks = dict(zip(chosen, masks_of(mask, chosen), strict=True))
    check_outputs([output, *checkpoints(training.checkpoint)], [*paths, *filter(None, masks.values())])
    started = time.perf_counter()
    files = list(read_inputs(chosen, reading))
    for line in understood((image.path, file.interpretation) for image, file in files):
        running.say(line)
    segmenter.set_params(
        **options.parameters(**training._asdict()),
        channel_axis=channel_axis(files[0][1]),
        device=running.device,
        random_state=running.seed,
        verbose=not running.quiet,
    )
    if training.checkpoint is not None and training.checkpoint.exists():
        running.say(f"going on with the training in {training.checkpoint}")
    segmenter.fit([masked(file.array, masks[image]) for image, file in files]).save(output)
    running.say(f"trained in {time.perf_counter() - started:.0f} s; wrote {output}")


def checkpoints(path: Path | None) -> list[Path]:
    """The files that keep the state of a training and of its sleep phase."""
    from cellsegmenter.learning import sleep_checkpoint

    return [] if path is None else [path, sleep_checkpoint(path)]


def understood(interpretations: Iterable[tuple[Path, str]]) -> Iterator[str]:
    """How files were read, one line for all that were read alike: of hundreds nobody would see the odd one."""
    alike: dict[str, list[Path]] = {}
    for path, words in interpretations:
        alike.setdefault(words, []).append(path)
    for words, paths in alike.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield f"{paths[0]}{more}: {words}"
