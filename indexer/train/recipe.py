"""From a configuration and data to an encoder in a folder: weights, card, loss curves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from indexer.build import ingest_survey
from indexer.progress import Progress
from indexer.train.config import TrainConfig
from indexer.train.loop import VALIDATION, fit, read_records
from indexer.train.optimiser import initialise
from indexer.train.runtime import Runtime, RuntimeSettings, launch
from indexer.train.sources import PAIRS_TABLE, DatabaseSource, SimulatedSource
from indexer.train.streams import Source, Stream
from indexer.train.tasks import make_task
from specdb._version import __version__
from specdb.encoders.card import CARD_FILE, Card, load_card, load_model, require_same_shapes, save_model
from specdb.encoders.clip import ClipModel
from specdb.encoders.config import ClipConfig, LrsTransformerConfig, XpAutoencoderConfig, XpTransformerConfig
from specdb.encoders.models import Model, build
from specdb.encoders.registry import encoder_folder
from specdb.encoders.xp import XpAutoencoder
from specdb.errors import CheckpointError, InputError, ProvenanceError
from specdb.plots.style import save_figure
from specdb.plots.training import loss_figure
from specdb.store import Store
from specdb.store.files import write_text

__all__ = ["CHECKPOINT", "CURVES", "Log", "Plan", "database_of_pairs", "make_model", "plan", "train"]

CHECKPOINT = "training.checkpoint"
CURVES = "losses"
_SCRATCH = "partners.npy"

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a training would do.

    Attributes
    ----------
    parameters, trained : int
        Weights, and those that change.
    training, validation : int or None
        Spectra or pairs; None where they are drawn without an end.
    steps : int
    epochs : float or None
    memory_bytes : int
        Weights, gradients, optimiser and, roughly, what a micro-batch leaves behind for its gradient; per device.
    checkpoint_bytes : int
    """

    parameters: int
    trained: int
    training: int | None
    validation: int | None
    steps: int
    epochs: float | None
    memory_bytes: int
    checkpoint_bytes: int


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    db: str | Path | None = None,
    runtime: RuntimeSettings | None = None,
    command: str = "",
    log: Log | None = None,
) -> Card:
    """Train an encoder and save it; run it again to go on after an interruption.

    Parameters
    ----------
    config : TrainConfig
    out : path-like
        Folder of the encoder, named after it. Until the end it also holds the checkpoint.
    db : path-like, optional
        Database with the spectra; not needed when pairs are simulated.
    runtime : RuntimeSettings, optional
    command : str
        For the card.
    log : callable, optional
        Receives lines of progress. With several devices it is called in another process, so it must be importable.

    Returns
    -------
    Card

    Raises
    ------
    InputError
        When data are missing, too few, or unpaired; when `out` holds another encoder.
    ProvenanceError
        When spectra lie on another grid, or were prepared differently from what the start encoders saw.
    CheckpointError
        When the weights to start from do not fit, or a checkpoint belongs to another training.
    TrainingError
        When the loss is not finite; the batch is saved.
    """
    out, runtime = Path(out), runtime or RuntimeSettings()
    identity = fingerprint(config)
    if (out / CARD_FILE).exists():
        card = load_card(out)
        if card.training.get("fingerprint") != identity:
            raise InputError(f"{out} holds another encoder ({card.title or card.name}); choose a new folder")
        return card
    out.mkdir(parents=True, exist_ok=True)
    launch(runtime, _train_here, config, out, None if db is None else Path(db), runtime, command, log)
    return load_card(out)


def plan(config: TrainConfig, db: str | Path | None = None, devices: int = 1) -> Plan:
    """Say what a training would do, without doing it; reads ids and positions of the spectra, no flux.

    Raises
    ------
    InputError, ProvenanceError, CheckpointError
        As in `train`.
    """
    with torch.device("meta"):
        model = build(config.model)
    _freeze(model, config)
    counts: dict[str, int | None] = {"training": None, "validation": None}
    if config.data.source == "simulated":
        counts = dict(SimulatedSource(config.modalities, config.data, config.seed).counts())
    elif db is not None:
        counts = _count(Store.open(Path(db)), config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    loop = config.loop
    micro = -(-loop.batch_size // (loop.accumulate * devices))
    n = counts["training"]
    return Plan(
        parameters=parameters,
        trained=trained,
        training=n,
        validation=counts["validation"],
        steps=loop.steps,
        epochs=loop.steps * loop.batch_size / n if n else None,
        memory_bytes=4 * (parameters + 3 * trained + micro * _activations(model, config)),
        checkpoint_bytes=4 * (parameters * (2 if loop.patience else 1) + 2 * trained),
    )


def database_of_pairs(folder: str | Path, db: str | Path, progress: Progress | None = None) -> Path:
    """Turn a folder of `specdb simulate pairs` into a database with its table of pairs; run again, it goes on.

    Raises
    ------
    InputError
        When the folder is not one.
    """
    folder, db = Path(folder), Path(db)
    needed = [folder / "lamost", folder / "gaia_xp" / "sampled", folder / "pairs.parquet"]
    if missing := [path.relative_to(folder).as_posix() for path in needed if not path.exists()]:
        raise InputError(f"{folder} has no {', '.join(missing)}; `specdb simulate pairs {folder}` makes such a folder")
    ingest_survey(db, "lamost", [needed[0]], progress=progress)
    ingest_survey(db, "gaia-xp", [needed[1]], progress=progress)
    store = Store.open(db)
    if PAIRS_TABLE not in store.tables("pairs"):
        table = pq.read_table(needed[2]).select(["lamost_obsid", "gaia_source_id"])
        with store.writing() as writer:
            writer.put(PAIRS_TABLE, table.rename_columns(["lamost_lrs", "gaia_xp"]), {"source": "specdb simulate pairs"})
    return db


def fingerprint(config: TrainConfig) -> str:
    """Return what tells one configuration from another."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def make_model(config: TrainConfig, preparation: dict[str, tuple[str, int]]) -> tuple[Model, dict[str, str]]:
    """Return a model with its first weights, and the weight hashes of the encoders that they came from.

    Raises
    ------
    CheckpointError
        When an encoder to start from is of another architecture or size.
    ProvenanceError
        When it was trained on spectra that were prepared differently.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = build(config.model)
        for part in model.modules():
            if isinstance(part, XpAutoencoder):
                _initialise_autoencoder(part)
    if config.start.fresh == "scaled":
        initialise(model, torch.Generator().manual_seed(config.seed))
    start, origins = config.start, {}
    if start.model:
        state, origins["model"] = _weights(start.model, "", preparation)
        _load(model, state, start.model)
    for modality in ("lamost_lrs", "gaia_xp"):
        if name := getattr(start, modality):
            state, origins[modality] = _weights(name, modality, preparation)
            _load(model.get_submodule(f"{modality}_encoder.backbone"), state, name)
    _freeze(model, config)
    return model, origins


def _initialise_autoencoder(model: XpAutoencoder) -> None:
    """Start matrices as the published auto-encoder did: He et al. 2015, fan-in."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)


def _weights(name: str, modality: str, preparation: dict[str, tuple[str, int]]) -> tuple[dict[str, Tensor], str]:
    """Return the weights of an encoder, or of its backbone for a modality where it is a CLIP model, and its hash."""
    model, card = load_model(encoder_folder(name))
    for m in (modality,) if modality else tuple(preparation):
        theirs = card.preparation.get(m)
        if theirs is not None and tuple(theirs) != preparation[m]:
            raise ProvenanceError(
                f"encoder {name} was trained on {m} spectra of preparation {theirs[0]} {theirs[1]}, the data here have "
                f"{preparation[m][0]} {preparation[m][1]}; ingest the survey anew, or start from another encoder"
            )
    if modality and isinstance(model, ClipModel):
        if modality not in model.modalities:
            raise CheckpointError(f"encoder {name} has no {modality} part to start from")
        return model.get_submodule(f"{modality}_encoder.backbone").state_dict(), card.weight_hash
    return model.state_dict(), card.weight_hash


def _load(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    try:
        require_same_shapes(module.state_dict(), state, name)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; give the sizes of {name} in [model], or start from another encoder") from error
    module.load_state_dict(state)


def _freeze(model: Model, config: TrainConfig) -> None:
    for modality in ("lamost_lrs", "gaia_xp"):
        if config.start.freeze and getattr(config.start, modality):
            model.get_submodule(f"{modality}_encoder.backbone").requires_grad_(False)


def _source(config: TrainConfig, out: Path, db: Path | None, runtime: Runtime) -> Source:
    if config.data.source == "simulated":
        return SimulatedSource(config.modalities, config.data, config.seed)
    if db is None:
        raise InputError('this training reads a database; give one (--db), or set source = "simulated" in [data]')
    store = Store.open(db)
    made: Source | None = None
    for turn in (True, False):  # the main process writes the scratch file, then the others open it
        if turn == runtime.is_main:
            made = DatabaseSource(store, config.modalities, config.data, config.seed, out / _SCRATCH, write_scratch=turn)
        runtime.barrier()
    assert made is not None
    return made


def _count(store: Store, config: TrainConfig) -> dict[str, int | None]:
    """Count training and held-out spectra without touching flux or disk."""
    return dict(DatabaseSource(store, config.modalities, config.data, config.seed, None).counts())


def _train_here(
    runtime: Runtime,
    config: TrainConfig,
    out: Path,
    db: Path | None,
    settings: RuntimeSettings,
    command: str,
    log: Log | None,
) -> None:
    """Train in this process, which may be one of several."""
    source = _source(config, out, db, runtime)
    model, origins = make_model(config, source.preparation())
    loop = config.loop
    micro = loop.batch_size // loop.accumulate
    if micro % runtime.world:
        raise InputError(
            f"{micro} spectra in a micro-batch cannot be shared among {runtime.world} devices; change batch_size"
        )
    counts = source.counts()
    if counts["training"] is not None and counts["training"] < micro:
        raise InputError(
            f"{counts['training']} spectra to train on are fewer than a micro-batch of {micro}; lower batch_size"
        )
    stream = Stream(source, micro, runtime.rank, runtime.world)
    checkpoint = out / CHECKPOINT

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        write_text(out / f"{CURVES}.csv", _table(read_records(checkpoint)))
        if log is not None:
            log(f"step {step}/{loop.steps}  {'  '.join(f'{k} {v:.4f}' for k, v in losses.items())}  {seconds:.0f} s")

    try:
        task = make_task(model, stream, source.validation(), runtime)
        described = source.describe()
        identity = json.dumps([fingerprint(config), described, origins], sort_keys=True)
        fit(model, task, loop, config.seed, checkpoint=checkpoint, fingerprint=identity, report=report, runtime=runtime)
    finally:
        stream.close()
    runtime.barrier()
    if not runtime.is_main:
        return
    records = read_records(checkpoint)
    save_figure(loss_figure(*_curves(records), title=out.name), out / f"{CURVES}.png")
    best = min(records, key=lambda r: r[f"{VALIDATION}total"]) if loop.patience else records[-1]
    card = Card(
        name=out.resolve().name,
        config=config.model,
        preparation=source.preparation(),
        title=config.title,
        training={
            "fingerprint": fingerprint(config),
            "seed": config.seed,
            "settings": {key: value for key, value in config.to_dict().items() if key != "model"},
            "data": described,
            "steps": int(records[-1]["step"]),
            "weights_of_step": int(best["step"]),
            "started_from": origins,
        },
        metrics={
            "what": "means over the held-out spectra of this training; recall among the held-out pairs, both ways",
            **{name.removeprefix(VALIDATION): value for name, value in best.items() if name.startswith(VALIDATION)},
        },
        provenance={
            "specdb": __version__,
            "torch": torch.__version__,
            "device": settings.device,
            "devices": runtime.world,
            "precision": settings.precision,
            "command": command,
        },
    )
    save_model(out, model.cpu(), card)
    for name in (CHECKPOINT, _SCRATCH):
        (out / name).unlink(missing_ok=True)


def _curves(records: Sequence[dict[str, float]]) -> tuple[list[float], dict[str, list[float]]]:
    names = [name for name in records[0] if name != "step"]
    return [r["step"] for r in records], {name: [r[name] for r in records] for name in names}


def _table(records: Sequence[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _activations(model: Model, config: TrainConfig) -> int:
    """Return about how many numbers one spectrum leaves behind for the gradient."""
    total = 0
    parts: list[tuple[Any, bool]] = [(config.model, True)]
    if isinstance(config.model, ClipConfig):
        frozen = {m: config.start.freeze and bool(getattr(config.start, m)) for m in config.modalities}
        parts = [(getattr(config.model, m), not frozen[m]) for m in config.modalities]
        heads = config.model.head
        total += 12 * heads.mlp_ratio * (heads.shared + heads.private) + 8 * heads.xp_inner
        total += 24 * heads.shared if config.model.decoder else 0
    for part, kept in parts:
        if isinstance(part, LrsTransformerConfig | XpTransformerConfig):
            # Per layer: two norms, queries, keys, values, attention, two residuals, and the MLP before and after its GELU.
            layers = part.n_layers if kept else 1
            total += part.n_tokens * part.width * (9 + 2 * part.mlp_ratio) * layers
        elif isinstance(part, XpAutoencoderConfig) and kept:
            total += (part.n_encoder_blocks + part.n_decoder_blocks) * part.hidden * (2 + 2 * part.expansion)
    return total
