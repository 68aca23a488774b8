"""Whether this installation works, and what it has to work with."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from packaging.requirements import Requirement

from cellsegmenter.datasets import load_nuclei
from cellsegmenter.estimator import CellSegmenter
from cellsegmenter.metrics import average_precision
from cellsegmenter.model.device import resolve_device
from cellsegmenter.packages import install
from cellsegmenter.wording import counted

__all__ = ["Finding", "diagnose"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LITTLE_MEMORY = 4.0  # GiB
_CROP = np.s_[96:224, 96:224]  # of the built-in image: a second's work
_LEAST_PRECISION = 0.3  # of the built-in model there; well below what it reaches
_FOR_DEVELOPERS = ("test", "docs", "dev")


class Finding(NamedTuple):
    """One thing that was looked at."""

    group: str  # "system", "packages", "extras" or "model"
    name: str
    value: str
    works: bool = True
    remedy: str = ""  # where something does not work, or could be better


def diagnose() -> list[Finding]:
    """Look at the machine, the packages, the optional extras, and try the built-in model.

    Returns
    -------
    list of Finding
        Those that do not work name a remedy.
    """
    return [*_system(), *_packages(), _model()]


def _system() -> list[Finding]:
    """What there is to compute with."""
    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    little = memory is not None and memory < _LITTLE_MEMORY
    return [
        Finding("system", "python", f"{platform.python_version()} on {platform.platform()}"),
        Finding(
            "system",
            "device",
            name,
            remedy="" if device.type != "cpu" else "a GPU would be faster, if there is one",
        ),
        Finding("system", "threads", f"{torch.get_num_threads()} of torch, {counted(cores, 'core')} usable"),
        Finding(
            "system",
            "memory",
            "unknown" if memory is None else f"{memory:.1f} GiB",
            remedy="large images need a folder for what does not fit; see cellseg predict --help"
            if little
            else "",
        ),
    ]


def _memory() -> float | None:
    """GiB that this process may use: the machine's, or what a container allows."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return (total if limit == "max" else min(total, int(limit))) / 2**30


def _packages() -> list[Finding]:
    """What the package needs, and what its extras would add."""
    findings = [Finding("packages", "cellsegmenter", version("cellsegmenter"))]
    for text in requires("cellsegmenter") or ():
        requirement = Requirement(text)
        extra = _extra_of(requirement)
        if extra in _FOR_DEVELOPERS or not _applies(requirement, extra):
            continue
        installed = _installed(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        value = installed or "missing"
        remedy = "" if fits else install(f"'{requirement.name}{requirement.specifier}'")
        if extra is not None:
            findings.append(Finding("extras", f"[{extra}] {requirement.name}", value, remedy=remedy))
        else:
            findings.append(Finding("packages", requirement.name, value, fits, remedy))
    return findings


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for a requirement: the last word of its marker."""
    marker = str(requirement.marker or "")
    return marker.partition("extra ==")[2].strip(" \"'()") or None


def _applies(requirement: Requirement, extra: str | None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _model() -> Finding:
    """Whether the built-in model loads and finds what was annotated in a part of the built-in image."""
    image, annotation = (np.ascontiguousarray(array[_CROP]) for array in load_nuclei())
    started = time.perf_counter()
    try:
        segmenter = CellSegmenter.pretrained().set_params(random_state=0, stride=40)
        found = segmenter.predict(image)
    except Exception as error:  # whatever is broken is what the user wants to hear of
        remedy = "install the package again, in the folder of its source: pip install --force-reinstall --no-deps ."
        return Finding("model", "built-in model", f"{type(error).__name__}: {error}", False, remedy)
    precision = average_precision(annotation, found)
    seconds, annotated = time.perf_counter() - started, np.count_nonzero(np.unique(annotation))
    value = (
        f"{found.max()} nuclei in {seconds:.1f} s, {annotated} annotated, average precision {precision:.2f}"
    )
    works = precision >= _LEAST_PRECISION
    return Finding(
        "model", "built-in model", value, works, "" if works else "the numbers are off: report a bug"
    )
