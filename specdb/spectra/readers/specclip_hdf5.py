"""SpecCLIP's HDF5 files: paired Gaia XP and LAMOST LRS spectra that already lie on the grids of its models.

Layout: groups (``test`` in the published examples) with ``source_ids`` (n,), ``gaia_spectra`` (n, 343) and
``lamost_spectra`` (n, 1462); a last axis of length 1 is dropped. The grids are 336 to 1020 nm in steps of 2 nm and
log10(wavelength/Angstrom) = 3.602 + 1e-4 i. Nothing in the file says whether a preparation has been applied. Division by
the value at 550 nm may be repeated without harm; the LRS continuum may not, and is not undone here: the flux is delivered as
it is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.opened import OpenSource, codec_errors
from specdb.spectra.schema import metadata_table
from specdb.spectra.spectrum import Spectra

__all__ = ["SpecClipReader", "specclip_readers"]

_BATCH = 1024
_HDF5 = b"\x89HDF\r\n\x1a\n"


class SpecClipReader:
    """One of the two modalities of a SpecCLIP file.

    Parameters
    ----------
    name : str
        As registered: ``specclip_hdf5_lrs`` or ``specclip_hdf5_xp``.
    dataset : str
        ``lamost_spectra`` or ``gaia_spectra``.
    wavelength : ndarray (n_pix,), vacuum Angstrom
    log10_grid : tuple, optional
        Coefficients of a log-linear grid.
    """

    suffixes: tuple[str, ...] = (".h5", ".hdf5")
    native = True

    def __init__(
        self, name: str, dataset: str, wavelength: np.ndarray, log10_grid: tuple[float, float] | None = None
    ) -> None:
        self.name = name
        self._dataset = dataset
        self._wavelength = wavelength
        self._log10_grid = log10_grid

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for an HDF5 file with a group that holds `source_ids` and this dataset."""
        import h5py

        if not opened.head.startswith(_HDF5):
            return "looked for HDF5, found another signature"
        with codec_errors("HDF5"), opened.stream() as stream, h5py.File(stream, "r") as file:
            found = self._groups(file)
            return None if found else f"looked for a group with source_ids and {self._dataset}, found {list(file)[:5]}"

    def _groups(self, file) -> list[str]:
        found = []
        for name, group in file.items():
            data = group.get(self._dataset) if hasattr(group, "get") else None
            if getattr(data, "shape", ())[1:2] == (self._wavelength.size,) and hasattr(group.get("source_ids"), "shape"):
                found.append(name)
        return found

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield batches of up to 1024 spectra, group by group."""
        import h5py

        with codec_errors("HDF5"), opened.stream() as stream, h5py.File(stream, "r") as file:
            if not (groups := self._groups(file)):
                raise ReadError(
                    "missing_column", f"no group has source_ids and {self._dataset} (n, {self._wavelength.size})"
                )
            for group in groups:
                flux, ids = file[group][self._dataset], file[group]["source_ids"]
                if len(flux) != len(ids):
                    raise ReadError("corrupt", f"{group}: {len(flux)} spectra for {len(ids)} source_ids")
                for start in range(0, len(flux), _BATCH):
                    rows = slice(start, start + _BATCH)
                    yield self._spectra(flux[rows], ids[rows], opened.name)

    def _spectra(self, stored: np.ndarray, source_ids: np.ndarray, source_file: str) -> Spectra:
        flux = stored.reshape(len(stored), -1).astype(np.float64 if stored.dtype.itemsize == 8 else np.float32)
        sources = [_source_id(value) for value in source_ids]
        lamost = self._log10_grid is not None
        hashed = content_ids(flux, self._wavelength).tolist()
        ids = hashed if lamost else [source or other for source, other in zip(sources, hashed, strict=True)]
        columns = {
            "spectrum_id": ids,
            "survey": ["LAMOST" if lamost else "Gaia"] * len(flux),
            "source_file": [source_file] * len(flux),
            "gaia_source_id": sources,
        }
        return Spectra(self._wavelength, flux, metadata=metadata_table(columns), log10_grid=self._log10_grid)


def specclip_readers() -> tuple[SpecClipReader, SpecClipReader]:
    """Return the readers of the two halves of SpecCLIP's files."""
    start, step = 3.602, 1e-4
    lrs, xp = 10 ** (start + step * np.arange(1462)), 3360.0 + 20.0 * np.arange(343)
    return (
        SpecClipReader("specclip_hdf5_lrs", "lamost_spectra", lrs, (start, step)),
        SpecClipReader("specclip_hdf5_xp", "gaia_spectra", xp),
    )


def _source_id(value: object) -> int | None:
    """A Gaia source_id from a number or from text such as ``Gaia DR3 123``; None where there is none."""
    if isinstance(value, int | np.integer):
        number = int(value)
    elif isinstance(value, bytes | str):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        match = re.search(r"(?<![\d.])\d{1,19}\s*$", text)
        number = int(match[0]) if match else 0
    else:  # floats cannot hold the 19 digits of a source_id
        number = 0
    return number if 0 < number < 2**63 else None
