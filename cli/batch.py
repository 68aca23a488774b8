"""Many images: one after the other with a progress bar, and on after an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import click

from . import reporting
from .options import Running
from .outputs import Job


class SomeFailed(click.ClickException):
    """Of several images, at least one could not be done."""

    exit_code = 3


def run_batch(
    jobs: Sequence[Job], work: Callable[[Job], None], running: Running, *, done: str = "done"
) -> None:
    """Do `work` for each job; a single job fails with its own error, several go on and tell at the end what is `done`.

    Raises
    ------
    SomeFailed
        After all jobs, if some failed; it lists them.
    """
    from tqdm import tqdm

    if len(jobs) == 1:
        work(jobs[0])
        return
    failed: list[Job] = []
    bar = tqdm(jobs, unit="image", disable=True if running.quiet else None)  # None: only on a terminal
    for job in bar:
        try:
            work(job)
        except Exception as error:  # a night's work must not end because of one image, whatever the reason
            reason = reporting.explain(error)
            if not isinstance(error, (*reporting.COMPLAINTS, click.ClickException)):
                reason = f"{type(error).__name__}: {reason}"
                reporting.logger.error(traceback.format_exc())
            reporting.complain(reason if str(job.image) in reason else f"{job.image}: {reason}")
            failed.append(job)
    running.say(f"{len(jobs) - len(failed)} of {len(jobs)} images {done}")
    if failed:
        names = "\n".join(
            f"  {job.image}{'' if job.series is None else f', series {job.series}'}" for job in failed
        )
        raise SomeFailed(f"{len(failed)} of {len(jobs)} images failed; the reasons are above:\n{names}")
