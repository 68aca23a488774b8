"""Tables of objects: CSV, Parquet and AnnData."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellsegmenter.packages import needs

from ._files import ImageFileError, replacing

__all__ = ["TABLE_SUFFIXES", "check_table_path", "to_anndata", "write_table"]

TABLE_SUFFIXES = (".csv", ".parquet", ".h5ad")
PACKAGES = {".parquet": "pyarrow", ".h5ad": "anndata"}
LATENT = "z_"  # what the columns of the latent code begin with
KEYS = ("image", "t", "z", "page", "label")  # columns that say which object a row is, as far as there are any

Table = Mapping[str, Any] | np.ndarray


def write_table(path: str | Path, table: Table) -> None:
    """Write columns as CSV, Parquet or AnnData, as the path's ending says.

    Parameters
    ----------
    path : str or Path
        Ends in ``.csv`` (floats with eight significant digits), ``.parquet`` (needs pyarrow) or ``.h5ad``
        (needs anndata; see `to_anndata`).
    table : mapping from names to columns (n,), or structured array (n,)

    Raises
    ------
    ImageFileError
        If the path cannot be written to, ends otherwise, or a package is missing.
    ValueError
        If the columns differ in length, or an ``.h5ad`` is to be made of a table without latent codes.
    """
    check_table_path(path)
    columns = _columns(table)
    suffix = Path(path).suffix.lower()
    with replacing(path) as temporary:
        if suffix == ".csv":
            _write_csv(temporary, columns)
        elif suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            with open(temporary, "wb") as file:  # pyarrow takes no name that is not UTF-8
                parquet.write_table(pyarrow.table(columns), file)
        else:
            to_anndata(columns).write_h5ad(temporary)


def check_table_path(path: str | Path) -> None:
    """Refuse, before the work is done, an ending that no table has, or one whose package is missing.

    Raises
    ------
    ImageFileError
    """
    suffix = Path(path).suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ImageFileError(f"{path} is a table and must end in {', '.join(TABLE_SUFFIXES)}")
    if suffix in PACKAGES:
        try:
            __import__(PACKAGES[suffix])
        except ImportError:
            raise ImageFileError(needs(path, PACKAGES[suffix])) from None


def to_anndata(table: Table) -> Any:
    """A table of objects as AnnData, the form in which scanpy and squidpy work.

    Parameters
    ----------
    table : mapping from names to columns (n,)
        As `CellSegmenter.detect` gives it.

    Returns
    -------
    anndata.AnnData
        X and ``obsm["X_latent"]`` (n, D) float32: the latent codes; ``obsm["spatial"]`` (n, 2): the centroid as
        (x, y), in px; ``obs``: all other columns.  Rows are named IMAGE-LABEL, or
        IMAGE-z3-LABEL where an image has several planes.

    Raises
    ------
    ImportError
        If anndata is not installed.
    ValueError
        If the table holds no latent codes or no centroids.

    Notes
    -----
    X holds the latent codes and not the measurements, because ``scanpy.pp.neighbors`` takes distances in X as
    they are: the codes share one scale (a standard normal prior), while among areas, angles and intensities
    the column with the largest numbers would decide alone.  The copy in ``obsm`` stays when X is replaced,
    say by ``adata.X = scale(adata.obs[["area", "eccentricity"]])``.
    """
    try:
        import anndata
        import pandas as pd
    except ImportError:
        raise ImportError(needs("to_anndata", "anndata")) from None
    columns = _columns(table)
    latent = [name for name in columns if name.startswith(LATENT) and name[len(LATENT) :].isdigit()]
    if not latent or "centroid-0" not in columns:
        raise ValueError(
            f"the table has the columns {', '.join(columns)}; AnnData needs z_0, ... and centroid-0, centroid-1"
        )
    codes = np.stack([columns[name] for name in latent], axis=1).astype(np.float32)
    keys = [_key_texts(name, columns[name]) for name in KEYS if name in columns]
    names = ["-".join(part for part in row if part) for row in zip(*keys, strict=True)]
    obs = pd.DataFrame({name: columns[name] for name in columns if name not in latent}, index=names)
    if "image" in obs:
        obs["image"] = obs["image"].astype(str).astype("category")
    spatial = np.stack([columns["centroid-1"], columns["centroid-0"]], axis=1)
    return anndata.AnnData(
        X=codes,
        obs=obs,
        var=pd.DataFrame(index=latent),
        obsm={"X_latent": codes.copy(), "spatial": spatial},
    )


def _key_texts(name: str, column: np.ndarray) -> list[str]:
    """What says which object a row is; nothing where the image of a row has no such axis."""
    prefix = "" if name in ("image", "label") else name
    if column.dtype.kind == "f":
        return ["" if np.isnan(value) else f"{prefix}{value:g}" for value in column]
    return [f"{prefix}{value}" for value in column]


def _columns(table: Table) -> dict[str, np.ndarray]:
    """Columns of one length by name."""
    names = list(table.dtype.names or ()) if isinstance(table, np.ndarray) else list(table)
    columns = {name: np.asarray(table[name]) for name in names}
    if len({column.shape for column in columns.values()}) > 1 or any(c.ndim != 1 for c in columns.values()):
        shapes = {name: column.shape for name, column in columns.items()}
        raise ValueError(f"the columns of a table must be (n,) for one n, but are {shapes}")
    return columns


def _write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    texts = [
        [f"{value:.8g}" for value in column] if column.dtype.kind == "f" else column.tolist()
        for column in columns.values()
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*texts, strict=True))
