"""`cellseg doctor`: whether this installation works, and on what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from . import reporting

if TYPE_CHECKING:
    from cellsegmenter.diagnosis import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this installation: device, threads, memory, packages, extras, the built-in model.

    The exit code is 0 if everything that is needed works, else 1; extras may be missing.
    """
    from cellsegmenter.diagnosis import diagnose

    findings = diagnose()
    if as_json:
        reporting.answer(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        reporting.answer("\n".join(lines(findings)))
    if not all(finding.works for finding in findings):
        ctx.exit(1)


def lines(findings: list[Finding]) -> list[str]:
    """A heading for each group, a line for each finding, a verdict at the end."""
    width = max(len(finding.name) for finding in findings)
    shown = []
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            shown.append(group)
        mark = "  " if finding.works else "! "
        remedy = f"  ({finding.remedy})" if finding.remedy else ""
        shown.append(f"{mark}{finding.name.ljust(width)}  {finding.value}{remedy}")
    broken = [finding.name for finding in findings if not finding.works]
    return [*shown, "everything needed works" if not broken else f"does not work: {', '.join(broken)}"]
