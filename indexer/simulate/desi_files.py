"""Files as DESI delivers them (`coadd`, three arms), holding simulated spectra and saying so in every header."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from indexer.simulate.desi_like import DesiLike, draw_desi_like
from specdb.errors import InputError
from specdb.spectra.spectrum import Spectra
from specdb.store.files import atomic_path

__all__ = ["FIRST_TARGETID", "DesiSurvey", "simulate_desi", "write_coadd"]

#: First and last pixel of the arms among the 7781 from 3600 Angstrom in steps of 0.8 (DESI data model of coadd files).
ARMS = {"B": (0, 2750), "R": (2700, 5025), "Z": (4900, 7780)}
FIRST_TARGETID = 39_600_000_000_000_000

_DIAGONALS = 11
_FIBRES = 250  # stars per file
_IDLE = ("SKY", "SKY", "", "SKY")  # what some fibres of each file are on, besides the stars


@dataclass(frozen=True)
class DesiSurvey:
    """What was written.

    Attributes
    ----------
    spectra : Path
        Folder of the coadd files.
    truth : Path
        Parquet: target_id, teff, logg, feh, alpha_fe, ebv, rv_kms, snr.
    n_stars, n_files : int
    n_idle : int
        Fibres on the sky or on nothing, which are no spectra.
    """

    spectra: Path
    truth: Path
    n_stars: int
    n_files: int
    n_idle: int


def simulate_desi(directory: str | Path, n_stars: int = 300, seed: int = 0) -> DesiSurvey:
    """Write stars of `draw_desi_like` as coadd files of 250 stars and a few idle fibres, with a truth table.

    Raises
    ------
    InputError
        For a number out of range, or a folder that holds something.
    """
    root = Path(directory)
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root} is not empty; name a new folder")
    drawn = draw_desi_like(n_stars, seed)
    spectra = root / "desi"
    spectra.mkdir(parents=True)
    ids = FIRST_TARGETID + np.arange(n_stars)
    rng = np.random.default_rng([seed, 90])
    n_files = n_idle = 0
    for n_files, rows in enumerate(_cuts(n_stars), 1):
        position = _positions(n_files, rows.stop - rows.start + len(_IDLE), rng)
        write_coadd(spectra / f"coadd-sim-bright-{n_files - 1}.fits.gz", drawn.native.take(rows), ids[rows], *position, rng)
        n_idle += len(_IDLE)
    truth = root / "truth.parquet"
    with atomic_path(truth) as temporary:
        pq.write_table(_truth(drawn, ids), temporary)
    return DesiSurvey(spectra, truth, n_stars, n_files, n_idle)


def _cuts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _FIBRES, n)) for start in range(0, n, _FIBRES))


def _positions(number: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) in degrees within a square degree, another one for each file."""
    return (20.0 * number + rng.random(n)) % 360, 30 + rng.random(n)


def _truth(drawn: DesiLike, ids: np.ndarray) -> pa.Table:
    names = ("teff", "logg", "feh", "alpha_fe")
    labels = {name: drawn.labels[:, i] for i, name in enumerate(names)}
    return pa.table({"target_id": ids} | labels | {"ebv": drawn.ebv, "rv_kms": drawn.rv_kms, "snr": drawn.snr})


def write_coadd(
    path: Path, spectra: Spectra, target_id: np.ndarray, ra: np.ndarray, dec: np.ndarray, rng: np.random.Generator
) -> None:
    """Write a coadd file (gzip) of spectra (n, 7781) on DESI's pixels, followed by idle fibres.

    Where two arms overlap each gets the same flux with half the inverse variance, so that adding them gives back what
    was put in. Positions in degrees are for the stars and the idle fibres.

    Raises
    ------
    InputError
        For spectra on other pixels, or without errors or line spread.
    """
    last = max(stop for _, stop in ARMS.values())
    if spectra.wavelength.shape != (last + 1,) or spectra.ivar is None or spectra.lsf_sigma is None:
        raise InputError(f"spectra of shape {spectra.flux.shape}; give {last + 1} pixels, inverse variances and line spread")
    n, idle = len(spectra), len(_IDLE)
    arms = np.zeros(last + 1, np.float32)  # how many see a pixel
    for first, stop in ARMS.values():
        arms[first : stop + 1] += 1
    hdus: list[fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU] = [fits.PrimaryHDU()]
    hdus[0].header["SIMULATE"] = (True, "made by specdb simulate desi: no observation")
    hdus[0].header["DEPNAM00"], hdus[0].header["DEPVER00"] = "SPECPROD", "simulated"
    hdus.append(_fibermap(target_id, ra, dec))
    scores = {"TARGETID": hdus[1].data["TARGETID"]}
    for arm, (first, stop) in ARMS.items():
        at = slice(first, stop + 1)
        sky = rng.standard_normal((idle, stop + 1 - first)) * 0.02  # what is left of the sky
        lit = np.array([kind == "SKY" for kind in _IDLE])[:, None]
        flux = np.concatenate([spectra.flux[:, at], np.where(lit, sky, 0)]).astype(np.float32)
        ivar = np.concatenate([spectra.ivar[:, at] / arms[at], np.where(lit, 2500.0, 0) * np.ones_like(sky)]).astype(
            np.float32
        )
        resolution = np.zeros((n + idle, _DIAGONALS, stop + 1 - first), np.float32)
        resolution[:n] = _diagonals(spectra.lsf_sigma[0, at] / np.gradient(spectra.wavelength)[at])
        images = {
            "WAVELENGTH": (spectra.wavelength[at], "Angstrom"),
            "FLUX": (flux, "10**-17 erg/(s cm2 Angstrom)"),
            "IVAR": (ivar, "10**+34 (s2 cm4 Angstrom2) / erg2"),
            "MASK": ((ivar == 0).astype(np.uint32) * 2, ""),
            "RESOLUTION": (resolution, ""),
        }
        for name, (values, unit) in images.items():
            hdus.append(fits.ImageHDU(values, name=f"{arm}_{name}"))
            if unit:
                hdus[-1].header["BUNIT"] = unit
        scores[f"MEDIAN_COADD_SNR_{arm}"] = np.median(flux * np.sqrt(ivar), axis=1)
    columns = [fits.Column(name, "K" if name == "TARGETID" else "E", array=values) for name, values in scores.items()]
    hdus.append(fits.BinTableHDU.from_columns(columns, name="SCORES"))
    with atomic_path(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as file:
        fits.HDUList(hdus).writeto(file)


def _fibermap(target_id: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> fits.BinTableHDU:
    n, idle = len(target_id), len(_IDLE)
    kinds = np.array(["TGT"] * n + list(_IDLE))
    columns = [
        fits.Column("TARGETID", "K", array=np.concatenate([target_id, -1 - np.arange(idle)])),
        fits.Column("COADD_FIBERSTATUS", "J", array=np.where(kinds == "", 1, 0)),
        fits.Column("TARGET_RA", "D", array=ra),
        fits.Column("TARGET_DEC", "D", array=dec),
        fits.Column("REF_EPOCH", "E", array=np.where(kinds == "TGT", 2015.5, 0)),
        fits.Column("REF_ID", "K", array=np.zeros(n + idle, int)),
        fits.Column("REF_CAT", "2A", array=np.full(n + idle, "")),
        fits.Column("OBJTYPE", "3A", array=kinds),
        fits.Column("MORPHTYPE", "4A", array=np.where(kinds == "TGT", "PSF", "")),
        fits.Column("PETAL_LOC", "I", array=np.arange(n + idle) * 10 // (n + idle)),
        fits.Column("FIBER", "J", array=np.arange(n + idle)),
        fits.Column("COADD_NUMEXP", "I", array=np.where(kinds == "", 0, 1)),
        fits.Column("COADD_EXPTIME", "E", array=np.where(kinds == "", 0, 900)),
        fits.Column("MEAN_MJD", "D", array=np.full(n + idle, 59500.25)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FIBERMAP")


def _diagonals(sigma: np.ndarray) -> np.ndarray:
    """Resolution matrix (n_diag, n_pix), float32, as diagonals: discrete Gaussians of `sigma` (n_pix,) pixels."""
    from scipy.special import ive

    offsets = np.arange(_DIAGONALS)[:, None] - _DIAGONALS // 2
    kernel = ive(np.abs(offsets), sigma**2)
    return (kernel / kernel.sum(axis=0)).astype(np.float32)
