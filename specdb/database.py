"""`Database`: the one object a user opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from specdb.catalog import LabelReport, MatchQuality, add_labels, crossmatch, run_sql
from specdb.errors import DatabaseError, ProvenanceError, QueryError
from specdb.rows import Rows
from specdb.search import Hits, IndexCard, JointHits, Plan, VectorIndex
from specdb.search.answer import Request, Target, answer, make_plan
from specdb.search.asked import Many, modality_of
from specdb.search.batch import Answers, answer_many
from specdb.search.lookups import Lookups
from specdb.search.query import Query, encode_spectra
from specdb.spectra import Spectra, get_modality
from specdb.store import Problem, Store, open_parts, verify_store

if TYPE_CHECKING:
    from specutils import Spectrum

    from specdb.encoders import Encoder
    from specdb.search.translation import Translation

if TYPE_CHECKING:
    from specdb.heads import Head, HeadEvaluation
    from specdb.heads.transfer import TransferReport

__all__ = ["Database", "open_database"]


def open_database(path: str | Path) -> Database:
    """Open an existing database for reading.

    Parameters
    ----------
    path : path-like
        Folder made by `specdb build-index` or `indexer.build_index`.

    Raises
    ------
    DatabaseError
        When there is no database at `path`, or it is damaged.
    VersionError
        When it was written in a newer format.
    """
    return Database(Store.open(Path(path)))


class Database:
    """Prepared spectra, embeddings and indices of one or more surveys.

    Open it with `specdb.open`. Reading never waits for a writer: every answer comes from what was committed last.
    """

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self.store = store
        self.device = device
        self._indices: dict[tuple[str, str], tuple[int, np.ndarray, VectorIndex]] = {}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{m}: {n}" for m, n in self.counts().items())
        return f"<Database {str(self.store.root)!r} ({sizes or 'empty'})>"

    # -- what is there -------------------------------------------------------------------------------------------------

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities that have spectra."""
        return self.store.modalities()

    @cached_property
    def encoder(self) -> Encoder:
        """The database's default encoder, loaded when first needed.

        Raises
        ------
        InputError
            When it is not installed here.
        ProvenanceError
            When its weights are not those that made the stored embeddings.
        """
        from specdb.encoders import load_encoder

        encoder = load_encoder(self.store.encoder_location)
        for modality in self.modalities:
            stored = self.embedded_with(modality)
            if stored not in (None, encoder.weight_hash):
                raise ProvenanceError(
                    f"the {modality} embeddings were made by {encoder.name} with weights {stored[:16]}, the one installed "
                    f"here has {encoder.weight_hash[:16]}; use that version, or build a new database"
                )
        return encoder

    def counts(self) -> dict[str, int]:
        """Return the number of spectra per modality, without deleted ones."""
        return {modality: self.store.counts(modality)[0] for modality in self.store.modalities()}

    def index(self, modality: str) -> VectorIndex:
        """Return the index over a modality's embeddings by the default encoder.

        Raises
        ------
        QueryError
            For a modality that the database does not have.
        DatabaseError
            When the index has not been built, or is damaged.
        ProvenanceError
            When it was built from another encoder's embeddings.
        """
        if modality not in self.modalities:
            has = ", ".join(self.modalities) or "none"
            raise QueryError(f"the database has no modality {modality!r}; it has {has}: name one with --to (to=...)")
        name = self.store.default_encoder
        folder = self.store.index_folder(name, modality)
        try:
            stamp = (folder / "index.json").stat().st_mtime_ns
        except FileNotFoundError:
            survey = get_modality(modality).survey
            raise DatabaseError(f"{modality} has no index for encoder {name} yet; run `specdb index {survey}`") from None
        held, deleted = self._indices.get((name, modality)), self.store.deleted(modality)
        if held is None or held[0] != stamp:
            expected = {"modality": modality, "encoder": name, "weight_hash": self.embedded_with(modality)}
            index = VectorIndex.open(folder, expected_provenance=expected)
            held = stamp, deleted, index.hiding(deleted)
        elif held[1] is not deleted:
            held = stamp, deleted, held[2].hiding(deleted)
        self._indices[name, modality] = held
        return held[2]

    def spectra(self, ids: list[int] | np.ndarray, modality: str | None = None) -> pa.Table:
        """Return the full rows (metadata, flux, ivar) of the given ids, in their order."""
        wanted = np.asarray(ids, np.int64)
        modality = modality or modality_of(self, int(wanted[0]))
        return self.lookups.spectra(modality, wanted)

    def spectrum(self, spectrum_id: int, modality: str | None = None) -> Spectrum:
        """Return one prepared spectrum as `specutils.Spectrum`, with uncertainties, mask and metadata."""
        from specdb.export.spectrum import to_specutils

        return to_specutils(self.spectra([spectrum_id], modality))

    # -- asking --------------------------------------------------------------------------------------------------------

    @cached_property
    def lookups(self) -> Lookups:
        """Filters and star tables that searches made and the next ones use."""
        return Lookups(self.store, self.index)

    def search(
        self,
        query: Query,
        *,
        k: int | None = None,
        to: str | Sequence[str] | None = None,
        modality: str | None = None,
        where: str | None = None,
        radius_deg: float | None = None,
        min_score: float | None = None,
        exclude: Literal["row", "star", "none"] = "row",
        star_radius_arcsec: float = 3.0,
        fuse: Literal["rrf", "score"] | None = None,
        labels: Sequence[str] = (),
        with_spectra: bool = False,
    ) -> Hits | JointHits:
        """Find the spectra most similar to one spectrum.

        Parameters
        ----------
        query : int, str, Path or Spectra
            A spectrum_id of the database, a spectrum file, or one spectrum as arrays.
        k : int, optional
            Number of answers, 10 by default; fewer come only when fewer there are, and the plan says so.
        to : str or sequence of str, optional
            Modality of the answers; by default that of the query (for an SDSS or DESI file where the database has none of
            those: `lamost_lrs`). Another one needs an encoder that aligns both. Several give `JointHits`.
        modality : str, optional
            Modality of the query where it is not clear.
        where : str, optional
            SQL condition that answers must satisfy, over metadata and labels: ``"teff < 4500 AND snr_g > 20"``.
        radius_deg, min_score : float, optional
            All answers within an angle between embeddings, or above a cosine, up to `k` where that is given.
        exclude : {"row", "star", "none"}
            What is left out: the query itself, every spectrum of its star, or nothing.
        star_radius_arcsec : float
            Spectra this close, or with one Gaia id, are of one star.
        fuse : {"rrf", "score"}, optional
            Make one list of stars from several modalities; see `specdb.search.fusion.fuse_hits`.
        labels : sequence of str
            Catalogues whose columns are appended.
        with_spectra : bool
            Append flux and ivar.

        Returns
        -------
        Hits or JointHits

        Raises
        ------
        QueryError
            For a query, a condition or a number that makes no sense.
        DatabaseError
            When nothing has been indexed yet.
        """
        request = Request(k, radius_deg, min_score, where, exclude, star_radius_arcsec)
        return answer(self, query, request, to=to, modality=modality, fuse=fuse, labels=labels, with_spectra=with_spectra)

    def search_many(
        self,
        queries: Many,
        *,
        k: int | None = None,
        to: str | None = None,
        modality: str | None = None,
        where: str | None = None,
        radius_deg: float | None = None,
        min_score: float | None = None,
        exclude: Literal["row", "star", "none"] = "row",
        star_radius_arcsec: float = 3.0,
        columns: Sequence[str] = (),
        labels: Sequence[str] = (),
        skip_unknown: bool = False,
    ) -> Answers:
        """Answer many queries by matrix searches, block by block: the answers may be more than memory holds.

        Parameters
        ----------
        queries : ndarray or sequence of int, ndarray (m, d) of float, Spectra, pyarrow.Table, str or Path
            See `specdb.search.asked.ask_many`: ids, unit vectors, spectra, a table of ids or a file of one, or SQL.
        columns : sequence of str
            Metadata columns of the answers to append.
        skip_unknown : bool
            Leave out ids that the database does not have, and spectra that cannot be used.
        k, to, modality, where, radius_deg, min_score, exclude, star_radius_arcsec, labels
            See `search`.

        Returns
        -------
        Answers
            ``reader()`` streams them, ``save(path)`` writes them, ``rows()`` holds them.

        Raises
        ------
        QueryError, InputError, DatabaseError
            See `search`; unknown ids are counted.
        """
        request = Request(k, radius_deg, min_score, where, exclude, star_radius_arcsec)
        return answer_many(
            self, queries, request, to=to, modality=modality, columns=columns, labels=labels, skip_unknown=skip_unknown
        )

    def explain(
        self,
        modality: str,
        *,
        k: int | None = None,
        where: str | None = None,
        radius_deg: float | None = None,
        min_score: float | None = None,
        queries: int = 1,
    ) -> Plan:
        """Say how a search of a modality would be answered and what the answer would be worth, without searching."""
        return make_plan(Target.of(self, modality, where), Request(k, radius_deg, min_score, where), queries)

    def metadata_columns(self, modality: str) -> list[str]:
        """Return the names of a modality's metadata columns."""
        names = open_parts(self.store.root, self.store.spectra_parts(modality)).schema.names
        return [name for name in names if name not in ("flux", "ivar")]

    def translate(
        self,
        query: Query | Sequence[Query],
        to: str,
        *,
        modality: str | None = None,
        method: Literal["decoder", "neighbours"] = "decoder",
        k: int = 10,
        g_mag: float | Sequence[float] | None = None,
        flux_550: float | Sequence[float] | None = None,
    ) -> Translation:
        """Predict what another modality would show of the stars of some spectra, with errors.

        Parameters
        ----------
        query : int, str, Path, Spectra, or a sequence of them
            Ids of the database, spectrum files, or arrays (any number of rows).
        to : str
            Modality to predict; not the query's own, which would be reconstruction.
        modality : str, optional
            Modality of the query where it is not clear.
        method : {"decoder", "neighbours"}
            The encoder's cross-modal decoder, or the weighted mean of the `k` nearest spectra in the database.
        k : int
            Neighbours.
        g_mag, flux_550 : float or sequence of float, optional
            Gaia G, or flux at 550 nm in W m-2 nm-1, to put a predicted XP spectrum on an absolute scale. By default the
            magnitudes that the survey lists do, where there are any; else the flux is relative to that at 550 nm.

        Returns
        -------
        Translation

        Raises
        ------
        QueryError
            For a query that cannot be translated: unknown, declined by the preparation, or of the modality `to`.
        InputError
            For an unknown modality, or an encoder without decoders.
        """
        from specdb.search.translation import translate  # needs torch

        return translate(self, query, to, modality=modality, method=method, k=k, g_mag=g_mag, flux_550=flux_550)

    def sql(self, query: str, *, untrusted: bool = False) -> Rows:
        """Ask one question in SQL over the database's tables; it can read these and nothing else.

        `untrusted` is for questions of strangers: it limits time, memory, rows and functions. See `specdb.catalog.run_sql`.
        """
        return Rows(run_sql(self.store, query, index=self.index, untrusted=untrusted))

    # -- heads ---------------------------------------------------------------------------------------------------------

    def head(self, name: str) -> Head:
        """Return one of the database's heads; `specdb.heads.list_heads` names them."""
        from specdb.heads import load_head

        return load_head(self.store, name)

    def train_head(
        self,
        name: str,
        labels: str | pa.Table,
        *,
        inputs: str | None = None,
        kind: str = "mlp",
        settings: dict[str, Any] | None = None,
        n_folds: int = 5,
        seed: int = 0,
        **options: Any,
    ) -> Head:
        """Train a head on labels and save it in the database.

        Parameters
        ----------
        name : str
        labels : str or pyarrow.Table
            SQL or a table that gives ``spectrum_id``, one numeric column per label, and ``<label>_err`` where known.
        inputs : {'shared', 'private', 'both', 'pixels'}, optional
            By default ``both`` where the default encoder has a private embedding, else ``shared``.
        kind, settings, n_folds, seed
            See `specdb.heads.HeadConfig`.
        **options
            Of `specdb.heads.train_head`: ``modality``, ``test_fraction``, ``report``.
        """
        from specdb.heads import HeadConfig, train_head
        from specdb.heads.inputs import default_inputs

        table = run_sql(self.store, labels) if isinstance(labels, str) else labels
        chosen = inputs or default_inputs(self.store, options.get("modality"))
        config = HeadConfig(chosen, kind, settings or {}, n_folds, seed)
        source = {"labels": labels} if isinstance(labels, str) else {}
        return train_head(self.store, table, name, config, provenance=source, **options)

    def evaluate_head(self, name: str, labels: str | pa.Table | None = None) -> HeadEvaluation:
        """Compare a head with labels it has not seen; see `specdb.heads.evaluate_head`. Labels may be SQL."""
        from specdb.heads import evaluate_head

        table = run_sql(self.store, labels) if isinstance(labels, str) else labels
        return evaluate_head(self.store, self.head(name), table)

    def transfer_head(
        self,
        name: str,
        to: str,
        labels: str | pa.Table | None = None,
        *,
        target: Database | None = None,
        inputs: Sequence[str] = (),
        save_as: str | None = None,
        report: Callable[[str, int, int], None] | None = None,
        **plan: Any,
    ) -> TransferReport:
        """Take a head to another modality or other labels; see `specdb.heads.transfer.transfer`.

        Labels may be SQL, asked of the target. Further options are those of `specdb.heads.transfer.TransferPlan`.
        """
        from specdb.heads.transfer import TransferPlan, transfer

        there = (target or self).store
        table = run_sql(there, labels) if isinstance(labels, str) else labels
        chosen = TransferPlan(**plan) if labels is not None or plan.get("strategies") else None
        source = {"labels": labels} if isinstance(labels, str) else {}
        options: dict[str, Any] = {"target": there, "inputs": inputs, "plan": chosen, "save_as": save_as, "report": report}
        return transfer(self.store, name, to, table, provenance=source, **options)

    def add_labels(self, file: str | Path, name: str, **options: Any) -> LabelReport:
        """Add a catalogue of labels, a view of its own in SQL; for the options see `specdb.catalog.add_labels`."""
        return add_labels(self.store, file, name, **options)

    def crossmatch(self, first: str, second: str, **options: Any) -> MatchQuality:
        """Find the same stars in two modalities; for the options see `specdb.catalog.crossmatch`."""
        return crossmatch(self.store, first, second, **options)

    def embed(self, spectra: Spectra, modality: str) -> np.ndarray:
        """Return the shared embeddings (n, d) of spectra that are not in the database, as unit vectors."""
        return encode_spectra(self.encoder, get_modality(modality), spectra, self.device)[0]

    def embedded_with(self, modality: str) -> str | None:
        """Return the weight hash that the default encoder's stored embeddings of a modality were made with."""
        manifest = self.store.manifest()
        for _, entry in manifest.under(f"embeddings/{self.store.default_encoder}/{modality}"):
            return str(manifest.provenance[entry.provenance]["weight_hash"])
        return None

    # -- changing ------------------------------------------------------------------------------------------------------

    def delete(
        self,
        ids: Sequence[int] | np.ndarray | None = None,
        *,
        where: str | None = None,
        modality: str | None = None,
        reason: str = "",
        undelete: bool = False,
        dry_run: bool = False,
    ) -> dict[str, int]:
        """Delete spectra with immediate effect, or take that back; see `specdb.deletion.delete`."""
        from specdb.deletion import delete

        return delete(self, ids, where=where, modality=modality, reason=reason, undelete=undelete, dry_run=dry_run)

    # -- health --------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what the database holds, per modality: counts, reasons for rejection, encoders, indices, bytes."""
        store, manifest = self.store, self.store.manifest()
        out: dict[str, Any] = {"database": str(store.root), "default_encoder": store.default_encoder, "modalities": {}}
        for modality in store.modalities():
            rejected = store.rejected(modality)
            reasons = rejected.group_by(["status", "reason"]).aggregate([([], "count_all")]).to_pylist()
            spectra, deleted = store.counts(modality)
            encoders = {}
            for name in store.encoders(modality):
                embedded = sum(manifest.files[p].rows for p in store.embedding_parts(name, modality))
                index_file = f"index/{name}/{modality}/index.json"
                indexed = manifest.files[index_file].rows if index_file in manifest.files else 0
                encoders[name] = {
                    # Deleted rows stay in complete files until they are compacted.
                    "embedded": embedded - deleted if embedded == spectra + deleted else embedded,
                    "indexed": indexed - deleted if indexed == spectra + deleted else indexed,
                    "index": self._index_summary(name, modality),
                }
            out["modalities"][modality] = {
                "spectra": spectra,
                "deleted": deleted,
                "rejected": {f"{r['status']}: {r['reason']}": r["count_all"] for r in reasons},
                "encoders": encoders,
                "bytes": sum(e.bytes for name, e in manifest.files.items() if f"/{modality}/" in name),
            }
        return out

    def _index_summary(self, encoder: str, modality: str) -> dict[str, Any] | None:
        folder = self.store.index_folder(encoder, modality)
        if not (folder / "index.json").exists():
            return None
        card = IndexCard.read(folder)
        cross = {source: str(certificate) for source, certificate in card.cross.items()}
        return {"kind": card.kind, "why": card.why, "recall": str(card.certificate), "cross": cross}

    def verify(self, checksums: bool = True) -> list[Problem]:
        """Check files, checksums, counts and provenance; return what is wrong (nothing for a sound database)."""
        problems = verify_store(self.store, checksums)
        for modality in self.store.modalities():
            for encoder in self.store.encoders(modality):
                folder = self.store.index_folder(encoder, modality)
                if not (folder / "index.json").exists():
                    continue
                name = folder.relative_to(self.store.root).as_posix()
                try:
                    VectorIndex.open(folder).verify()
                except DatabaseError as error:
                    problems.append(Problem(f"{name}/index.json", str(error), "`specdb index` builds it again"))
        return problems
