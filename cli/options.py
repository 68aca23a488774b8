"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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


class NumberOrAuto(click.ParamType):
    """A positive number, or the word `auto`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor 'auto'.", param, ctx)
        if not 0 < number < float("inf"):
            self.fail(f"{value} must be positive and finite.", param, ctx)
        return number


reading = together(
    click.option("--axes", metavar="AXES", help="What the file's axes mean, such as YX, CYX, YXC or ZYX."),
    click.option("--channel", type=int, metavar="N", help="The channel to use, counted from 0."),
    click.option("--page", type=int, metavar="N", help="The page of a stack to use, counted from 0."),
)

running = together(
    click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or mps."
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="The same seed gives the same result."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and warnings."),
)

diameter = click.option(
    "--diameter",
    type=NumberOrAuto(),
    default=None,
    metavar="PX|auto",
    help="The objects' diameter in the image; the image is rescaled to the model's working scale.",
)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that what was not keeps the package's own default."""
    return {name: value for name, value in options.items() if value is not None}


def say(message: str, quiet: bool) -> None:
    """Report, unless the user wants silence."""
    if not quiet:
        click.echo(message)
