"""`Database`: the one object a user opens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from specdb.catalog import LabelReport, MatchQuality, add_labels, crossmatch, run_sql
from specdb.encoders import Encoder, load_encoder
from specdb.errors import DatabaseError, ProvenanceError, QueryError
from specdb.rows import Rows
from specdb.search import Hits, IndexCard, VectorIndex
from specdb.search.query import Query, encode_spectra, find_modality, metadata_of, parse_question
from specdb.search.translation import Translation, translate
from specdb.spectra import Spectra, get_modality
from specdb.store import Problem, Store, matrix, read_table, verify_store

if TYPE_CHECKING:
    from specdb.heads import Head, HeadEvaluation

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
        self._indices: dict[tuple[str, str], tuple[int, VectorIndex]] = {}

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
        encoder = load_encoder(self.store.encoder_location)
        for modality in self.modalities:
            stored = self._embedded_with(modality)
            if stored not in (None, encoder.weight_hash):
                raise ProvenanceError(
                    f"the {modality} embeddings were made by {encoder.name} with weights {stored[:16]}, the one installed "
                    f"here has {encoder.weight_hash[:16]}; use that version, or build a new database"
                )
        return encoder

    def counts(self) -> dict[str, int]:
        """Return the number of spectra per modality."""
        manifest = self.store.manifest()
        return {m: sum(manifest.files[p].rows for p in self.store.spectra_parts(m)) for m in self.store.modalities()}

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
            raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(self.modalities) or 'none'}")
        name = self.store.default_encoder
        folder = self.store.index_folder(name, modality)
        try:
            stamp = (folder / "index.json").stat().st_mtime_ns
        except FileNotFoundError:
            survey = get_modality(modality).survey
            raise DatabaseError(f"{modality} has no index for encoder {name} yet; run `specdb index {survey}`") from None
        held = self._indices.get((name, modality))
        if held is None or held[0] != stamp:
            expected = {"modality": modality, "encoder": name, "weight_hash": self._embedded_with(modality)}
            held = stamp, VectorIndex.open(folder, expected_provenance=expected)
            self._indices[name, modality] = held
        return held[1]

    def spectra(self, ids: list[int] | np.ndarray, modality: str | None = None) -> pa.Table:
        """Return the full rows (metadata, flux, ivar) of the given ids, in their order."""
        wanted = np.asarray(ids, np.int64)
        modality = modality or self._modality_of(int(wanted[0]))
        found = []
        for part in self.store.spectra_parts(modality):
            here = read_table(self.store.root / part, ["spectrum_id"])["spectrum_id"].to_numpy()
            rows = np.flatnonzero(np.isin(here, wanted))
            if len(rows):
                found.append(read_table(self.store.root / part).take(pa.array(rows)))
        table = pa.concat_tables(found) if found else None
        place = {} if table is None else {i: row for row, i in enumerate(table["spectrum_id"].to_pylist())}
        missing = [i for i in wanted.tolist() if i not in place]
        if table is None or missing:
            raise QueryError(f"{modality} has no spectrum with the id {missing[0]}")
        return table.take(pa.array([place[i] for i in wanted.tolist()]))

    # -- asking --------------------------------------------------------------------------------------------------------

    def search(
        self, query: Query, *, k: int = 10, to: str | None = None, modality: str | None = None, include_self: bool = False
    ) -> Hits:
        """Find the spectra most similar to one spectrum.

        Parameters
        ----------
        query : int, str, Path or Spectra
            A spectrum_id of the database, a spectrum file, or one spectrum as arrays.
        k : int
            Number of answers; fewer come only when the database holds fewer.
        to : str, optional
            Modality of the answers; by default that of the query. Another one needs an encoder that aligns both.
        modality : str, optional
            Modality of the query where it is not clear.
        include_self : bool
            Keep the query itself among the answers when the database holds it.

        Returns
        -------
        Hits

        Raises
        ------
        QueryError
            For a query or a `k` that makes no sense.
        DatabaseError
            When nothing has been indexed yet.
        """
        if k <= 0:
            raise QueryError(f"k is {k}; ask for at least one answer")
        if not self.modalities:
            raise DatabaseError(f"{self.store.root} holds no spectra yet; fill it with `specdb build-index`")
        if modality is not None and modality not in self.modalities:
            raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(self.modalities)}")
        question = parse_question(query, [modality] if modality else self.modalities)
        own = question.spectrum_id
        if own is not None:
            source = modality or self._modality_of(own)
            vector = self._stored_vector(source, own)
        else:
            assert question.spectra is not None
            if question.modality is None:
                raise QueryError(f"say of which modality the spectrum is: {', '.join(self.modalities)}")
            source = question.modality
            vector, own = self._vector_of(question.spectra, source)
        target = to or source
        index = self.index(target)
        exclude = np.array([own]) if own is not None and target == source and not include_self else None
        scores, ids = index.search(vector, k, exclude_ids=exclude)
        rows = metadata_of(self.store, target, ids[0])
        cosines = np.minimum(scores[0], 1)  # rounding can lift a cosine above 1
        ranked = rows.add_column(0, "score", pa.array(cosines, pa.float32()))
        ranked = ranked.add_column(0, "rank", pa.array(np.arange(1, len(ids[0]) + 1), pa.int32()))
        return Hits(ranked, question.name, target, self.store.default_encoder, index.card)

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
        config = HeadConfig(chosen, kind, settings or {}, n_folds, seed)  # type: ignore[arg-type]
        source = {"labels": labels} if isinstance(labels, str) else {}
        return train_head(self.store, table, name, config, provenance=source, **options)

    def evaluate_head(self, name: str, labels: str | pa.Table | None = None) -> HeadEvaluation:
        """Compare a head with labels it has not seen; see `specdb.heads.evaluate_head`. Labels may be SQL."""
        from specdb.heads import evaluate_head

        table = run_sql(self.store, labels) if isinstance(labels, str) else labels
        return evaluate_head(self.store, self.head(name), table)

    def add_labels(self, file: str | Path, name: str, **options: Any) -> LabelReport:
        """Add a catalogue of labels, a view of its own in SQL; for the options see `specdb.catalog.add_labels`."""
        return add_labels(self.store, file, name, **options)

    def crossmatch(self, first: str, second: str, **options: Any) -> MatchQuality:
        """Find the same stars in two modalities; for the options see `specdb.catalog.crossmatch`."""
        return crossmatch(self.store, first, second, **options)

    def embed(self, spectra: Spectra, modality: str) -> np.ndarray:
        """Return the shared embeddings (n, d) of spectra that are not in the database, as unit vectors."""
        return encode_spectra(self.encoder, get_modality(modality), spectra, self.device)[0]

    def _embedded_with(self, modality: str) -> str | None:
        """Return the weight hash that the default encoder's stored embeddings of a modality were made with."""
        parts = self.store.embedding_parts(self.store.default_encoder, modality)
        return self.store.provenance(parts[0])["weight_hash"] if parts else None

    def _vector_of(self, spectra: Spectra, modality: str) -> tuple[np.ndarray, int | None]:
        vector = self.embed(spectra, modality)
        own = spectra.metadata["spectrum_id"][0].as_py() if spectra.metadata.num_rows else None
        return vector, own

    def _stored_vector(self, modality: str, spectrum_id: int) -> np.ndarray:
        """Return the stored vector (1, d) of a spectrum, from the index's cache or, if that lags behind, from Parquet."""
        with suppress(QueryError, DatabaseError):
            return self.index(modality).vectors(np.array([spectrum_id]))
        for part in self.store.embedding_parts(self.store.default_encoder, modality):
            table = read_table(self.store.root / part, ["spectrum_id"])
            rows = np.flatnonzero(table["spectrum_id"].to_numpy() == spectrum_id)
            if len(rows):
                return matrix(read_table(self.store.root / part, ["shared"])["shared"])[rows]
        raise QueryError(f"{modality} has no embedded spectrum with the id {spectrum_id}; run `specdb embed` if it is new")

    def _modality_of(self, spectrum_id: int) -> str:
        """Return the modality that holds an id, asking the indices first: they know without reading Parquet."""
        indexed = []
        for modality in self.modalities:
            with suppress(QueryError, DatabaseError):
                self.index(modality).vectors(np.array([spectrum_id]))
                indexed.append(modality)
        return indexed[0] if len(indexed) == 1 else find_modality(self.store, spectrum_id)

    # -- health --------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what the database holds, per modality: counts, reasons for rejection, encoders, indices, bytes."""
        store, manifest = self.store, self.store.manifest()
        out: dict[str, Any] = {"database": str(store.root), "default_encoder": store.default_encoder, "modalities": {}}
        for modality in store.modalities():
            rejected = store.rejected(modality)
            reasons = rejected.group_by(["status", "reason"]).aggregate([([], "count_all")]).to_pylist()
            spectra = sum(manifest.files[p].rows for p in store.spectra_parts(modality))
            encoders = {}
            for name in store.encoders(modality):
                embedded = sum(manifest.files[p].rows for p in store.embedding_parts(name, modality))
                index_file = f"index/{name}/{modality}/index.json"
                encoders[name] = {
                    "embedded": embedded,
                    "indexed": manifest.files[index_file].rows if index_file in manifest.files else 0,
                    "index": self._index_summary(name, modality),
                }
            out["modalities"][modality] = {
                "spectra": spectra,
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
        return {"kind": card.kind, "why": card.why, "recall": str(card.certificate)}

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
