"""`Head`: a small model from stored embeddings (or prepared spectra) to labels with uncertainties."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.special import ndtr, ndtri

from specdb._version import __version__
from specdb.errors import CheckpointError, InputError, TrainingError
from specdb.heads.calibration import ROWS, out_of_fold_pit, share_below, sigma_factor
from specdb.heads.card import HeadCard, LabelFacts, Prediction, Training
from specdb.heads.config import Flag, HeadConfig
from specdb.heads.kinds import Fitted, HeadData, HeadModel, Report, kind_class
from specdb.heads.measures import label_figures
from specdb.heads.scaling import Domain, InputScale, LabelScale
from specdb.spectra.stars import split_stars
from specdb.store.files import atomic_path, write_text

if TYPE_CHECKING:
    from specdb.heads.diagnose import PosteriorChecks

__all__ = ["Head", "HeadCard", "LabelFacts", "Prediction", "Training", "fit_head"]

#: Fewer stars with a label are not enough to fit and to calibrate.
LEAST_STARS = 50

_FORMAT = 1
_DRAWS = 500  # of a posterior, for quantiles
_PLAIN = ("name", "modality", "encoder", "weight_hash", "preparation", "data", "metrics")


@dataclass(frozen=True)
class Head:
    """A fitted head; make one with `fit_head`, read one with `Head.load`."""

    card: HeadCard
    model: HeadModel
    inputs: InputScale
    labels: LabelScale
    domain: Domain
    #: Factor (L,) on the model's sigmas that makes them cover what they should.
    factor: np.ndarray
    training: Training

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.labels.labels

    @property
    def joint(self) -> bool:
        """Whether it holds a joint posterior of its labels, from which `sample` draws."""
        return hasattr(self.model, "sample")

    def predict(self, x: np.ndarray, quantiles: Sequence[float] = ()) -> Prediction:
        """Predict labels of inputs (n, d), float32, as `specdb.heads.inputs` reads them.

        A head that holds a posterior gives its median and half of the interval from 16 to 84 per cent.

        Raises
        ------
        InputError
            For inputs of another dimension, or quantiles that are not between 0 and 1.
        """
        levels = np.asarray(quantiles, np.float64)
        if ((levels <= 0) | (levels >= 1)).any():
            raise InputError(f"the quantiles are {', '.join(map(str, quantiles))}; each must lie between 0 and 1")
        z, finite = self._scaled(x)
        middle, width = self.model.predict(z)
        mean, sigma = self.labels.inverse(middle, width)
        sigma *= self.factor
        found = np.empty((len(x), len(self.label_names), len(levels)))
        if levels.size:
            shape = (len(levels), len(x), len(self.label_names))
            found = self._quantiles(z, middle, width, levels).reshape(shape).transpose(1, 2, 0)
        distance = self.domain.distance(z)
        outside = ((mean < self.labels.low) | (mean > self.labels.high)).any(axis=1)
        flags = outside * Flag.OUTSIDE_LABELS.value | (distance > 1) * Flag.OUTSIDE_INPUTS.value
        mean[~finite] = sigma[~finite] = found[~finite] = np.nan
        return Prediction(mean, sigma, np.where(finite, flags, Flag.NOT_FINITE.value).astype(np.int32), distance, found)

    def sample(self, x: np.ndarray, n: int = 1000, seed: int = 0) -> np.ndarray:
        """Draw from the joint posterior of the labels.

        Parameters
        ----------
        x : ndarray (rows, d), float32
            Inputs, as `specdb.heads.inputs` reads them.
        n : int
            Draws per row.
        seed : int

        Returns
        -------
        ndarray (rows, n, L), float32
            In the labels' units, calibrated as the sigmas are; NaN where the input is not finite.

        Raises
        ------
        InputError
            For a head that predicts each label by itself, inputs of another dimension, or no draws.
        """
        self.require_joint()
        if n < 1:
            raise InputError(f"{n} draws were asked for; at least 1 is needed")
        z, finite = self._scaled(x)
        drawn = self._calibrated(self.model.sample(z, n, seed), self.model.predict(z)[0])  # type: ignore[attr-defined]
        values = self.labels.values(drawn)
        values[~finite] = np.nan
        return values

    def require_joint(self) -> None:
        """Raise `InputError` for a head that predicts each label by itself."""
        if not self.joint:
            kind = self.card.config.kind
            raise InputError(
                f"head {self.card.name} is of kind {kind}, which predicts each label by itself; "
                "train one with --kind posterior to draw from a joint posterior"
            )

    def pit(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the share (n, L), float32, of the predicted distribution of inputs (n, d) that lies below labels y (n, L).

        Where the distributions are right it is uniform from 0 to 1 (probability integral transform, Dawid 1984).
        """
        z, finite = self._scaled(x)
        middle, width = self.model.predict(z)
        scaled = np.where(finite[:, None], self.labels(y), np.nan)
        if not self.joint:
            return ndtr((scaled - middle) / (width * self.factor)).astype(np.float32)
        asked = middle + (scaled - middle) / self.factor
        parts = (slice(i, i + ROWS) for i in range(0, len(z), ROWS))
        found = [share_below(self.model.sample(z[rows], _DRAWS), asked[rows]) for rows in parts]  # type: ignore[attr-defined]
        return np.concatenate([np.empty((0, len(self.factor)), np.float32), *found])

    def _scaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scaled inputs, zeros in place of rows that are not finite, and which rows (n,) are finite."""
        d = len(self.inputs.mean)
        if x.ndim != 2 or x.shape[1] != d:
            raise InputError(f"inputs have the shape {x.shape}; head {self.card.name} reads (n, {d})")
        finite = np.isfinite(x).all(axis=1)
        return self.inputs(x if finite.all() else np.where(finite[:, None], x, 0)), finite

    def _calibrated(self, draws: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Stretch draws (n, s, L) about the middle (n, L) as the sigmas are."""
        return middle[:, None] + self.factor.astype(np.float32) * (draws - middle[:, None])

    def _quantiles(self, z: np.ndarray, middle: np.ndarray, width: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return quantiles (q, n, L) of the labels."""
        if not self.joint:
            return self.labels.values(middle + ndtri(levels)[:, None, None] * (width * self.factor))
        parts = (slice(i, i + ROWS) for i in range(0, len(z), ROWS))
        found = [
            np.quantile(self._calibrated(self.model.sample(z[rows], _DRAWS), middle[rows]), levels, axis=1)  # type: ignore[attr-defined]
            for rows in parts
        ]
        return self.labels.values(np.concatenate([np.empty((len(levels), 0, len(self.factor))), *found], axis=1))

    # -- on disk -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> str:
        """Write ``head.safetensors`` and ``head.json``; return the SHA-256 of the weights."""
        arrays = {f"model.{name}": value for name, value in self.model.tensors().items()} | {
            "inputs.mean": self.inputs.mean,
            "inputs.scatter": self.inputs.scatter,
            "labels.mean": self.labels.mean,
            "labels.scatter": self.labels.scatter,
            "labels.low": self.labels.low,
            "labels.high": self.labels.high,
            "domain.axes": self.domain.axes,
            "domain.edge": self.domain.edge,
            "factor": self.factor,
        }
        arrays |= {f"training.{name}": value for name, value in vars(self.training).items()}
        content = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        weights = hashlib.sha256(content).hexdigest()
        card = self.card
        record = {
            "format": _FORMAT,
            "specdb": __version__,
            "weights_sha256": weights,
            **{k: getattr(card, k) for k in _PLAIN},
            "config": card.config.to_json(),
            "labels": [
                vars(facts) | {"low": _number(low), "high": _number(high), "sigma_factor": float(factor)}
                for facts, low, high, factor in zip(card.labels, self.labels.low, self.labels.high, self.factor, strict=True)
            ],
        }
        with atomic_path(folder / "head.safetensors") as temporary:
            temporary.write_bytes(content)
        write_text(folder / "head.json", json.dumps(record, indent=1) + "\n")
        return weights

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read a head.

        Raises
        ------
        InputError
            Where there is none.
        CheckpointError
            Where it is damaged, or of a newer format.
        """
        try:
            record = json.loads((folder / "head.json").read_text(encoding="utf-8"))
            content = (folder / "head.safetensors").read_bytes()
        except FileNotFoundError:
            raise InputError(f"{folder} holds no head; `specdb heads list` names those there are") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}/head.json cannot be read ({error}); train the head again") from error
        if record.get("format", 0) > _FORMAT:
            raise CheckpointError(f"head {folder.name} has format {record['format']}, this specdb reads {_FORMAT}; upgrade")
        if hashlib.sha256(content).hexdigest() != record.get("weights_sha256"):
            raise CheckpointError(f"the weights of head {folder.name} are not those of its card; train it again")
        try:
            arrays = load_file(folder / "head.safetensors")
            given = {k: record["config"][k] for k in HeadConfig.__dataclass_fields__}
            config = HeadConfig(**given)
            facts = tuple(LabelFacts(**{k: label[k] for k in LabelFacts.__dataclass_fields__}) for label in record["labels"])
            model = kind_class(config.kind).from_tensors(
                {name.removeprefix("model."): v for name, v in arrays.items() if name.startswith("model.")},
                config.resolved(),
            )
            card = HeadCard(labels=facts, config=config, **{k: record[k] for k in _PLAIN})
            scale = LabelScale(
                tuple(f.name for f in facts), *(arrays[f"labels.{k}"] for k in ("mean", "scatter", "low", "high"))
            )
            domain = Domain(arrays["domain.axes"], arrays["domain.edge"])
            inputs = InputScale(arrays["inputs.mean"], arrays["inputs.scatter"])
            training = _training(arrays)
            return cls(card, model, inputs, scale, domain, arrays["factor"], training)
        except (KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"head {folder.name} is damaged ({error}); train it again") from error


def _number(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return float(value) if np.isfinite(value) else None


def _training(arrays: dict[str, np.ndarray]) -> Training:
    """Return the training stars of a saved head; heads of specdb before 0.2 hold no `pit`, which then follows from sigma."""
    ids, y, mean, sigma = (arrays[f"training.{name}"] for name in ("ids", "y", "mean", "sigma"))
    pit = arrays["training.pit"] if "training.pit" in arrays else ndtr((y - mean) / sigma)
    return Training(ids, y, mean, sigma, pit)


def fit_head(
    x: np.ndarray,
    y: np.ndarray,
    star: np.ndarray,
    card: HeadCard,
    *,
    ids: np.ndarray | None = None,
    y_err: np.ndarray | None = None,
    x_err: np.ndarray | None = None,
    report: Report | None = None,
) -> Head:
    """Fit and calibrate a head.

    Sigmas are scaled so that 68.3 per cent of new stars lie within one, judged by stars left out. Fewer members
    predict these than will predict new stars, which is taken into account.

    Parameters
    ----------
    x : ndarray (n, d), float32
        Inputs, as the card's configuration says.
    y : ndarray (n, L), float64
        Labels; NaN where a star has none.
    star : ndarray (n,)
        Equal numbers are spectra of one star.
    card : HeadCard
        Its labels name the columns of `y`; counts and metrics are filled in.
    ids : ndarray (n,), int64, optional
        spectrum_id, to tell later which spectra were trained on.
    y_err : ndarray (n, L), optional
        Errors of the labels.
    x_err : ndarray (n, d), optional
        Errors of the inputs, for pixels.
    report : callable, optional

    Raises
    ------
    InputError
        For inputs that are not finite, labels that are constant or missing, or too few stars.
    TrainingError
        When the loss is not finite.
    """
    names = tuple(facts.name for facts in card.labels)
    check_training(x, y, star, names)
    scale_x, scale_y = InputScale.of(x), LabelScale.of(names, y)
    data = scaled_data(x, y, star, card.config, scale_x, scale_y, y_err=y_err, x_err=x_err)
    fitted = kind_class(card.config.kind).fit(data, card.config.resolved(), card.config.seed, report)
    return calibrated_head(fitted, data, y, card, scale_x, scale_y, Domain.of(data.x), ids)


def scaled_data(
    x: np.ndarray,
    y: np.ndarray,
    star: np.ndarray,
    config: HeadConfig,
    scale_x: InputScale,
    scale_y: LabelScale,
    *,
    y_err: np.ndarray | None = None,
    x_err: np.ndarray | None = None,
) -> HeadData:
    """Return scaled inputs and labels with folds of stars; for the arrays see `fit_head`."""
    errors = np.zeros_like(y) if y_err is None else np.nan_to_num(y_err, nan=0.0)
    return HeadData(
        x=scale_x(x),
        y=scale_y(y),
        y_err=scale_y.errors(np.where(np.isfinite(y), y, 1.0), errors),
        fold=split_stars(star, config.n_folds, config.seed),
        x_err=None if x_err is None else (x_err / scale_x.scatter).astype(np.float32),
    )


def calibrated_head(
    fitted: Fitted,
    data: HeadData,
    y: np.ndarray,
    card: HeadCard,
    scale_x: InputScale,
    scale_y: LabelScale,
    domain: Domain,
    ids: np.ndarray | None = None,
) -> Head:
    """Return a fitted model as a head: with calibrated sigmas and figures of the stars left out.

    Raises
    ------
    TrainingError
        When the sigmas cannot be calibrated.
    """
    names = scale_y.labels
    factor = np.array([sigma_factor(fitted, data.y, i) for i in range(len(names))])
    if not np.isfinite(factor).all():
        raise TrainingError(f"the sigmas of head {card.name} cannot be calibrated; look for wild values among the inputs")
    known = np.isfinite(y)
    facts = tuple(replace(f, n=int(known[:, i].sum())) for i, f in enumerate(card.labels))
    mean, sigma = scale_y.inverse(fitted.mean, fitted.sigma * factor)
    own = np.full(len(y), -1) if ids is None else ids
    pit = out_of_fold_pit(fitted, data.y, factor)
    training = Training(own.astype(np.int64), *(a.astype(np.float32) for a in (y, mean, sigma, pit)))
    metrics = card.metrics | {"left_out": {n: label_figures(y[:, i], mean[:, i], sigma[:, i]) for i, n in enumerate(names)}}
    if fitted.draw is not None and (checks := _checks(fitted, data.y, factor, scale_y, y)) is not None:
        metrics |= {"posterior": checks.to_json()}
    return Head(replace(card, labels=facts, metrics=metrics), fitted.model, scale_x, scale_y, domain, factor, training)


def _checks(
    fitted: Fitted, scaled: np.ndarray, factor: np.ndarray, scale_y: LabelScale, y: np.ndarray
) -> PosteriorChecks | None:
    """Check the out-of-fold posteriors of the training stars."""
    from specdb.heads.diagnose import check_draws, chosen_rows

    rows = chosen_rows(scaled, 0)
    assert fitted.draw is not None
    middle = fitted.mean[rows][:, None]
    draws = scale_y.values(middle + factor * (fitted.draw(rows) - middle))
    return check_draws(draws, y[rows], scale_y.labels)


def check_training(x: np.ndarray, y: np.ndarray, star: np.ndarray, names: tuple[str, ...]) -> None:
    """Raise `InputError` for inputs and labels that no head can learn from; for the arrays see `fit_head`."""
    if len(x) and not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(f"{bad} of {len(x)} inputs hold NaN or infinity; leave them out (`specdb verify` finds damage)")
    for i, name in enumerate(names):
        known = np.isfinite(y[:, i])
        stars = len(np.unique(star[known]))
        if not known.any():
            raise InputError(f"label {name} is null for all {len(y)} spectra; check the SQL and the catalogue's column")
        if stars < LEAST_STARS:
            raise InputError(f"label {name} is known for {stars} stars; at least {LEAST_STARS} are needed")
        if np.ptp(y[known, i]) == 0:
            raise InputError(f"label {name} is {y[known, i][0]:g} for every star; there is nothing to learn")
