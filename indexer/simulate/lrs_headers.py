"""What a LAMOST file says about a simulated visit: keywords, and the columns that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import Angle
from astropy.time import Time
from scipy.ndimage import uniform_filter1d

from indexer.simulate.instrument import SPEED_OF_LIGHT_KMS, LrsSpectra
from indexer.simulate.population import spectral_type

__all__ = ["Visits", "designations", "file_contents"]


@dataclass(frozen=True)
class Visits:
    """Visits of stars, one per row: running number, truth, and what names the file (all ndarrays (n,), labels (n, 3)).

    Where `redshift` is not 0 the pipeline is taken to have seen a quasar (above 0.19) or a galaxy; all others are stars.
    """

    number: np.ndarray
    star: np.ndarray
    labels: np.ndarray
    rv_kms: np.ndarray
    redshift: np.ndarray
    snr_g: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    obsid: np.ndarray
    planid: np.ndarray
    lmjd: np.ndarray
    spid: np.ndarray
    fiberid: np.ndarray
    source_file: np.ndarray


def file_contents(visits: Visits, observed: LrsSpectra) -> Iterator[tuple[dict[str, object], dict[str, np.ndarray]]]:
    """Yield keywords and columns of each visit, as `indexer.simulate.lrs_files.encode_lamost` wants them."""
    z_err = np.hypot(1e-5, 6e-4 / visits.snr_g)
    # The pipeline's velocity is off by about its error, in a fixed pattern: headers need no random numbers of their own.
    z = np.where(visits.redshift > 0, visits.redshift, visits.rv_kms / SPEED_OF_LIGHT_KMS) + z_err * np.sin(
        1.7 * visits.number
    )
    kind = np.select([visits.redshift > 0.19, visits.redshift > 0], ["QSO", "GALAXY"], "STAR")
    subclass = np.where(kind == "STAR", spectral_type(visits.labels[:, 0], visits.labels[:, 1]), "Non")
    names = designations(visits.ra, visits.dec)
    dates = Time(visits.lmjd - 0.3, format="mjd").isot
    smooth = uniform_filter1d(observed.flux, 201, axis=1, mode="nearest")
    normalised = observed.flux / np.where(smooth > 0, smooth, 1)
    for k in range(len(visits.star)):
        keywords: dict[str, object] = {
            "FILENAME": str(visits.source_file[k]).split("/")[-1].removesuffix(".gz"),
            "OBSID": int(visits.obsid[k]),
            "DATE-OBS": str(dates[k]),
            "LMJD": int(visits.lmjd[k]),
            "MJD": int(visits.lmjd[k]) - 1,
            "PLANID": str(visits.planid[k]),
            "RA": round(float(visits.ra[k]), 6),
            "DEC": round(float(visits.dec[k]), 6),
            "DESIG": names[k],
            "FIBERID": int(visits.fiberid[k]),
            "OBJNAME": f"SIM-{visits.star[k]:06d}",
            "SPID": int(visits.spid[k]),
            "CLASS": str(kind[k]),
            "SUBCLASS": str(subclass[k]),
            "Z": round(float(z[k]), 8),
            "Z_ERR": round(float(z_err[k]), 8),
        }
        keywords |= {f"SNR{band}": round(float(s), 2) for band, s in zip("UGRIZ", observed.snr[k], strict=True)}
        columns = {"FLUX": observed.flux[k], "IVAR": observed.ivar[k], "NORMALIZATION": normalised[k]}
        yield keywords, columns | {"ANDMASK": observed.and_mask[k], "ORMASK": observed.or_mask[k]}


def designations(ra: np.ndarray, dec: np.ndarray) -> list[str]:
    """Return names from positions (n,) in degrees, marked as simulated."""
    hours = Angle(ra, "deg").to_string("hourangle", sep="", precision=2, pad=True)
    degrees = Angle(dec, "deg").to_string("deg", sep="", precision=1, pad=True, alwayssign=True)
    return [f"SIMULATED J{h}{d}" for h, d in zip(hours, degrees, strict=True)]
