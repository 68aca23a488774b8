"""The sleep phase: what the wake model found teaches the recognition network (see `cellsegmenter.recognition`)."""
