"""HATS catalogues: Parquet partitioned by HEALPix, which `lsdb.open_catalog` and others read.

Hierarchical Adaptive Tiling Scheme: https://hats.readthedocs.io. Written through `lsdb`, the scheme's own library.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specdb.errors import DependencyError, InputError
from specdb.export.votable import VOPARQUET_CONTENT, VOPARQUET_VERSION, votable_header
from specdb.rows import Rows
from specdb.store.files import disk_errors

__all__ = ["save_hats"]


def save_hats(rows: pa.Table | Rows, folder: str | Path, name: str, *, partition_rows: int = 1_000_000) -> int:
    """Write rows as a HATS catalogue, with a margin of 5 arcsec for crossmatches across its edges.

    Parameters
    ----------
    rows : pyarrow.Table or Rows
        With columns ``ra`` and ``dec`` in degrees (ICRS); rows without a position are an error.
    folder : path-like
        Must not exist, or be empty.
    name : str
        Of the catalogue.
    partition_rows : int
        Most rows of a partition.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    InputError
        For rows without positions, or a folder that holds something.
    DependencyError
        Where `lsdb` is not installed.
    DatabaseError
        Where the folder cannot be written.
    """
    try:
        import lsdb
    except ImportError:
        raise DependencyError('HATS catalogues need lsdb: pip install "specdb[vo]"') from None
    table = rows.to_arrow() if isinstance(rows, Rows) else rows
    folder = Path(folder)
    if missing := {"ra", "dec"} - set(table.column_names):
        raise InputError(f"a HATS catalogue needs positions; the rows have no column {' and '.join(sorted(missing))}")
    if table.num_rows == 0:
        raise InputError("the table has no rows; a HATS catalogue cannot be empty")
    wild = int(np.count_nonzero(~_on_the_sphere(table)))
    if wild:
        raise InputError(
            f"{wild} of {table.num_rows} rows have no position on the sky; leave them out (WHERE ra IS NOT NULL)"
        )
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give a new folder")
    temporary = folder.with_name(f".tmp-{folder.name}")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            catalogue = lsdb.from_dataframe(
                table.to_pandas(types_mapper=_arrow_backed),
                ra_column="ra",
                dec_column="dec",
                catalog_name=name,
                partition_rows=partition_rows,
                schema=table.schema,
            )
            catalogue.write_catalog(temporary, catalog_name=name, progress_bar=False)
            _note_columns(temporary / name / "dataset" / "_common_metadata", table.schema)
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return table.num_rows


def _note_columns(path: Path, schema: pa.Schema) -> None:
    """Put units, UCDs and descriptions, which data frames do not carry, into the file that describes all partitions."""
    stored = pq.read_schema(path)
    notes = {f.name: f.metadata for f in schema}
    noted = pa.schema([f.with_metadata(notes.get(f.name)) for f in stored])
    header = {VOPARQUET_VERSION: b"1.0", VOPARQUET_CONTENT: votable_header(noted, {}).encode()}
    pq.write_metadata(noted.with_metadata((stored.metadata or {}) | header), path)


def _arrow_backed(kind: pa.DataType) -> object:
    import pandas as pd

    return pd.ArrowDtype(kind)  # ids stay 64-bit integers where some are null


def _on_the_sphere(table: pa.Table) -> np.ndarray:
    ra, dec = (pc.fill_null(table[c].cast(pa.float64()), np.nan).to_numpy() for c in ("ra", "dec"))
    return (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
