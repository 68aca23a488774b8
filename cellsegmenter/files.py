"""Writing a file in one go: what has its name is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["in_one_go", "path_beside"]


def path_beside(path: Path) -> Path:
    """Where this process prepares what will be at `path`: hidden, in the same folder, with the same suffix."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


@contextmanager
def in_one_go(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place once it is complete, or vanishes."""
    temporary = path_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
