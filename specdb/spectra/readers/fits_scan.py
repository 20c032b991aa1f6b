"""Shortcuts past astropy for files read by the million: keyword values, columns of plain tables, the row of a table of one.

astropy finds and checks the header-data units; these functions only pick values out of what it found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from specdb.errors import ReadError
from specdb.spectra.readers.opened import OpenSource

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, ImageHDU

__all__ = ["first_row", "header_values", "table_columns"]

_CARD = re.compile(r"([A-Z0-9_-]{1,8}) *= *(?:'((?:[^']|'')*)'|([^/']*))")
_TFORM = re.compile(r"(\d*)([EDJIKB])")
_FORMATS = {"E": ">f4", "D": ">f8", "J": ">i4", "I": ">i2", "K": ">i8", "B": "u1"}
_ANY_TFORM = re.compile(r"(\d*)([A-Z])")
_SIZES = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}


def header_values(opened: OpenSource, hdu: ImageHDU | BinTableHDU) -> dict[str, Any]:
    """Values of all keywords of a header, the first where one is repeated.

    The cards are scanned as text: astropy parses a card in 20 microseconds, which for the 80 of interest takes longer
    than decompressing the file. HIERARCH and CONTINUE, which LAMOST does not use, are passed over.
    """
    place = hdu.fileinfo()
    text = opened.between(place["hdrLoc"], place["datLoc"]).decode("latin-1")
    values: dict[str, Any] = {}
    for start in range(0, len(text), 80):
        card = _CARD.match(text, start, start + 80)
        if card:
            key, quoted, plain = card.groups()
            values.setdefault(key, quoted.replace("''", "'").rstrip() if quoted is not None else _literal(plain.strip()))
    return values


def _literal(text: str) -> bool | int | float | None:
    """Value of an unquoted FITS card; None where it is undefined or unreadable."""
    if text in ("T", "F"):
        return text == "T"
    try:
        return int(text)
    except ValueError:
        try:
            return float(text.replace("D", "E"))
        except ValueError:
            return None


def table_columns(opened: OpenSource, hdu: BinTableHDU) -> dict[str, np.ndarray]:
    """Columns of a binary table by upper-case name, each flattened.

    astropy needs several milliseconds to set up a table of six columns; plain numeric columns are therefore viewed in
    place, and only tables with anything more (scaling, text, variable length) are left to it.
    """
    keys = header_values(opened, hdu)
    numbers = range(1, int(keys.get("TFIELDS", 0)) + 1)
    forms = [_TFORM.fullmatch(str(keys.get(f"TFORM{i}", ""))) for i in numbers]
    one_axis = all(keys.get(f"TDIM{i}", f"({f[1]})") == f"({f[1]})" for i, f in zip(numbers, forms, strict=True) if f)
    if not all(forms) or not one_axis or any(key.startswith(("TSCAL", "TZERO", "TNULL")) for key in keys):
        return {name.upper(): np.ravel(hdu.data[name]) for name in hdu.columns.names}
    names = [str(keys.get(f"TTYPE{i}", f"COL{i}")).upper() for i in numbers]
    dtype = np.dtype([(n, _FORMATS[f[2]], (int(f[1] or 1),)) for n, f in zip(names, forms, strict=True) if f])
    if dtype.itemsize != keys["NAXIS1"]:
        raise ReadError("corrupt", f"columns add up to {dtype.itemsize} bytes a row, NAXIS1 says {keys['NAXIS1']}")
    rows = np.frombuffer(opened.data, dtype, count=keys["NAXIS2"], offset=hdu.fileinfo()["datLoc"])
    return {name: rows[name].ravel() for name in names}


def first_row(opened: OpenSource, hdu: BinTableHDU) -> dict[str, Any]:
    """First row of a binary table by upper-case name: Python numbers, text, or arrays where a cell holds several numbers.

    astropy takes 30 milliseconds for the 230 columns that describe an SDSS spectrum. Zero points of integers (TZERO, with
    which FITS writes unsigned ones) are added; columns of other kinds than numbers and text are left out.
    """
    keys = header_values(opened, hdu)
    if not keys.get("NAXIS2"):
        return {}
    row: dict[str, Any] = {}
    at = hdu.fileinfo()["datLoc"]
    for i in range(1, int(keys.get("TFIELDS", 0)) + 1):
        form = _ANY_TFORM.match(str(keys.get(f"TFORM{i}", "")))
        if not form or form[2] not in _SIZES:
            raise ReadError(
                "corrupt", f"column {i} of {hdu.name} has the format {keys.get(f'TFORM{i}')!r}; no size is known"
            )
        count, kind = int(form[1] or 1), form[2]
        size = -(-count // 8) if kind == "X" else count * _SIZES[kind]
        name = str(keys.get(f"TTYPE{i}", f"COL{i}")).upper()
        if kind == "A":
            row[name] = opened.data[at : at + size].split(b"\0")[0].decode("latin-1").strip()
        elif kind in _FORMATS and count:
            values = np.frombuffer(opened.data, _FORMATS[kind], count=count, offset=at)
            zero = keys.get(f"TZERO{i}") or 0
            row[name] = values if count > 1 else values[0].item() + zero
        at += size
    return row
