"""Where the work on an image is done: in memory or in a folder, by how many processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsegmenter.store import FolderStore, MemoryStore, Store

__all__ = ["Workspace"]


@dataclass(frozen=True)
class Workspace:
    """What the caller grants."""

    folder: Path | None = None  # for what is known of pixels, in place of memory
    max_memory: int | None = None  # bytes; the folder is left alone where so many will do
    n_jobs: int | None = 1  # processes, for joblib
    progress: bool = False  # show bars

    def store(self, needed: int, identity: Callable[[], Mapping[str, Any]]) -> Store:
        """A store for results that take about `needed` bytes.

        `identity` tells what they depend on; it is asked only for a folder, as it has to read the whole image.

        Raises
        ------
        WorkFolderError
            If the folder holds something else.
        """
        if self.folder is None or (self.max_memory is not None and needed <= self.max_memory):
            return MemoryStore()
        return FolderStore(self.folder, identity())
