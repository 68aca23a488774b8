"""What a training did and what the model learnt: plots for notebooks, and one page with all of it."""

from cellsegmenter.report.figures import plot_history, plot_posterior, plot_prior, plot_sleep
from cellsegmenter.report.notes import training_notes
from cellsegmenter.report.page import write_report

__all__ = ["plot_history", "plot_posterior", "plot_prior", "plot_sleep", "training_notes", "write_report"]
