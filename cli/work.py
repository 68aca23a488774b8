"""What `predict` does to each image: read, segment, measure, write, and record how."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from . import options, reporting
from .manifest import differences, earlier_files, found, is_recorded, manifest, write_manifest
from .masks import masked
from .memory import Memory
from .models import take_channels
from .outputs import Job
from .results import Plane, Result, Seen, collect, describe, with_image, write_results

if TYPE_CHECKING:
    from cellsegmenter import CellSegmenter
    from cellsegmenter.consensus import ResolutionError, Segmentation
    from cellsegmenter.image_consensus import ImageConsensus
    from cellsegmenter.io import ImageFile, ImageStack

    from .results import Table


class Cutting(NamedTuple):
    """How objects are to be found; what is None is left to the model."""

    gamma: float | str | None
    gamma_abs: float | None
    method: str
    min_size: int | None
    samples: int | None
    stride: int | None
    diameter: float | str | tuple[float, ...] | None
    polarity: str | None
    recognition: str | None


class Refusal(click.ClickException):
    """Why a --gamma does not suit an image, and which value does."""

    def __init__(self, image: Path, error: ResolutionError) -> None:
        fits = error.suggestion
        super().__init__(
            f"this --gamma leaves no object in {image}: it is relative to the size of the image. Use --gamma "
            f"{fits.gamma:.3g} here, or --gamma-abs {fits.absolute:.3g}, which carries over to other images."
        )


class Work:
    """What is done to each image of a run."""

    def __init__(
        self,
        segmenter: CellSegmenter,
        cutting: Cutting,
        reading: options.Reading,
        running: options.Running,
        model: Path | None,
        memory: Memory,
        *,
        skip_existing: bool,
        keep_tables: bool,
    ) -> None:
        from cellsegmenter.files import path_text
        from cellsegmenter.provenance import model_hash

        self.segmenter = segmenter
        self.cutting = cutting
        self.reading = reading
        self.running = running
        self.memory = memory
        self.skip_existing = skip_existing
        self.keep_tables = keep_tables
        self.tables: list[Table] = []
        self.request = {
            "model": "built-in" if model is None else path_text(model),
            "model_sha256": model_hash(segmenter.model_, segmenter.recognition_, segmenter.intensity),
            "seed": running.seed,
            **cutting._asdict(),
            **reading.how,
        }

    def segment(self, job: Job) -> None:
        """Segment one file and write its results, unless they are there already and to be kept."""
        if self.skip_existing and self._is_done(job):
            return
        started = time.perf_counter()
        images = self._read(job)
        planes = [self._plane(job, image, number) for number, image in enumerate(images)]
        segmented = time.perf_counter()
        result = collect(images, self.reading.level, planes, self.segmenter)
        self._write(job, result, started, segmented)
        for plane in planes:
            self.memory.release(plane.work_folder)
        if self.keep_tables:
            self.tables.append(with_image(result.table, job.name))
        self.running.say("\n".join(f"  wrote {path}" for path in job.outputs))

    def preview(self, job: Job) -> None:
        """Say what would be done to one file."""
        if self.skip_existing and self._is_done(job):
            return
        images = self._read(job)
        masked(images[0].array, job.mask)
        planes = "" if len(images) == 1 else f", the first of {len(images)} planes"
        self.running.say(f"{job.image}: {images[0].interpretation}{planes}")
        self.running.say("\n".join(f"  would write {path}" for path in job.outputs))

    def _write(self, job: Job, result: Result, started: float, segmented: float) -> None:
        """Write all files of a job and the record of how they were made; should one fail, of those that are there."""
        request = self._full_request(job)
        finished: dict[str, Path] = {}

        def record() -> None:
            spent = {"segment": segmented - started, "measure_and_write": time.perf_counter() - segmented}
            write_manifest(job.manifest, manifest(job._replace(files=finished), result, request, spent))

        try:
            for kind in write_results(job, result, self._metadata(job, result.segmentations)):
                finished[kind] = job.files[kind]
        except BaseException:  # also when the user ends it
            if finished:
                with suppress(OSError):  # the first failure is the one to tell of
                    record()
            raise
        record()
        for files, others in differences(job.manifest, request, earlier_files(job.manifest)).items():
            self.running.say(f"  left as it is, made with another {', '.join(others)}: {files}")

    def _read(self, job: Job) -> ImageStack:
        return self.reading.images(job.image, job.series)

    def _is_done(self, job: Job) -> bool:
        """Whether all results are there and recorded; warns if they were made in another way."""
        if not (all(path.exists() for path in job.outputs) and is_recorded(job)):
            return False
        self.running.say(f"{job.image}: skipped, its results are there")
        for files, others in differences(job.manifest, self._full_request(job), job.files.values()).items():
            reporting.warn(
                f"made with another {', '.join(others)}: {files} of {job.image}; delete what should be made again"
            )
        return True

    def _plane(self, job: Job, image: ImageFile, number: int) -> Plane:
        """Segment one plane, and say what was found."""
        started = time.perf_counter()
        self.running.say(f"{job.image}: {image.interpretation}")
        take_channels(self.segmenter, image, job.image)
        cutting, memory = self.cutting, self.memory.options(job, number)
        was_there = memory["work_folder"].exists()
        pixels = masked(image.array, job.mask)
        with reporting.warnings_about(str(job.image)):
            consensus = self.segmenter.consensus(
                pixels,
                random_state=self.running.seed,
                **memory,
                **options.given(n_samples=cutting.samples, stride=cutting.stride),
            )
        if was_there and consensus.work_folder is not None:
            self.running.say(f"  went on from what {consensus.work_folder} held")
        segmentation = self._cut(job, consensus)
        seen = Seen.of(consensus)
        # Of a single image the estimator has said its notes already; the log file has all of them.
        said = self.running.quiet or self.segmenter.verbose
        for note in seen.notes:
            options.say(f"  {note}", said)
        given = cutting.gamma is not None or cutting.gamma_abs is not None
        self.running.say(describe(segmentation, seen, time.perf_counter() - started, given=given))
        return Plane(segmentation, seen, consensus.work_folder)

    def _cut(self, job: Job, consensus: ImageConsensus) -> Segmentation:
        from cellsegmenter.consensus import AbsoluteResolution, ResolutionError

        cutting = self.cutting
        resolution = cutting.gamma if cutting.gamma_abs is None else AbsoluteResolution(cutting.gamma_abs)
        try:
            return consensus.cut(
                resolution,  # type: ignore[arg-type]  # of words, click lets only "auto" pass
                method=cutting.method,  # type: ignore[arg-type]
                **options.given(min_size=cutting.min_size),
            )
        except ResolutionError as error:
            raise Refusal(job.image, error) from error

    def _metadata(self, job: Job, segmentations: list[Segmentation]) -> dict[str, Any]:
        """What the label image says of itself."""
        first = found(segmentations[0]) if len(segmentations) == 1 else {}
        return {"image": job.name, "model": self.segmenter.card_["name"], **first}

    def _full_request(self, job: Job) -> dict[str, Any]:
        """What was asked for, with the model's own values for what was not, and where and how widely it ran."""
        from cellsegmenter.files import path_text
        from cellsegmenter.serialization import plain_value

        own = {name: plain_value(value) for name, value in self.segmenter.get_params().items()}
        unsaid = {
            "n_samples",
            "stride",
            "recognition",
            "diameter",
            "polarity",
            "min_size",
            "resolution",
            "intensity",
            "device",
            "n_jobs",
        }
        return {
            **self.request,
            "mask": None if job.mask is None else path_text(job.mask),
            "model_parameters": {name: own[name] for name in sorted(unsaid)},
        }
