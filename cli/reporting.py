"""What a command says: on the screen, and with the time in the log file, if one is asked for."""

from __future__ import annotations

import errno
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from .streams import SPELLED_OUT

# What a command ends with in one line: the input, the machine or a setting is at fault, not the program.
COMPLAINTS = (ValueError, OSError, ImportError, FloatingPointError)

logger = logging.getLogger("cellseg")
logger.propagate = False  # the screen is not the logger's business
logger.addHandler(logging.NullHandler())
logger.setLevel(logging.INFO)


class LogFile(logging.FileHandler):
    """A log file whose disk may be full: that is said once, and what it cannot take is dropped."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors=SPELLED_OUT)
        self._said = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            reason = sys.exc_info()[1]
            why = getattr(reason, "strerror", None) or reason
            echo(f"Warning: the log file {self.baseFilename} cannot be written: {why}", err=True)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def open_log(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Append what is said to a file until the command ends; the callback of --log-file."""
    if path is None:
        return None
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(path)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime  # times of several machines compare
    handler.setFormatter(formatter)
    logger.addHandler(handler)

    def close() -> None:
        logger.removeHandler(handler)
        handler.close()

    # The group's context, as the error that ends a command is said after the command's own has closed.
    ctx.find_root().call_on_close(close)
    return path


def echo(message: str, *, err: bool = False) -> None:
    """Print above a progress bar, should one be on the screen."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        click.echo(message, file=sys.stderr if err else sys.stdout)


def answer(text: str) -> None:
    """Print what a command is run for: unlike a message, it must not be lost on a full disk.

    Raises
    ------
    click.ClickException
        If it cannot be written, but for a reader that has seen enough.
    """
    echo(text)
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and getattr(lost, "errno", None) != errno.EPIPE:
        raise click.ClickException(f"the answer cannot be printed: {getattr(lost, 'strerror', None) or lost}")


def note(message: str) -> None:
    """A remark beside an answer, which is alone on standard output."""
    echo(message, err=True)


def warn(message: str) -> None:
    """A warning as one line, on the screen and in the log."""
    logger.warning(message)
    echo(f"Warning: {message}", err=True)


@contextmanager
def warnings_about(image: str) -> Iterator[None]:
    """Each warning meanwhile is said once, with the image's name: of many images each has its own."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = in_options(str(message))
        if text not in said:
            said.add(text)
            warn(text if image in text else f"{image}: {text}")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = show
        yield


def in_options(text: str) -> str:
    """Advice of the package's as the command line takes it."""
    return re.sub(r"\bset the (diameter|polarity)\b", r"set --\1", text)


def complain(message: str) -> None:
    """An error that does not end the command."""
    logger.error(message)
    echo(f"Error: {message}", err=True)


def explain(error: Exception) -> str:
    """The message of an error, with the file first where the operating system names one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, click.ClickException):
        return error.message
    return str(error) or type(error).__name__
