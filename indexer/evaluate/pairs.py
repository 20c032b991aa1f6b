"""Pairs of prepared spectra: simulated ones that no encoder has seen, and real ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from indexer.simulate.pairs import PairSimulator
from specdb.errors import InputError
from specdb.spectra import Prepared, get_modality

__all__ = ["CALIBRATION_SEED", "EVALUATION_SEED", "MODALITIES", "REFERENCE_SEED", "PairSet", "simulated_pairs"]

MODALITIES = ("lamost_lrs", "gaia_xp")

#: Seeds of the simulator are these plus the user's: error models, figures, and what baselines are fitted to. Trainings
#: count from 0, so none of them meets these stars.
CALIBRATION_SEED, EVALUATION_SEED, REFERENCE_SEED = 810_000_000, 820_000_000, 830_000_000


@dataclass(frozen=True)
class PairSet:
    """Prepared spectra of stars that both instruments observed; row i of everything is the same star.

    Attributes
    ----------
    flux, ivar : dict of modality to ndarray (n, n_grid), float32
        As in `specdb.spectra.Prepared`.
    snr : dict of modality to ndarray (n,), float32
        Median S/N per pixel.
    truth : dict of str to ndarray (n,)
        ``teff``, ``logg``, ``feh``, ``ebv``, ``magnitude`` (G) where they are known.
    """

    flux: dict[str, np.ndarray]
    ivar: dict[str, np.ndarray]
    snr: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.flux.values())))

    def take(self, rows: np.ndarray | slice) -> PairSet:
        """Return the given rows."""
        taken: dict[str, Any] = {
            name: {key: value[rows] for key, value in getattr(self, name).items()}
            for name in ("flux", "ivar", "snr", "truth")
        }
        return replace(self, **taken)

    def sigma(self, modality: str) -> np.ndarray:
        """Return the error (n, n_grid), float32, of the prepared flux; infinite where a pixel was repaired."""
        with np.errstate(divide="ignore"):
            return (1 / np.sqrt(self.ivar[modality])).astype(np.float32)


def simulated_pairs(n: int, seed: int) -> PairSet:
    """Draw and prepare `n` pairs of the simulator; those that a preparation declines are left out, so fewer may come.

    Raises
    ------
    InputError
        When `n` is not positive.
    """
    if n < 1:
        raise InputError(f"n is {n}; draw at least one pair")
    parts = [_prepare(pairs) for pairs in PairSimulator(seed).stream(n)]
    return PairSet(
        **{
            name: {key: np.concatenate([part[name][key] for part in parts]) for key in parts[0][name]}
            for name in ("flux", "ivar", "snr", "truth")
        }
    )


def _prepare(pairs: Any) -> dict[str, dict[str, np.ndarray]]:
    prepared: dict[str, Prepared] = {
        name: get_modality(name).preparation([spectra])
        for name, spectra in zip(MODALITIES, (pairs.lrs, pairs.xp), strict=True)
    }
    both = np.intersect1d(prepared[MODALITIES[0]].rows, prepared[MODALITIES[1]].rows)
    at = {name: np.searchsorted(p.rows, both) for name, p in prepared.items()}
    truth = pairs.truth
    facts = {
        "teff": truth.labels[:, 0],
        "logg": truth.labels[:, 1],
        "feh": truth.labels[:, 2],
        "ebv": truth.ebv,
        "magnitude": truth.magnitude,
    }
    return {
        "flux": {name: p.flux[at[name]] for name, p in prepared.items()},
        "ivar": {name: p.ivar[at[name]] for name, p in prepared.items()},
        "snr": {name: p.snr[at[name]] for name, p in prepared.items()},
        "truth": {key: value[both] for key, value in facts.items()},
    }
