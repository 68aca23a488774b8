"""The recognition network: one pass over a whole image (see `cellsegmenter.sleep` for how it is learned)."""
