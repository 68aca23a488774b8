"""Readers and writers of image files, tables and what other programs open."""

from ._files import ImageFileError, ImageFileWarning, check_writable, replacing
from ._geojson import write_geojson
from ._inputs import Inputs, expand_inputs, find_inputs, image_stem
from ._masks import mask_image, read_mask
from ._ome_zarr_layout import outermost
from ._overlays import Panel, shown_grey, write_montage, write_overlay
from ._readers import ImageFile, ImageStack, list_series, read_image, read_images
from ._results import MANIFEST_ENDING, marked_png
from ._rois import write_rois
from ._series import Series, choose_series
from ._tables import check_table_path, to_anndata, write_table
from ._writers import confidence_map, write_labels, write_map
from ._zarr_writer import add_ome_zarr_labels, write_ome_zarr

__all__ = [
    "MANIFEST_ENDING",
    "ImageFile",
    "ImageFileError",
    "ImageFileWarning",
    "ImageStack",
    "Inputs",
    "Panel",
    "Series",
    "add_ome_zarr_labels",
    "check_table_path",
    "check_writable",
    "choose_series",
    "confidence_map",
    "expand_inputs",
    "find_inputs",
    "image_stem",
    "list_series",
    "marked_png",
    "mask_image",
    "outermost",
    "read_image",
    "read_images",
    "read_mask",
    "replacing",
    "shown_grey",
    "to_anndata",
    "write_geojson",
    "write_labels",
    "write_map",
    "write_montage",
    "write_ome_zarr",
    "write_overlay",
    "write_rois",
    "write_table",
]
