"""Writers of small files in LAMOST's three layouts, for tests that must run without real data."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
from astropy.io import fits

LAYOUTS = ("A", "B", "C")
COEFF0, COEFF1 = 3.5682, 1e-4


def lamost_arrays(n_pix: int = 3909, seed: int = 0, coeff0: float = COEFF0) -> dict[str, np.ndarray]:
    """Wavelength, flux, ivar and masks of something like a star of 6000 K; float32 as in the files."""
    rng = np.random.default_rng(seed)
    wavelength = 10 ** (coeff0 + COEFF1 * np.arange(n_pix))
    continuum = 500 * (5500 / wavelength) ** 4 / np.expm1(1.4388e8 / 6000 / wavelength) * np.expm1(1.4388e8 / 6000 / 5500)
    lines = sum(np.exp(-0.5 * ((wavelength - centre) / 6) ** 2) for centre in (3934, 4102, 4341, 4862, 5175, 6565))
    flux = continuum * (1 - 0.4 * lines) * (1 + 0.02 * rng.standard_normal(n_pix))
    return {
        "wavelength": wavelength.astype("f4"),
        "flux": flux.astype("f4"),
        "ivar": (1 / (0.02 * continuum) ** 2).astype("f4"),
        "and_mask": np.zeros(n_pix, "f4"),
        "or_mask": np.zeros(n_pix, "f4"),
    }


def lamost_header(layout: str, **keywords: object) -> fits.Header:
    """Keywords as the pipeline writes them in this layout; None removes one."""
    values: dict[str, object] = {
        "TELESCOP": "LAMOST",
        "ORIGIN": "NAOC-LAMOST",
        "DATE-OBS": "2011-10-24T12:32:00",
        "LMJD": 55859,
        "MJD": 55858,
        "PLANID": "F5902",
        "RA": 330.909453,
        "DEC": -0.17471,
        "DESIG": "LAMOST J220338.26-001028.9",
        "FIBERID": 232,
        "OBJNAME": "1237663543146381408",
        "OBJTYPE": "FS",
        "SPID": 3,
        "SEEING": 3.4,
        "EXPTIME": 5400.0,
        "NEXP": 3,
        "HELIO": True,
        "HELIO_RV": 25.10252,
        "VACUUM": True,
        "COEFF0": COEFF0,
        "COEFF1": COEFF1,
        "VERSPIPE": "v2.6.4" if layout == "A" else "v2.9.8",
        "CLASS": "STAR",
        "SUBCLASS": "F4",
        "Z": 3.402e-05,
        "Z_ERR": 2.565e-05,
    }
    snr = "SN_{}" if layout == "A" else "SNR{}"
    values |= {snr.format(band): value for band, value in zip("UGRIZ", (22.59, 94.11, 118.57, 155.86, 104.23), strict=True)}
    if layout == "A":
        values |= {"EXTEN0": "Flux Inverse Subcontinuum Andmask Ormask", "OBJSOURC": "PILOT", "FIBERTYP": "Obj"}
    else:
        values |= {"OBSID": 103232, "DATA_V": "LAMOST DR8" if layout == "B" else "LAMOST DR10", "TSOURCE": "PILOT"}
    if layout == "B":
        values |= {"EXTEN0": "Flux, Inverse, Wavelength, Andmask, Ormask", "FIBERTYP": "F-Std", "FIBERMAS": 0}
    if layout == "C":
        values |= {"FIB_TYPE": "Obj", "FIB_MASK": 64, "MAG_PS_G": 15.32, "MAG_PS_R": -999.0}
    else:
        magnitudes = (16.2, 15.09, 14.75, 14.65, 14.62, 99.0, 99.0)
        values |= {"MAGTYPE": "ugriz"} | {f"MAG{i}": value for i, value in enumerate(magnitudes, 1)}
    header = fits.Header()
    for key, value in (values | keywords).items():
        if value is not None:
            header[key] = value
    return header


def lamost_bytes(layout: str, arrays: dict[str, np.ndarray] | None = None, **keywords: object) -> bytes:
    """Content of one uncompressed file; keywords override or, with None, remove those of `lamost_header`."""
    a = lamost_arrays() if arrays is None else arrays
    header = lamost_header(layout, **keywords)
    hdus: list = []
    if layout == "C":
        n = len(a["flux"])
        names = {"FLUX": "flux", "IVAR": "ivar", "WAVELENGTH": "wavelength", "ANDMASK": "and_mask", "ORMASK": "or_mask"}
        columns = [fits.Column(name, f"{n}E", array=a[key][None]) for name, key in names.items() if key in a]
        hdus = [fits.PrimaryHDU(header=header), fits.BinTableHDU.from_columns(columns, name="COADD")]
    else:
        third = a["wavelength"] if layout == "B" else np.ones_like(a["flux"])
        image = np.stack([a["flux"], a["ivar"], third, a["and_mask"], a["or_mask"]])
        hdus = [fits.PrimaryHDU(image, header=header)]
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer, output_verify="silentfix")
    return buffer.getvalue()


def write_lamost(path: Path, layout: str = "B", arrays: dict[str, np.ndarray] | None = None, **keywords: object) -> Path:
    """Write one file; compressed where the name ends in ``.gz``."""
    data = lamost_bytes(layout, arrays, **keywords)
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)
    return path
