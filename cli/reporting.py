"""What a command says: on the screen, and with the time in the log file, if one is asked for."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click

# What a command ends with in one line: the input, the machine or a setting is at fault, not the program.
COMPLAINTS = (ValueError, OSError, ImportError, FloatingPointError)

logger = logging.getLogger("cellseg")
logger.propagate = False  # the screen is not the logger's business
logger.addHandler(logging.NullHandler())
logger.setLevel(logging.INFO)


def open_log(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Append what is said to a file until the command ends; the callback of --log-file."""
    if path is None:
        return None
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
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
        click.echo(message, err=err)


def warn(message: str) -> None:
    """A warning as one line, on the screen and in the log."""
    logger.warning(message)
    echo(f"Warning: {message}", err=True)


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
