"""Readers and writers of image files and tables."""

from ._files import ImageFileError, check_writable, expand_inputs, replacing
from ._readers import ImageFile, ImageStack, read_image, read_images
from ._writers import write_labels, write_overlay, write_table

__all__ = [
    "ImageFile",
    "ImageFileError",
    "ImageStack",
    "check_writable",
    "expand_inputs",
    "read_image",
    "read_images",
    "replacing",
    "write_labels",
    "write_overlay",
    "write_table",
]
