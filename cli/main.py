"""The group `cellseg`, and what it does with the package's complaints and warnings.

Nothing heavy is imported before a command runs, so that `cellseg --help` answers at once.
"""

from __future__ import annotations

import warnings
from typing import Any

import click

from . import reporting
from .demo import demo
from .doctor import doctor
from .fit import fit
from .info import info
from .predict import predict
from .report import report
from .streams import forgiving_streams
from .suggest import suggest
from .tune import tune


class Commands(click.Group):
    """A group whose commands end with one line, not a traceback, when the input is at fault.

    Messages that cannot be printed end no command.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        with forgiving_streams():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except reporting.COMPLAINTS as error:
            if ctx.params["debug"]:
                raise
            reporting.logger.error(reporting.explain(error))
            raise click.ClickException(reporting.explain(error)) from error


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line; stands in for `warnings.showwarning`."""
    reporting.warn(reporting.in_options(str(message)))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="cellsegmenter", message="%(package)s %(version)s")
@click.pass_context
def cellseg(ctx: click.Context, debug: bool) -> None:
    """Segment cells without labels.

    Say roughly how many objects a window holds and how much area they cover; get instances, their
    confidence and their latent codes, on images of any size. A model for fluorescent nuclei is built in.
    """
    if not debug:
        ctx.with_resource(warnings.catch_warnings())
        warnings.showwarning = print_warning


for command in (predict, fit, info, demo, suggest, tune, report, doctor):
    cellseg.add_command(command)
