"""Options and arguments that several commands share, and the values that they reach a command as."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from . import reporting

if TYPE_CHECKING:
    from cellsegmenter.io import ImageStack

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Any], Any]
FILE = click.Path(path_type=Path)


def together(*decorators: Option) -> Option:
    """Several options as one decorator, listed by `--help` in the order given."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def as_one(name: str, kind: Any, *decorators: Option) -> Option:
    """Several options that reach the command as one value of `kind`, a NamedTuple, under `name`; what the command
    does not offer keeps the default of `kind`.
    """

    def decorate(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def with_one_value(*args: Any, **values: Any) -> Any:
            fields = {field: values.pop(field) for field in kind._fields if field in values}
            return command(*args, **values, **{name: kind(**fields)})

        return together(*decorators)(with_one_value)

    return decorate


class NumberOr(click.ParamType):
    """A positive number, or one of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.name = "|".join(("number", *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value in self.words:
            return str(value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            words = " nor ".join(map(repr, self.words))
            self.fail(f"{value!r} is neither a number nor {words}.", param, ctx)
        if not 0 < number < float("inf"):
            self.fail(f"{value} must be positive and finite.", param, ctx)
        return number


class NumbersOr(click.ParamType):
    """A positive number, several with commas between them, or one of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.one = NumberOr(*words)
        self.name = self.one.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str | tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) == 1:
            return self.one.convert(value, param, ctx)
        if set(self.words) & set(parts):
            self.fail(f"{value!r} mixes numbers and words; give one or the other.", param, ctx)
        return tuple(float(self.one.convert(part, param, ctx)) for part in parts)


class PositionOrAll(click.ParamType):
    """A position on an axis, counted from 0, or the word `all`."""

    name = "number|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "all":
            return "all"
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a whole number nor 'all'.", param, ctx)


class NumberOrWord(click.ParamType):
    """A whole number, or any word."""

    name = "number|word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        try:
            return int(value)
        except ValueError:
            return str(value)


# Options that say which images are meant, and not how they are read.
WHICH = ("series", "well", "field")


class Reading(NamedTuple):
    """Which images of the files are meant, and how they are to be read, as `cellsegmenter.io.read_images` takes it."""

    series: int | str | None
    well: str | None
    field: str | None
    axes: str | None
    channel: int | str | None
    z: int | str | None
    t: int | str | None
    page: int | str | None
    level: int
    pixel_size: float | None = None  # µm

    def images(self, path: Path, series: int | None) -> ImageStack:
        """The planes of an image that was chosen: one, or those of a stack that is taken plane by plane."""
        from cellsegmenter.io import read_images

        return read_images(path, series=series, **self.how)

    @property
    def how(self) -> dict[str, Any]:
        """How an image is read, whichever it is."""
        return {name: value for name, value in self._asdict().items() if name not in WHICH}


class Running(NamedTuple):
    """Where a command runs, and what it says meanwhile."""

    device: str
    seed: int
    quiet: bool
    log_file: Path | None

    def say(self, message: str) -> None:
        """Report on the screen, unless the user wants silence, and in the log file, if there is one."""
        say(message, self.quiet)


def position(name: str, text: str) -> Option:
    """An option that takes a position on an axis, or all of them."""
    return click.option(name, type=PositionOrAll(), metavar="N|all", help=text)


_READING = (
    click.option(
        "--series",
        type=NumberOrWord(),
        metavar="N|NAME|all",
        help="The image of a file that holds several, counted from 0, or its name, or all; `cellseg info FILE` lists "
        "them.",
    ),
    click.option("--well", metavar="A1,...|all", help="The wells of a plate."),
    click.option("--field", metavar="N,...|all", help="The fields of the wells."),
    click.option("--axes", metavar="AXES", help="What the file's axes mean, such as YX, CYX, YXC or ZYX."),
    click.option(
        "--channel",
        type=NumberOrWord(),
        metavar="N|NAME|...",
        help="The channel to use, counted from 0, or its name in the file; several, such as 0,1, for a model of as "
        "many; of a colour image also grey, haematoxylin, eosin or dab.",
    ),
    position("--z", "The slice of a z-stack to use, counted from 0, or all, each by itself."),
    position("--t", "The time of a movie to use, counted from 0, or all, each by itself."),
    position("--page", "The page of a file that does not say what its pages are, counted from 0, or all."),
    click.option(
        "--level",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="The resolution of OME-Zarr or a pyramidal TIFF to read; 0 is the full one.  [default: 0]",
    ),
)
reading = as_one("reading", Reading, *_READING)
measured_reading = as_one(
    "reading",
    Reading,
    *_READING,
    click.option(
        "--pixel-size",
        type=click.FloatRange(min=0, min_open=True),
        metavar="UM",
        help="Micrometres per pixel, for the results; by default as the file says.",
    ),
)

running = as_one(
    "running",
    Running,
    click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or mps."
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="The same seed gives the same result."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings."),
    click.option(
        "--log-file",
        type=FILE,
        metavar="FILE",
        callback=reporting.open_log,
        help="Append all messages to this file, with the time.",
    ),
)

model = click.option(
    "--model", type=FILE, help="A model file of `cellseg fit`.  [default: the built-in nuclei model]"
)

samples = click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Posterior samples: of the whole image in one pass, or of every window.",
)

stride = click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Step between sliding windows; a divisor of their size.",
)

diameter = click.option(
    "--diameter",
    type=NumbersOr("auto", "none"),
    default=None,
    metavar="PX,...|auto|none",
    help="The objects' diameter in the image, which is rescaled to the model's working scale. Of several, such as "
    "8,20, each is looked for, and what is found competes. none takes the image as it is.",
)

polarity = click.option(
    "--polarity",
    type=click.Choice(["auto", "bright", "dark"]),
    help="Whether objects are brighter or darker than what is around them; auto lets a model with one pass look at "
    "both, where it is not sure.  [default: the model's own]",
)

learning_polarity = click.option(
    "--polarity",
    type=click.Choice(["auto", "bright", "dark"]),
    help="Whether objects are brighter or darker than what is around them; auto takes them for bright.  "
    "[default: auto]",
)

recognition = click.option(
    "--recognition",
    type=click.Choice(["auto", "one_pass", "windows"]),
    help="One pass over the whole image by a recognition network, or sliding windows as published; auto takes the "
    "former where the model has learned it and no --stride is given.  [default: auto]",
)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that what was not keeps the package's own default."""
    return {name: value for name, value in options.items() if value is not None}


def parameters(**options: Any) -> dict[str, Any]:
    """The options that were given as the estimator's parameters, where the word none is None."""
    return {name: None if value == "none" else value for name, value in given(**options).items()}


def word(value: Any) -> str:
    """A value as an option takes it."""
    if isinstance(value, tuple):
        return ",".join(map(word, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def say(message: str, quiet: bool) -> None:
    """Report, on the screen unless the user wants silence; see `cli.reporting` for the log file."""
    for line in message.splitlines():
        reporting.logger.info(line)
    if not quiet:
        reporting.echo(message)
