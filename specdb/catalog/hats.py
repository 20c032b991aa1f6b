"""HATS catalogues: folders of Parquet files, one per HEALPix cell, read cell by cell.

Hierarchical Adaptive Tiling Scheme: https://hats.readthedocs.io. Plain Parquet in a stated layout, so nothing but pyarrow is
needed. Each row is in exactly one cell; margins, which repeat rows of neighbouring cells, are other folders and not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specdb.catalog.files import CatalogueFile, parquet_schema
from specdb.errors import InputError

__all__ = ["Cell", "cell_radius_rad", "open_hats"]

_BLOCK_ROWS = 1 << 17
_CELL = re.compile(r"Norder=(\d+)/Dir=\d+/Npix=(\d+)(?:\.parquet$|/)")
_PROPERTIES = ("collection.properties", "hats.properties", "properties")

#: HEALPix number that HATS keeps beside each row to sort by; it follows from the position.
_DERIVED = "_healpix_29"


@dataclass(frozen=True)
class Cell:
    """A nested HEALPix cell (ICRS) of a catalogue and the files of its rows."""

    order: int
    pixel: int
    files: tuple[Path, ...]


def open_hats(folder: Path) -> CatalogueFile:
    """Open a HATS catalogue, or the catalogue inside a HATS collection.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    CatalogueFile
        With `cells`, `narrowed` and `position`.

    Raises
    ------
    InputError
        For a folder of something else, or a catalogue without rows.
    """
    properties = _properties(folder)
    if "hats_primary_table_url" in properties and "dataproduct_type" not in properties:  # a collection
        folder = folder / properties["hats_primary_table_url"]
        properties = _properties(folder)
    if (kind := properties.get("dataproduct_type", "object")) not in ("object", "source"):
        raise InputError(
            f"{folder} is a HATS {kind}, not a catalogue; name the folder of the catalogue or collection itself"
        )
    cells = _cells(folder / "dataset")
    if not cells:
        raise InputError(
            f"{folder} is a HATS catalogue without rows: {folder / 'dataset'} holds no Norder=*/Dir=*/Npix=*.parquet"
        )
    try:
        common = folder / "dataset" / "_common_metadata"
        stored = parquet_schema(pq.read_schema(common if common.exists() else cells[0].files[0]))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{folder} cannot be read: {error}") from error
    schema = pa.schema([f for f in stored if f.name not in (_DERIVED, "Norder", "Dir", "Npix")])
    ra, dec = properties.get("hats_col_ra", ""), properties.get("hats_col_dec", "")
    position = (ra, dec) if ra in schema.names and dec in schema.names else None
    return _of_cells(folder, schema, cells, position)


def cell_radius_rad(order: int) -> float:
    """Return the largest distance, in radians, from the centre of a HEALPix cell to its edge (Gorski et al. 2005)."""
    nside = 1 << order
    polar = (1 - 1 / nside) ** 2 / 3  # the corner of a cell beside the pole, seen from the centre of the cell next to it
    a, b = np.arccos(2 / 3), np.arccos(1 - polar)
    cosine = np.cos(a) * np.cos(b) + np.sin(a) * np.sin(b) * np.cos(np.pi / (4 * nside))
    return float(np.arccos(cosine))


def _of_cells(folder: Path, schema: pa.Schema, cells: tuple[Cell, ...], position: tuple[str, str] | None) -> CatalogueFile:
    def batches() -> Iterator[pa.RecordBatch]:
        for cell in cells:
            for path in cell.files:
                yield from _batches(path, schema)

    def narrowed(wanted: Callable[[tuple[Cell, ...]], np.ndarray]) -> CatalogueFile:
        chosen = wanted(cells)
        return _of_cells(folder, schema, tuple(c for c, yes in zip(cells, chosen, strict=True) if yes), position)

    return CatalogueFile(
        folder, schema, batches, (), tuple(path for cell in cells for path in cell.files), position, narrowed
    )


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            if missing := set(schema.names) - set(file.schema_arrow.names):
                raise InputError(f"{path} has no column {', '.join(sorted(missing))}, which the catalogue's schema names")
            for batch in file.iter_batches(_BLOCK_ROWS, columns=schema.names):
                columns = [batch.column(f.name).cast(f.type) for f in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}; the catalogue is damaged or incomplete") from error


def _cells(dataset: Path) -> tuple[Cell, ...]:
    found: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(dataset.glob("Norder=*/Dir=*/Npix=*")):
        matched = _CELL.search(path.relative_to(dataset).as_posix() + ("/" if path.is_dir() else ""))
        if matched:
            files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
            found.setdefault((int(matched[1]), int(matched[2])), []).extend(files)
    return tuple(Cell(order, pixel, tuple(files)) for (order, pixel), files in sorted(found.items()) if files)


def _properties(folder: Path) -> dict[str, str]:
    for name in _PROPERTIES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
            return {key.strip(): value.strip() for key, value in pairs}
    raise InputError(f"{folder} is a folder without {' or '.join(_PROPERTIES)}; give a catalogue file, or a HATS catalogue")
