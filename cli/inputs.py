"""The image files that a command's arguments stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path


def find_inputs(images: Iterable[Path], say: Callable[[str], None]) -> list[Path]:
    """The files that paths, folders and patterns stand for; what is left out of folders is said."""
    from cellsegmenter import io

    found = io.find_inputs(images)
    for line in found.left_out():
        say(line)
    return found.files
