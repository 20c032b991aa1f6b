"""Heads that others have trained: the published perceptrons of SpecCLIP, and pickled posteriors where they are trusted.

A perceptron is a dictionary of weights, read without executing anything (`specdb.encoders.checkpoint`). A posterior of the
`sbi` package exists only as a pickle, and reading a pickle can run any program. It is refused unless the caller trusts it;
then it is asked once, and what is stored is a posterior head that has learnt its answers for the database's embeddings.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from specdb.encoders import load_encoder
from specdb.encoders.card import require_same_shapes
from specdb.encoders.checkpoint import read_checkpoint
from specdb.encoders.config import MlpHeadConfig
from specdb.encoders.detect import detect_config
from specdb.encoders.mlp_head import MlpHead
from specdb.errors import CheckpointError, InputError
from specdb.heads.card import HeadCard, LabelFacts, Training
from specdb.heads.config import HeadConfig, Inputs
from specdb.heads.head import Head, fit_head
from specdb.heads.inputs import input_parts, read_part
from specdb.heads.kinds import Fitted, HeadData, Report
from specdb.heads.scaling import LOGARITHMIC, Domain, InputScale, LabelScale
from specdb.heads.train import check_source, head_folder
from specdb.store import Store, read_schema
from specdb.store.files import sha256_file

__all__ = ["PublishedMlp", "PublishedSettings", "import_head", "import_posterior"]

logger = logging.getLogger(__name__)

_ROWS = 8192
_PICKLES = (".pkl", ".pickle")
#: Embeddings that a trusted posterior is asked about.
_ASKED = 20_000


@dataclass(frozen=True)
class PublishedSettings:
    """Shape of the perceptron and what its output stands for.

    Attributes
    ----------
    n_inputs : int
    hidden : tuple of int
    labels : tuple of str
    scale, shift : float
        The label is the output times `scale` plus `shift`.
    """

    n_inputs: int = 768
    hidden: tuple[int, ...] = (1024, 512, 64)
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    shift: float = 0.0


class PublishedMlp:
    """A perceptron of the SpecCLIP family (`specdb.encoders.mlp_head`); it states no uncertainty."""

    kind: ClassVar[str] = "published"
    Settings: ClassVar[Any] = PublishedSettings

    def __init__(self, network: MlpHead, settings: PublishedSettings) -> None:
        self._network, self._settings = network.eval(), settings

    @classmethod
    def fit(cls, data: HeadData, settings: PublishedSettings, seed: int, report: Report | None = None) -> Fitted:
        """Refuse: published heads are imported."""
        raise InputError("a published head is imported, not trained: `specdb heads import`; to train one: --kind mlp")

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadModel.predict`; sigmas are NaN."""
        s = self._settings
        with torch.no_grad():
            parts = [self._network(torch.from_numpy(x[i : i + _ROWS])).numpy() for i in range(0, len(x), _ROWS)]
        mean = np.concatenate([np.empty((0, len(s.labels)), np.float32), *parts]) * s.scale + s.shift
        for i, label in enumerate(s.labels):
            if label in LOGARITHMIC:  # heads hand these over as logarithms
                mean[:, i] = np.log10(np.maximum(mean[:, i], 1e-3))
        return mean.astype(np.float32), np.full(mean.shape, np.nan, np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the weights by name."""
        return {name: value.numpy() for name, value in self._network.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: PublishedSettings) -> PublishedMlp:
        """Rebuild from `tensors`."""
        network = MlpHead(MlpHeadConfig(settings.n_inputs, settings.hidden, len(settings.labels)))
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        return cls(network, settings)


def import_head(
    store: Store,
    path: Path,
    name: str,
    labels: tuple[LabelFacts, ...],
    *,
    encoder: str,
    modality: str,
    stats: Path | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Head:
    """Import a published perceptron and save it in the database.

    Parameters
    ----------
    store : Store
    path : Path
        A `.pt` file with the weights, or with these under ``model_state_dict``. Nothing in it is executed.
    name : str
    labels : tuple of LabelFacts
        What its outputs are, in order.
    encoder : str
        Whose embeddings it reads: a name or folder, or the 64 digits of the hash of its weights.
    modality : str
    stats : Path, optional
        JSON with the mean and standard deviation of each input dimension, by which inputs are standardised.
    scale, shift : float
        The label is the output times `scale` plus `shift` (XP Teff of the official code: 2404.006 and 6777.363).

    Raises
    ------
    CheckpointError
        When the file is damaged, a pickled object, or not exactly a perceptron of the family.
    InputError
        For labels, statistics or an encoder that do not fit it.
    ProvenanceError
        When the database's embeddings are by another encoder.
    """
    folder = head_folder(store, name)
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a pickle: reading it can run any program with your rights, so not a byte of it was read; "
            "add --trust-pickle if you trust whoever made it"
        )
    weights, _, _ = read_checkpoint(path)
    config = detect_config({key: tuple(tensor.shape) for key, tensor in weights.items()})
    if not isinstance(config, MlpHeadConfig):
        raise CheckpointError(f"{path} is no head but an encoder ({config.architecture}); use `specdb encoders import`")
    network = MlpHead(config)
    require_same_shapes(network.state_dict(), weights, str(path))
    network.load_state_dict(weights)
    if len(labels) != config.n_outputs:
        raise InputError(
            f"{path} has {config.n_outputs} outputs and {len(labels)} labels were named; give one --label for each"
        )
    names = tuple(facts.name for facts in labels)
    settings = PublishedSettings(config.n_inputs, config.hidden, names, scale, shift)
    inputs = _inputs_of_width(store, modality, config.n_inputs)
    card = HeadCard(
        name=name,
        modality=modality,
        encoder=store.default_encoder,
        weight_hash=_weight_hash(encoder),
        labels=labels,
        config=HeadConfig(inputs, "published", vars(settings)),
        data={"file": path.name, "file_sha256": sha256_file(path), "stats": stats.name if stats else None},
    )
    n, unknown = len(labels), np.full(len(labels), np.nan)
    identity = LabelScale(names, np.zeros(n), np.ones(n), unknown, unknown)
    nowhere = Domain(np.zeros((config.n_inputs, 0), np.float32), np.full(2, np.nan, np.float32))
    none = np.empty((0, n), np.float32)
    training = Training(np.empty(0, np.int64), none, none, none, none)
    standard = _read_stats(stats, config.n_inputs)
    head = Head(card, PublishedMlp(network, settings), standard, identity, nowhere, np.ones(n), training)
    check_source(store, head)
    with store.writing():
        head.save(folder)
    return head


def import_posterior(
    store: Store,
    path: Path,
    name: str,
    labels: tuple[LabelFacts, ...],
    *,
    encoder: str,
    modality: str,
    stats: Path | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Head:
    """Unpickle a posterior of the `sbi` package, which can run any program, and teach a posterior head what it answers.

    It is asked for one draw for each of the database's embeddings (20,000 at random where there are more), and a head of
    kind ``posterior`` learns these. What is stored holds no pickle, and is valid where the database's embeddings lie.

    Parameters
    ----------
    store, path, name, labels, encoder, modality, stats
        See `import_head`.
    settings : dict, optional
        Of the posterior head.
    seed : int
    report : callable, optional

    Raises
    ------
    CheckpointError
        When the file holds nothing that draws samples.
    InputError, ProvenanceError
        See `import_head` and `specdb.heads.fit_head`.
    """
    folder = head_folder(store, name)
    logger.warning("%s is unpickled: whatever its maker put into it runs now, with your rights", path)
    posterior = _unpickled(path)
    if not hasattr(posterior, "sample_batched"):
        raise CheckpointError(f"{path} holds a {type(posterior).__name__}, which draws no samples; give a posterior of sbi")
    inputs = next(iter(_widths(store, modality)))  # both parts of the embedding where there are two
    card = HeadCard(
        name=name,
        modality=modality,
        encoder=store.default_encoder,
        weight_hash=_weight_hash(encoder),
        labels=labels,
        config=HeadConfig(inputs, "posterior", settings or {}, seed=seed),
        data={"distilled_from": path.name, "file_sha256": sha256_file(path), "stats": stats.name if stats else None},
    )
    pieces = [read_part(store, p, inputs) for p in input_parts(store, modality, inputs, store.default_encoder)]
    x, ids = np.concatenate([p.x for p in pieces]), np.concatenate([p.ids for p in pieces])
    rows = np.flatnonzero(np.isfinite(x).all(axis=1))
    if len(rows) > _ASKED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _ASKED, replace=False))
    asked = torch.from_numpy(_read_stats(stats, x.shape[1])(x[rows]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = [posterior.sample_batched((1,), x=part, show_progress_bars=False)[0] for part in asked.split(1024)]
    y = torch.cat(drawn).double().numpy()
    if y.shape[1] != len(labels):
        raise InputError(f"{path} draws {y.shape[1]} labels and {len(labels)} were named; give one --label for each")
    head = fit_head(x[rows], y, ids[rows], card, ids=ids[rows], report=report)
    check_source(store, head)
    with store.writing():
        head.save(folder)
    return head


def _unpickled(path: Path) -> Any:
    import pickle

    try:
        if path.suffix in _PICKLES:
            with path.open("rb") as file:
                return pickle.load(file)  # noqa: S301  # only where the caller has said that the file is trusted
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle can fail in any way that its classes like
        raise CheckpointError(
            f"{path} cannot be unpickled here ({type(error).__name__}: {error}); posteriors open only with the sbi "
            "version that wrote them"
        ) from error


def _weight_hash(encoder: str) -> str:
    is_hash = len(encoder) == 64 and all(c in "0123456789abcdef" for c in encoder)
    return encoder if is_hash else load_encoder(encoder).weight_hash


def _widths(store: Store, modality: str) -> dict[Inputs, int]:
    """Return the widths of what a head can read of a modality's embeddings."""
    part = input_parts(store, modality, "shared", store.default_encoder)[0]
    schema = read_schema(store.root / part)
    parts: tuple[Inputs, ...] = ("shared", "private")
    sizes = {name: schema.field(name).type.list_size for name in parts if name in schema.names}
    return {"both": sum(sizes.values()), **sizes} if len(sizes) == 2 else sizes


def _inputs_of_width(store: Store, modality: str, width: int) -> Inputs:
    widths = _widths(store, modality)
    for inputs, found in widths.items():
        if found == width:
            return inputs
    listed = ", ".join(f"{name} {n}" for name, n in widths.items())
    raise InputError(f"the head reads {width} numbers; {modality} embeddings by {store.default_encoder} have {listed}")


def _read_stats(path: Path | None, width: int) -> InputScale:
    """Read means and standard deviations; without a file inputs stay as they are."""
    if path is None:
        return InputScale(np.zeros(width, np.float32), np.ones(width, np.float32))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {word: [v for k, v in content.items() if word in k.lower()] for word in ("mean", "std")}
        mean, std = (np.asarray(one, np.float32).ravel() for (one,) in found.values())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as statistics ({error}); it should hold a mean and a std list") from None
    if len(mean) != width or len(std) != width:
        raise InputError(f"{path} has {len(mean)} means and {len(std)} standard deviations; the head reads {width} numbers")
    if not np.isfinite(mean).all() or not (std > 0).all():
        raise InputError(f"{path}: {int((~(std > 0)).sum())} standard deviations are not positive; inputs cannot be scaled")
    return InputScale(mean, std)
