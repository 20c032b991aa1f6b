"""Sky coverage as a Multi-Order Coverage map (IVOA MOC 2.0), which Aladin, TOPCAT and lsdb read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specdb.errors import DependencyError
from specdb.store.files import atomic_path

__all__ = ["save_moc"]


def save_moc(cells: np.ndarray, level: int, path: str | Path) -> None:
    """Write the union of HEALPix cells as a MOC in a FITS file.

    Parameters
    ----------
    cells : ndarray (n,), int64
        Nested indices in ICRS.
    level : int
        HEALPix order of the cells.
    path : path-like

    Raises
    ------
    DependencyError
        Where `mocpy` is not installed.
    """
    try:
        from mocpy import MOC
    except ImportError:
        raise DependencyError('coverage maps need mocpy: pip install "specdb[vo]"') from None
    order = np.full(len(cells), level, np.uint8)
    moc = MOC.from_healpix_cells(cells.astype(np.uint64), order, max_depth=level)
    with atomic_path(Path(path)) as temporary:
        moc.save(temporary, format="fits", overwrite=True)
