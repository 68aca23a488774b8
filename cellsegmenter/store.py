"""Where the intermediate results of a large computation live: in memory, or in a folder that outlives the process.

A result is a *record*, some named arrays.  Each is made by one task from records that exist already, and is
written beside its place and then renamed: what has a name is complete.  So a computation that was killed goes
on by making the records that are missing, and memory or folder, one process or a cluster, is the same code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from joblib import Parallel, delayed
from numpy.lib.format import open_memmap
from tqdm import tqdm

from cellsegmenter.files import in_one_go, named_errors

__all__ = [
    "FolderStore",
    "Image",
    "MemoryStore",
    "Record",
    "Store",
    "StoredImage",
    "Task",
    "WorkFolderError",
    "run_tasks",
    "short_hash",
]

Record: TypeAlias = "dict[str, np.ndarray]"
_MANIFEST = "manifest.json"


class WorkFolderError(ValueError):
    """A work folder cannot be used for this computation; the message says why and what to do."""


class StoredImage:
    """An image in an .npy file: each access maps the file and lets go of it, so that no page of it stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mapped = self._map("r")
        self.shape: tuple[int, ...] = mapped.shape
        self.dtype: np.dtype = mapped.dtype
        self.ndim = mapped.ndim

    def _map(self, mode: Any) -> np.memmap:
        return open_memmap(self.path, mode=mode)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(self._map("r")[key])

    def __setitem__(self, key: Any, values: np.ndarray) -> None:
        self._map("r+")[key] = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


Image: TypeAlias = "np.ndarray | StoredImage"


def short_hash(*values: object) -> str:
    """Twelve digits for the name of a record, of plain values that it depends on."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


class Store(Protocol):
    """Records by name, and images that are written piece by piece."""

    def has(self, name: str) -> bool:
        """Whether the record is there, complete."""

    def load(self, name: str, *fields: str) -> Record:
        """The record, or only some of its fields."""

    def save(self, name: str, record: Record) -> None: ...

    def discard(self, name: str) -> None:
        """Forget a record, if it is there."""

    def part(self, names: Iterable[str]) -> Store:
        """What a task in another process needs to load these records."""

    def new_image(self, name: str, shape: tuple[int, ...], dtype: Any) -> Image:
        """An image of zeros, for slices to be assigned to."""

    def image(self, name: str) -> Image | None:
        """An image that was made before, where images are kept."""


class MemoryStore:
    """Keeps everything in memory."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        self._records = dict(records or {})

    def has(self, name: str) -> bool:
        return name in self._records

    def load(self, name: str, *fields: str) -> Record:
        record = self._records[name]
        return {field: record[field] for field in fields} if fields else record

    def save(self, name: str, record: Record) -> None:
        self._records[name] = record

    def discard(self, name: str) -> None:
        self._records.pop(name, None)

    def part(self, names: Iterable[str]) -> MemoryStore:
        return MemoryStore({name: self._records[name] for name in names})

    def new_image(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def image(self, name: str) -> None:
        return None


class FolderStore:
    """Keeps every record in a file of its own (.npz) and every image in an .npy file.

    Parameters
    ----------
    path : Path
        Made if it does not exist.
    identity : mapping from str to plain values
        What the records depend on: the image, the model, their parameters; of several that differ the first is told
        in full.

    Raises
    ------
    WorkFolderError
        If the folder holds the records of another computation, or other files.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        manifest = self.path / _MANIFEST
        wanted = json.loads(json.dumps(dict(identity)))
        if manifest.exists():
            self._check(json.loads(manifest.read_text(encoding="utf-8")), wanted)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise WorkFolderError(
                f"{self.path} holds other files; name an empty folder, or one that is yet to be made"
            )
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            with in_one_go(manifest) as temporary:
                temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")

    def _check(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if differing:
            first, *rest = differing
            also = f" (and another {', '.join(rest)})" if rest else ""
            raise WorkFolderError(
                f"the work folder {self.path} belongs to another computation: {first} was {found.get(first)!r} and is "
                f"{wanted.get(first)!r}{also}. Name another folder, or delete this one"
            )

    def has(self, name: str) -> bool:
        return self._file(name).exists()

    def load(self, name: str, *fields: str) -> Record:
        with np.load(self._file(name), allow_pickle=False) as file:
            return {field: file[field] for field in fields or file.files}

    def save(self, name: str, record: Record) -> None:
        with in_one_go(self._file(name)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **record)  # type: ignore[arg-type]

    def discard(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def part(self, names: Iterable[str]) -> FolderStore:
        return self

    def new_image(self, name: str, shape: tuple[int, ...], dtype: Any) -> StoredImage:
        path = self.path / f"{name}.npy"
        try:
            with named_errors(path, path):
                open_memmap(path, mode="w+", dtype=dtype, shape=shape)
                _take_room(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return StoredImage(path)

    def image(self, name: str) -> StoredImage | None:
        path = self.path / f"{name}.npy"
        return StoredImage(path) if path.exists() else None

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npz"


def _take_room(path: Path) -> None:
    """Take the room of a whole file on the disk now: a mapped one that finds the disk full later ends the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some file systems cannot
                raise


class Task(NamedTuple):
    """Makes one record: `function(store, *arguments)`, which loads the records that it `needs`."""

    name: str
    function: Callable[..., Record]
    needs: tuple[str, ...]
    arguments: (
        tuple[Any, ...] | Callable[[], tuple[Any, ...]]
    )  # or how to get them, when the task is sent off


def run_tasks(
    store: Store, tasks: Iterable[Task], n_jobs: int | None = 1, *, progress: str | None = None
) -> None:
    """Make the records that are missing, each in a joblib task.

    ``joblib.parallel_config`` decides where they run; the processes of a cluster need a `FolderStore` on a disk
    that all of them see, or a `MemoryStore`, which sends the records along.

    Parameters
    ----------
    store : Store
    tasks : iterable of Task
        None needs a record that another of them makes.
    n_jobs : int or None
        For joblib.
    progress : str, optional
        Show a bar of this name.
    """
    every = list(tasks)
    missing = [task for task in every if not store.has(task.name)]
    jobs = (
        delayed(_run)(store.part(task.needs), task.name, task.function, _arguments(task)) for task in missing
    )
    made = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    shown = tqdm(
        missing, desc=progress, unit="tile", disable=None if progress else True,
        initial=len(every) - len(missing), total=len(every),
    )  # fmt: skip
    for task, record in zip(shown, made, strict=True):
        if record is not None:
            store.save(task.name, record)


def _arguments(task: Task) -> tuple[Any, ...]:
    return task.arguments() if callable(task.arguments) else task.arguments


def _run(
    store: Store, name: str, function: Callable[..., Record], arguments: tuple[Any, ...]
) -> Record | None:
    """The record, or None if it has been saved where the caller will find it."""
    record = function(store, *arguments)
    if isinstance(store, FolderStore):
        store.save(name, record)
        return None
    return record
