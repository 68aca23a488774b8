"""Command lines that a command prints or writes, ready to be pasted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Reading


def reading_words(reading: Reading) -> list[str]:
    """The options that make another command read the files in the same way."""
    words = []
    for name, value in reading._asdict().items():
        if value is not None and (name, value) != ("level", 0):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
