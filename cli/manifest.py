"""The record of how a result was made, as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .outputs import Job

if TYPE_CHECKING:
    from cellsegmenter.consensus import Segmentation

    from .results import Result, Seen

# What leaves the result as it is, and what is compared elsewhere: a model's file may have moved, its hash tells.
NOT_COMPARED = {"n_jobs", "device", "model", "model_parameters"}


def manifest(job: Job, result: Result, request: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """Everything that is needed to make the result again, and how long it took.

    `request` is what was asked for: model, parameters and how the file was to be read.
    """
    from cellsegmenter.files import path_text
    from cellsegmenter.provenance import software_versions

    first = result.images[0]
    planes = "" if len(result.images) == 1 else f"{len(result.images)} planes, the first: "
    return {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": software_versions(),
        "request": request,
        "image": {
            "file": path_text(job.image),
            "series": job.series,
            "bytes": _size(job.image),
            "interpretation": planes + first.interpretation,
            "axes": result.axes if len(first.axes) == 2 else f"{result.images.axes}{first.axes}",
            "shape": [*result.images.shape, *map(int, first.array.shape)],
            "pixel_size_um": result.pixel_size,
        },
        "planes": [
            {axis.lower(): at for axis, at in result.images.position(i).items()}
            | found(plane.segmentation)
            | _seen(plane.seen)
            for i, plane in enumerate(result.planes)
        ],
        "outputs": {kind: path_text(path) for kind, path in job.files.items()},
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def found(segmentation: Segmentation) -> dict[str, Any]:
    """How many objects there are, and the resolution they were cut at; JSON has no NaN."""
    resolution = segmentation.resolution
    known = {
        "gamma_abs": resolution.absolute,
        "gamma": resolution.gamma,
        "cutoff_distance": resolution.cutoff_distance,
        "agreement": resolution.agreement,
    }
    return {
        "objects": len(segmentation),
        "objects_90_percent": None
        if segmentation.count_interval is None
        else list(segmentation.count_interval),
        "method": resolution.method,
        "chosen_by": resolution.chosen_by,
        **{name: None if value is None or value != value else float(value) for name, value in known.items()},
    }


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write beside, then rename; of earlier runs the records stay whose results are still there."""
    from cellsegmenter import io

    replaced = {file.name for file in _outputs(content).values()}
    earlier = []
    for record in _records(path):
        left = {
            kind: record["outputs"][kind]
            for kind, file in _outputs(record).items()
            if file.name not in replaced and file.exists()
        }
        if left:
            earlier.append({**record, "outputs": left})
    if earlier:
        content = {**content, "earlier": earlier}
    with io.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def differences(path: Path, request: dict[str, Any], files: Collection[Path]) -> dict[str, list[str]]:
    """What was asked differently when some files were made, by the manifest: their names, and what."""
    names = {file.name for file in files}
    differing = {}
    for record in _records(path):
        made = names & {file.name for file in _outputs(record).values()}
        others = _differences(record.get("request", {}), json.loads(json.dumps(request)))
        if made and others:
            differing[", ".join(sorted(made))] = others
    return differing


def earlier_files(path: Path) -> list[Path]:
    """Results of earlier runs that lie beside those of the last."""
    return [file for record in _records(path)[1:] for file in _outputs(record).values()]


def is_recorded(job: Job) -> bool:
    """Whether the manifest of a job speaks of all its files: a run that was cut short has written some of them."""
    recorded = {file.name for record in _records(job.manifest) for file in _outputs(record).values()}
    return all(path.name in recorded for path in job.files.values())


def _outputs(record: dict[str, Any]) -> dict[str, Path]:
    """The files of a record by kind."""
    from cellsegmenter.files import path_from_text

    return {kind: path_from_text(file) for kind, file in record.get("outputs", {}).items()}


def _records(path: Path) -> list[dict[str, Any]]:
    """That of the last run, and those of earlier ones that made other results; none if this is no manifest."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return [record, *record.pop("earlier", [])] if isinstance(record, dict) else []


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    # Manifests of the time before there were two ways do not name one; the model's hash tells the rest.
    before = {"recognition": "auto", **earlier.get("model_parameters", {})}
    pairs = [(earlier, now), (before, now.get("model_parameters", before))]
    return sorted(
        {
            name
            for a, b in pairs
            for name in (a.keys() | b.keys()) - NOT_COMPARED
            if a.get(name) != b.get(name)
        }
    )


def _seen(seen: Seen) -> dict[str, Any]:
    """The sizes that objects were taken to have, px, the scales, and what was done to the image."""
    return {
        "diameter": [None if diameter != diameter else round(diameter, 2) for diameter in seen.diameters],
        "scale": [round(scale, 4) for scale in seen.scales],
        "notes": list(seen.notes),
    }


def _size(path: Path) -> int | None:
    """Bytes of a file; a folder's are not counted."""
    return path.stat().st_size if path.is_file() else None
