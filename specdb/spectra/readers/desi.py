"""DESI files of spectra: `coadd-*.fits`, one spectrum per target, and `spectra-*.fits`, one per exposure.

Each arm has the images WAVELENGTH (n_pix,), FLUX, IVAR, MASK (n, n_pix) and RESOLUTION (n, n_diag, n_pix); FIBERMAP,
EXP_FIBERMAP and SCORES are tables of facts about the fibres. Wavelengths are in vacuum and barycentric. A file holds up to
some thousand spectra and is read in pieces, so that no more than a few dozen of the resolution matrices are in memory at a
time. Redshifts are taken from the `redrock` file that lies beside it, if any.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.facts import describe_hdus
from specdb.spectra.readers.opened import FITS_SUFFIXES, OpenSource, codec_errors
from specdb.spectra.readers.registry import OtherInstrument
from specdb.spectra.schema import BLANK, SKY, metadata_table
from specdb.spectra.spectrum import Spectra

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["DESI_COLUMNS", "DesiReader", "band_width"]

_ROWS = 64  # spectra at a time
_WAVELENGTH = re.compile(r"([A-Z]+)_WAVELENGTH")
_ANGSTROM = ("", "angstrom", "angstroms", "a", "0.1 nm")
_RELEASES = {"fuji": "DESI EDR", "iron": "DESI DR1"}

_TEXT, _REAL, _SMALL, _INT, _LONG = pa.string(), pa.float32(), pa.int16(), pa.int32(), pa.int64()

#: column, type, unit, names in FIBERMAP in order of preference, description
_EXTRA: tuple[tuple[str, pa.DataType, str, tuple[str, ...], str], ...] = (
    ("target_id", _LONG, "", ("TARGETID",), "TARGETID"),
    ("tile_id", _INT, "", ("TILEID",), "tile"),
    ("petal", _SMALL, "", ("PETAL_LOC",), "petal of the focal plane, 0 to 9"),
    ("fiber", _INT, "", ("FIBER",), "fibre, 0 to 4999"),
    ("exposure_id", _INT, "", ("EXPID",), "exposure, of spectra that are not coadded"),
    ("fiber_type", _TEXT, "", (), "OBJTYPE: TGT, SKY, ...; BLANK where no good exposure has a target"),
    ("fiber_status", _INT, "", ("COADD_FIBERSTATUS", "FIBERSTATUS"), "warning bits of the fibre, 0 = good"),
    ("sub_survey", _TEXT, "", ("SURVEY",), "survey: sv1, sv2, sv3, main, ..."),
    ("program", _TEXT, "", ("PROGRAM",), "programme: bright, dark, backup, ..."),
    ("desi_target", _LONG, "", ("DESI_TARGET",), "targeting bits"),
    ("mws_target", _LONG, "", ("MWS_TARGET",), "targeting bits of the Milky Way Survey"),
    ("morphology", _TEXT, "", ("MORPHTYPE",), "shape in the imaging: PSF for stars"),
    (
        "reference_catalogue",
        _TEXT,
        "",
        ("REF_CAT",),
        "catalogue of the astrometry: G2 Gaia DR2, GE Gaia EDR3, T2 Tycho-2, ...",
    ),
    ("gaia_dr2_source_id", _LONG, "", (), "Gaia DR2 source_id, where the astrometry is of DR2"),
    ("phot_g_mean_mag", _REAL, "mag", ("GAIA_PHOT_G_MEAN_MAG",), "Gaia G magnitude"),
    ("pmra_masyr", _REAL, "mas/yr", ("PMRA",), "proper motion in right ascension, times cos(dec)"),
    ("pmdec_masyr", _REAL, "mas/yr", ("PMDEC",), "proper motion in declination"),
    ("ebv", _REAL, "mag", ("EBV",), "E(B-V) of Schlegel, Finkbeiner and Davis"),
    ("exposure_s", _REAL, "s", ("COADD_EXPTIME", "EXPTIME"), "exposure time"),
    ("n_exposures", _SMALL, "", ("COADD_NUMEXP",), "number of exposures that were added"),
    ("snr_arm_b", _REAL, "", (), "median signal-to-noise per pixel in the blue arm as the survey states it"),
    ("snr_arm_r", _REAL, "", (), "median signal-to-noise per pixel in the red arm as the survey states it"),
    ("snr_arm_z", _REAL, "", (), "median signal-to-noise per pixel in the near-infrared arm as the survey states it"),
    ("zwarning", _LONG, "", (), "warning bits of the redshift, 0 = good"),
)

#: Columns that DESI adds to `specdb.spectra.METADATA`.
DESI_COLUMNS = pa.schema(
    [
        pa.field(name, kind, metadata={"description": what} | ({"unit": unit} if unit else {}))
        for name, kind, unit, _, what in _EXTRA
    ]
)

#: Columns in which DESI writes 0 for "unknown".
_ZERO_IS_UNKNOWN = ("phot_g_mean_mag",)


def band_width(resolution: np.ndarray) -> np.ndarray:
    """Return the standard deviation (n, n_pix), float32, in pixels of resolution matrices given by their diagonals.

    Parameters
    ----------
    resolution : ndarray (n, n_diag, n_pix), float
        Element [k, j] is that of row ``j - offset`` and column j, the offsets falling from n_diag // 2: what light of
        pixel j becomes (DESI data model). Columns without light give 0.
    """
    n_diag = resolution.shape[1]
    offset = (n_diag // 2 - np.arange(n_diag)).astype(np.float32)
    moments = np.einsum("dk,nkj->dnj", np.stack([np.ones(n_diag, np.float32), offset, offset**2]), resolution)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = moments[2] / moments[0] - (moments[1] / moments[0]) ** 2
    return np.sqrt(np.where((moments[0] > 0) & (variance > 0), variance, 0)).astype(np.float32)


class DesiReader:
    """DESI `coadd` and `spectra` files: many spectra per file."""

    name = "desi"
    suffixes: tuple[str, ...] = FITS_SUFFIXES
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for a DESI file of spectra, else what it is instead."""
        if not opened.is_fits:
            return f"looked for FITS, which begins with 'SIMPLE  =', found {opened.head[:12]!r}"
        if _arm_names(opened.hdus):
            return None
        what = describe_hdus(opened.hdus)
        return OtherInstrument(f"a DESI file expected (B_WAVELENGTH, B_FLUX and so on), this is {what}")

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the spectra of the file in pieces of 64."""
        from astropy.io import fits

        _ = opened.hdus  # finds files that are cut off
        with codec_errors("DESI FITS"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened.random_access.seek(0)
            # Masks may be compressed images, which `opened.hdus` leaves alone.
            yield from _read(fits.open(opened.random_access, memmap=False, lazy_load_hdus=False), opened)


def _arm_names(hdus: HDUList) -> list[str]:
    names = {hdu.name for hdu in hdus}
    found = [match[1] for match in map(_WAVELENGTH.fullmatch, sorted(names)) if match]
    return [arm for arm in found if f"{arm}_FLUX" in names]


@dataclass(frozen=True)
class _Arm:
    """Where one arm lies on the common pixels, and its images."""

    name: str
    place: slice
    step: float
    hdus: HDUList

    def rows(self, what: str, start: int, stop: int) -> np.ndarray | None:
        """Return rows of one of the arm's images, in the byte order of the machine; None where there is none."""
        name = f"{self.name}_{what}"
        if name not in self.hdus:
            return None
        values = np.asarray(self.hdus[name].section[start:stop])
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def _arms(hdus: HDUList) -> tuple[np.ndarray, list[_Arm]]:
    """Return the pixels (n_pix,) that all arms have together, and the arms."""
    grids = {}
    for name in _arm_names(hdus):
        image = hdus[f"{name}_WAVELENGTH"]
        unit, air = (
            str(image.header.get("BUNIT", "")).strip(),
            str(image.header.get("AIRORVAC", "")).lower().startswith("air"),
        )
        if unit.lower() not in _ANGSTROM or air:
            found = f"{unit or 'Angstrom'} in {'air' if air else 'vacuum'}"
            raise ReadError("bad_wavelength", f"{image.name} is in {found}; expected Angstrom in vacuum")
        grids[name] = np.asarray(image.data, np.float64)
        if f"{name}_IVAR" not in hdus:
            raise ReadError("missing_column", f"the file has {name}_FLUX but no {name}_IVAR")
    # Arms meet on the same pixels, up to rounding.
    wavelength = np.unique(np.round(np.concatenate(list(grids.values())), 4))
    arms = []
    for name, grid in grids.items():
        first = int(np.searchsorted(wavelength, grid[0] - 1e-3)) if len(grid) else 0
        place = slice(first, first + len(grid))
        if len(grid) < 2 or wavelength[place].shape != grid.shape or np.abs(wavelength[place] - grid).max() > 1e-3:
            raise ReadError(
                "bad_wavelength", f"the pixels of arm {name} are not increasing, or not those of the arm beside it"
            )
        arms.append(_Arm(name, place, float(np.median(np.diff(grid))), hdus))
    return wavelength, arms


def _read(hdus: HDUList, opened: OpenSource) -> Iterator[Spectra]:
    wavelength, arms = _arms(hdus)
    if "FIBERMAP" not in hdus:
        raise ReadError("missing_column", "the file has no FIBERMAP, which says what the fibres were on")
    facts = _facts(hdus, opened)
    n = len(hdus["FIBERMAP"].data)
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        yield _spectra(wavelength, arms, {k: v[start:stop] for k, v in facts.items()}, start, stop)


def _spectra(wavelength: np.ndarray, arms: list[_Arm], facts: dict[str, Any], start: int, stop: int) -> Spectra:
    """Combine the arms of some spectra: means weighted with the inverse variance where arms overlap."""
    shape = stop - start, len(wavelength)
    flux, ivar, spread = (np.zeros(shape, np.float32) for _ in range(3))
    or_mask, and_mask = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    sharp = True
    for arm in arms:
        at = (slice(None), arm.place)
        values, weight, mask = (arm.rows(what, start, stop) for what in ("FLUX", "IVAR", "MASK"))
        assert values is not None
        assert weight is not None
        if values.shape != flux[at].shape or weight.shape != values.shape:
            raise ReadError(
                "corrupt", f"arm {arm.name} has fluxes {values.shape}, ivar {weight.shape}; expected {flux[at].shape}"
            )
        bits = np.zeros(values.shape, np.int32) if mask is None else mask.astype(np.uint32).view(np.int32)
        good = (bits == 0) & np.isfinite(values) & (weight > 0) & (weight < np.inf)
        weight = np.where(good, weight, 0)
        flux[at] += weight * np.where(good, values, 0)
        ivar[at] += weight
        or_mask[at] |= bits
        and_mask[at] &= bits
        resolution = arm.rows("RESOLUTION", start, stop)
        sharp = sharp and resolution is not None
        if resolution is not None:
            spread[at] += weight * (band_width(resolution) * arm.step) ** 2
    good = ivar > 0
    for total in (flux, spread):
        np.divide(total, ivar, out=total, where=good)
    kinds = np.array(facts["fiber_type"], object)
    kinds[~good.any(axis=1) & (kinds != SKY)] = BLANK
    facts = facts | {"fiber_type": kinds}
    if facts["spectrum_id"] is None or not len(facts["spectrum_id"]):
        facts["spectrum_id"] = content_ids(flux, wavelength)
    return Spectra(
        wavelength,
        flux,
        ivar,
        np.where(good, 0, and_mask),
        or_mask,
        metadata=metadata_table(facts, DESI_COLUMNS),
        lsf_sigma=np.sqrt(spread) if sharp else None,
    )


def _facts(hdus: HDUList, opened: OpenSource) -> dict[str, Any]:
    """Columns of metadata for all fibres; `spectrum_id` is empty for single exposures, which several share a TARGETID."""
    table = hdus["FIBERMAP"].data
    n = len(table)
    names = {name.upper(): name for name in table.names}

    def column(*keys: str) -> np.ndarray | None:
        key = next((names[key] for key in keys if key in names), None)
        return None if key is None else _plain(table[key])

    target = column("TARGETID")
    if target is None:
        raise ReadError("missing_column", f"FIBERMAP has no TARGETID; it has {', '.join(sorted(names)[:8])}")
    facts: dict[str, Any] = {name: column(*keys) for name, _, _, keys, _ in _EXTRA if keys}
    for name in _ZERO_IS_UNKNOWN:
        facts[name] = None if facts[name] is None else np.where(facts[name] == 0, np.nan, facts[name])
    kinds = column("OBJTYPE")
    known = np.full(n, "TGT", object) if kinds is None else kinds
    on_sky = known == "SKY"
    facts["fiber_type"] = np.where(on_sky, SKY, np.where((known != "TGT") | (target < 0), BLANK, known))
    single = facts["exposure_id"] is not None
    facts["spectrum_id"] = np.empty(0, np.int64) if single else target
    facts["ra"], facts["dec"] = column("TARGET_RA"), column("TARGET_DEC")
    epoch = column("REF_EPOCH")
    facts["epoch"] = None if epoch is None else np.where(epoch > 1900, epoch.astype(np.float64), np.nan)
    facts |= _gaia(column("REF_ID"), facts["reference_catalogue"])
    facts["mjd"] = _mjd(hdus, target, column("MEAN_MJD", "MJD"))
    facts |= {f"snr_arm_{arm.lower()}": value for arm in "BRZ" if (value := _score(hdus, arm, n)) is not None}
    facts |= _redshifts(opened, target)
    facts["object_name"] = np.array([f"DESI {i}" for i in target.tolist()], object)
    facts |= {"survey": np.full(n, "DESI", object), "source_file": np.full(n, opened.name, object)}
    facts["release"] = np.full(n, _release(hdus), object)
    return {name: values for name, values in facts.items() if values is not None}


def _plain(values: np.ndarray) -> np.ndarray:
    """Numbers in the byte order of the machine, text without blanks around it and None where there is none."""
    if values.dtype.kind in "SU":
        text = np.char.strip(np.asarray(values, str))
        return np.array([value or None for value in text.tolist()], object)
    return np.asarray(values).astype(values.dtype.newbyteorder("="), copy=False)


def _gaia(ref_id: np.ndarray | None, catalogue: np.ndarray | None) -> dict[str, Any]:
    """Gaia ids by release: those of EDR3 are those of DR3, those of DR2 may mean another star there."""
    if ref_id is None or catalogue is None:
        return {}
    return {
        column: np.array(
            [i if name == release and i > 0 else None for i, name in zip(ref_id.tolist(), catalogue, strict=True)], object
        )
        for column, release in (("gaia_source_id", "GE"), ("gaia_dr2_source_id", "G2"))
    }


def _mjd(hdus: HDUList, target: np.ndarray, stated: np.ndarray | None) -> np.ndarray | None:
    """The date as stated, else the mean over the exposures of each target."""
    if stated is not None:
        return stated.astype(np.float64)
    if "EXP_FIBERMAP" not in hdus or not {"MJD", "TARGETID"} <= set(hdus["EXP_FIBERMAP"].data.names):
        return None
    exposures = hdus["EXP_FIBERMAP"].data
    known, place = np.unique(_plain(exposures["TARGETID"]), return_inverse=True)
    if not len(known):
        return None
    mean = np.bincount(place, _plain(exposures["MJD"])) / np.bincount(place)
    at = np.minimum(np.searchsorted(known, target), len(known) - 1)
    return np.where(known[at] == target, mean[at], np.nan)


def _score(hdus: HDUList, arm: str, n: int) -> np.ndarray | None:
    if "SCORES" not in hdus or len(hdus["SCORES"].data) != n:
        return None
    scores = hdus["SCORES"].data
    name = next((name for name in (f"MEDIAN_COADD_SNR_{arm}", f"MEDIAN_CALIB_SNR_{arm}") if name in scores.names), None)
    return None if name is None else _plain(scores[name])


def _release(hdus: HDUList) -> str | None:
    """Name of the release by the production that the header names."""
    header = hdus[0].header
    for key, value in header.items():
        if key.startswith("DEPNAM") and value == "SPECPROD":
            production = str(header.get(f"DEPVER{key.removeprefix('DEPNAM')}", "")).strip()
            return _RELEASES.get(production, f"DESI {production}") if production else None
    return None


def _redshifts(opened: OpenSource, target: np.ndarray) -> dict[str, Any]:
    """Class and redshift from the file of redrock beside this one."""
    source = opened.source
    match = re.fullmatch(r"(?:coadd|spectra)-(.*?)\.fits(?:\.gz)?", source.path.name)
    if source.member or source.content is not None or not match:
        return {}
    endings = (".fits", ".fits.gz")
    beside = (source.path.with_name(f"{kind}-{match[1]}{ending}") for kind in ("redrock", "zbest") for ending in endings)
    path = next((path for path in beside if path.is_file()), None)
    return {} if path is None else _read_redrock(path, target)


def _read_redrock(path: Path, target: np.ndarray) -> dict[str, Any]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            table = next(hdu.data for hdu in hdus if hdu.name in ("REDSHIFTS", "ZBEST"))
            columns = {name: _plain(table[name]) for name in ("TARGETID", "SPECTYPE", "SUBTYPE", "Z", "ZERR", "ZWARN")}
    except Exception as error:  # whatever astropy finds in damaged bytes
        raise ReadError(
            "corrupt", f"{path.name} beside it cannot be read ({error}); fetch it again, or move it away"
        ) from error
    ids = columns["TARGETID"]
    order = np.argsort(ids, kind="stable")
    at = (
        order[np.minimum(np.searchsorted(ids, target, sorter=order), max(len(ids) - 1, 0))] if len(ids) else np.zeros(0, int)
    )
    known = ids[at] == target if len(ids) else np.zeros(len(target), bool)
    if not known.any():
        return {}
    nothing = np.full(len(target), None, object)
    text = {"class": columns["SPECTYPE"], "subclass": columns["SUBTYPE"]}
    numbers = {"z": columns["Z"], "z_err": columns["ZERR"]}
    return (
        {name: np.where(known, values[at], nothing) for name, values in text.items()}
        | {name: np.where(known, values[at], np.nan) for name, values in numbers.items()}
        | {"zwarning": np.where(known, columns["ZWARN"][at].astype(object), nothing)}
    )
