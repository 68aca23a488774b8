"""The report of a model: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellsegmenter.html import filled_template, write_page
from cellsegmenter.report.figures import plot_history, plot_posterior, plot_prior, plot_sleep
from cellsegmenter.report.notes import training_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

# Colours that stand in a figure for those of the page, which differ in the dark.
_INK, _GRID = "#010203", "#010204"


def write_report(
    path: str | Path, segmenter: Any, *, images: Sequence[Any] = (), title: str = "CellSegmenter model"
) -> None:
    """Write a report of a fitted model.

    Parameters
    ----------
    path : str or Path
        Ends in ``.html``.
    segmenter : CellSegmenter
        Fitted.
    images : sequence of array-likes
        With some, the report shows what the model makes of windows of them.
    title : str
        Plain text.

    Raises
    ------
    ImageFileError
        If the path cannot be written to or is not a page's.
    ValueError
        If an image is not understood.
    ImportError
        Without matplotlib (the extra [plot]).
    """
    sections = [_notes_section(training_notes(segmenter))]
    if segmenter.history_:
        sections.append(_section("The training", "", _svg(plot_history(segmenter), "Curves of the training")))
    if segmenter.recognition_ is not None:
        text = (
            "Composites of the model's own confident objects, with the outlines that the recognition network learned: "
            "their truth is exact, also where objects touch."
        )
        figure = plot_sleep(segmenter)
        sections.append(_section("The sleep phase", text, _svg(figure, "Composites and curves")))
    if len(images):
        figure = plot_posterior(segmenter, images)
        text = (
            "Windows with much to see. White boxes and tinted masks are single posterior samples of the generative "
            "model; the consensus is what <code>predict</code> gives."
        )
        sections.append(
            _section("What it sees", text, _svg(figure, "Windows, reconstructions, samples, consensus"))
        )
    text = "Images that the model makes up, objects placed by its prior (exact samples of the point process)."
    sections.append(_section("What it imagines", text, _svg(plot_prior(segmenter), "Draws from the prior")))
    sections.append(_section("The model's card", "", f"<table>{''.join(_rows(segmenter.card_))}</table>"))
    body = filled_template("report.html", title=html.escape(title), sections="\n".join(sections))
    write_page(path, title=title, body=body, styles=("report.css",))


def _section(heading: str, text: str, content: str) -> str:
    intro = f'<p class="quiet">{text}</p>' if text else ""
    return f'<section><h2>{heading}</h2>{intro}<div class="card">{content}</div></section>'


def _notes_section(notes: list[str]) -> str:
    """The warnings, in words."""
    if not notes:
        return '<p class="fine">All constraints ended inside of their bounds, and the error had settled.</p>'
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<div class="warnings" role="note"><h2>Worth knowing</h2><ul>{items}</ul></div>'


def _rows(card: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A row for each entry of a card; nested ones by their path."""
    for name, value in card.items():
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _rows(value, f"{words}: ")
        else:
            text = (
                " to ".join(map(str, value))
                if isinstance(value, list | tuple) and len(value) == 2
                else str(value)
            )
            yield f"<tr><th scope='row'>{html.escape(words)}</th><td>{html.escape(text)}</td></tr>"


def _svg(figure: Figure, description: str) -> str:
    """A figure as part of a page: it scales with the page, and its ink follows light and dark."""
    import matplotlib as mpl

    for axis in figure.axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=_INK)
        axis.xaxis.label.set_color(_INK)
        axis.title.set_color(_INK)
        # A title at the left is another object than the one in the middle.
        axis.set_title(axis.get_title(loc="left"), loc="left", fontsize=10.5, color=_INK)
        for spine in axis.spines.values():
            spine.set_edgecolor(_INK)
        for line in axis.get_ygridlines():
            line.set_color(_GRID)
        legend = axis.get_legend()
        for text in legend.get_texts() if legend is not None else ():
            text.set_color(_INK)
    buffer = io.StringIO()
    # A salt of its own keeps the ids of one figure apart from those of another.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    source = buffer.getvalue()
    source = source[source.index("<svg") :].replace(_INK, "var(--ink)").replace(_GRID, "var(--quiet)")
    source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    # The size in points would fix it; the view box keeps the proportions.
    source = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", source, count=1)
    source = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", source, count=1)
    return source.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
