"""`Head`: a small model from stored embeddings (or prepared spectra) to labels with uncertainties."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from specdb._version import __version__
from specdb.errors import CheckpointError, InputError, TrainingError
from specdb.heads.config import Flag, HeadConfig
from specdb.heads.kinds import Fitted, HeadData, HeadModel, Report, kind_class
from specdb.heads.scaling import Domain, InputScale, LabelScale
from specdb.spectra.stars import split_stars
from specdb.store.files import atomic_path, write_text

__all__ = ["Head", "HeadCard", "LabelFacts", "Prediction", "Training", "fit_head"]

#: Fewer stars with a label are not enough to fit and to calibrate.
LEAST_STARS = 50

_ONE_SIGMA = 0.6826894921370859
_FORMAT = 1
_PLAIN = ("name", "modality", "encoder", "weight_hash", "preparation", "data", "metrics")


@dataclass(frozen=True)
class LabelFacts:
    """What is known about one label.

    Attributes
    ----------
    name, unit, description : str
    n : int
        Training spectra that have it.
    """

    name: str
    unit: str = ""
    description: str = ""
    n: int = 0


@dataclass(frozen=True)
class HeadCard:
    """Where a head came from and what it may be used for.

    Attributes
    ----------
    name : str
    modality : str
        Of the spectra that it reads.
    encoder, weight_hash : str
        That made the embeddings; empty where it reads pixels.
    preparation : dict
        Name and version of the preparation, where it reads pixels.
    labels : tuple of LabelFacts
    config : HeadConfig
    data, metrics : dict
        Where the labels came from; figures on stars left out.
    """

    name: str
    modality: str
    encoder: str
    weight_hash: str
    labels: tuple[LabelFacts, ...]
    config: HeadConfig
    preparation: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """Labels of n spectra.

    Attributes
    ----------
    mean, sigma : ndarray (n, L), float64
        In the labels' units; NaN where the input is not finite.
    flags : ndarray (n,), int32
        Bits of `Flag`.
    distance : ndarray (n,), float32
        From the training cloud; above 1 is outside.
    """

    mean: np.ndarray
    sigma: np.ndarray
    flags: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Training:
    """The stars that a head was trained on, with predictions that their own labels have not touched.

    Attributes
    ----------
    ids : ndarray (n,), int64
        spectrum_id.
    y, mean, sigma : ndarray (n, L), float32
        Labels (NaN where there is none) and out-of-fold predictions.
    """

    ids: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray


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

    def predict(self, x: np.ndarray) -> Prediction:
        """Predict labels of inputs (n, d), float32, as `specdb.heads.inputs` reads them.

        Raises
        ------
        InputError
            For inputs of another dimension.
        """
        d = len(self.inputs.mean)
        if x.ndim != 2 or x.shape[1] != d:
            raise InputError(f"inputs have the shape {x.shape}; head {self.card.name} reads (n, {d})")
        finite = np.isfinite(x).all(axis=1)
        z = self.inputs(x if finite.all() else np.where(finite[:, None], x, 0))
        mean, sigma = self.labels.inverse(*self.model.predict(z))
        sigma *= self.factor
        distance = self.domain.distance(z)
        outside = ((mean < self.labels.low) | (mean > self.labels.high)).any(axis=1)
        flags = outside * Flag.OUTSIDE_LABELS.value | (distance > 1) * Flag.OUTSIDE_INPUTS.value
        mean[~finite] = sigma[~finite] = np.nan
        return Prediction(mean, sigma, np.where(finite, flags, Flag.NOT_FINITE.value).astype(np.int32), distance)

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
                vars(facts) | {"low": float(low), "high": float(high), "sigma_factor": float(factor)}
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
            training = Training(*(arrays[f"training.{k}"] for k in Training.__dataclass_fields__))
            return cls(card, model, inputs, scale, domain, arrays["factor"], training)
        except (KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"head {folder.name} is damaged ({error}); train it again") from error


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

    Sigmas are scaled so that 68.3 per cent of the stars left out lie within one. Their predictions come from fewer members
    than the ones that the head will make, which is taken into account.

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
    factor = np.array([_factor(fitted.mean[:, i], fitted.sigma[:, i], data, i, fitted.excess[i]) for i in range(len(names))])
    if not np.isfinite(factor).all():
        raise TrainingError(f"the sigmas of head {card.name} cannot be calibrated; look for wild values among the inputs")
    known = np.isfinite(y)
    facts = tuple(replace(f, n=int(known[:, i].sum())) for i, f in enumerate(card.labels))
    mean, sigma = scale_y.inverse(fitted.mean, fitted.sigma * factor)
    own = np.full(len(y), -1) if ids is None else ids
    training = Training(own.astype(np.int64), *(a.astype(np.float32) for a in (y, mean, sigma)))
    card = replace(card, labels=facts, metrics=card.metrics | {"left_out": _figures(y, mean, sigma, names)})
    return Head(card, fitted.model, scale_x, scale_y, domain, factor, training)


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


def _factor(mean: np.ndarray, sigma: np.ndarray, data: HeadData, label: int, excess: float) -> float:
    """Return the factor on sigma for one label; `excess` is variance that the finished head will not have."""
    y = data.y[:, label]
    known = np.isfinite(y)
    residual = (y - mean)[known]
    width = float(np.quantile(np.abs(residual) / sigma[known], _ONE_SIGMA))
    # For a normal distribution the median of the squares is 0.455 of the variance.
    variance = max(float(np.median(residual**2)) / 0.4549364, 1e-12)
    return width * float(np.sqrt(np.clip(1 - excess / variance, 0.5, 1)))


def _figures(y: np.ndarray, mean: np.ndarray, sigma: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    from specdb.heads.measures import label_figures

    return {name: label_figures(y[:, i], mean[:, i], sigma[:, i]) for i, name in enumerate(names)}
