"""One modality of a database as scores see it: streamed in blocks, a sample in memory, and what is derived from both.

What costs time (the sample, the model of ordinary spectra, the graph of neighbours) is made when a score first asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specdb.anomaly.decoded import Decoded
from specdb.anomaly.expected import Expectation, Nearest, Overall, Residual, Sample
from specdb.anomaly.features import FeatureDetector
from specdb.anomaly.graph import Graph
from specdb.anomaly.shifted import ShiftedModel
from specdb.errors import DatabaseError
from specdb.spectra import get_modality
from specdb.spectra.stars import star_groups
from specdb.store import matrix, open_parts, readable
from specdb.store.tombstones import in_sorted

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["AnomalySettings", "Block", "Survey"]

BLOCK_ROWS = 1024

#: Text columns, which take most of the memory, are not kept.
_NUMBERS = ("ra", "dec", "gaia_source_id", "snr", "z", "quality", "n_repaired")


@dataclass(frozen=True)
class AnomalySettings:
    """What decides the scores of a modality.

    Attributes
    ----------
    methods : tuple of str
        Names of scores; empty for all that the database has what is needed for.
    k : int
        Neighbours of the distance and of the local reachability.
    neighbours : int
        Neighbours whose mean is the expected spectrum.
    rank : int
        Directions in which ordinary spectra may differ from it.
    sample : int
        Spectra held in memory: neighbours' spectra, components, forests and mixtures are made from them.
    combination : str
        Key of `specdb.anomaly.ranking.COMBINATIONS`.
    seed : int
    """

    methods: tuple[str, ...] = ()
    k: int = 10
    neighbours: int = 20
    rank: int = 10
    sample: int = 20_000
    combination: str = "quadratic"
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a survey.

    Attributes
    ----------
    survey : Survey
    rows : slice
        Their place among all rows.
    ids : ndarray (n,), int64
    spectra : Sample
    """

    survey: Survey
    rows: slice
    ids: np.ndarray
    spectra: Sample

    @cached_property
    def residual(self) -> Residual:
        """What the neighbours' mean leaves of the spectra; several scores and the reasons look at it."""
        return self.survey.expectation(self.spectra)

    @cached_property
    def decoder_residual(self) -> Residual:
        """What the encoder's decoder leaves of the spectra."""
        return self.survey.decoded(self.spectra)


@dataclass(frozen=True)
class Survey:
    """A modality of a database with its embeddings by the default encoder.

    Attributes
    ----------
    db : Database
    modality : str
    settings : AnomalySettings
    """

    db: Database
    modality: str
    settings: AnomalySettings = field(default_factory=AnomalySettings)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def metadata(self) -> pa.Table:
        """What scores and reasons need to know about each row, in the order of the rows; numbers, and the class."""
        return self.columns(*_NUMBERS, "class")

    def columns(self, *names: str) -> pa.Table:
        """Read columns of the spectra that are scored, in the order of the rows."""
        store = self.db.store
        dataset = open_parts(store.root, store.spectra_parts(self.modality))
        with readable(store.root):
            table = dataset.to_table(columns=["spectrum_id", *(n for n in names if n != "spectrum_id")])
        deleted = store.deleted(self.modality)
        return table.filter(pa.array(~in_sorted(table["spectrum_id"].to_numpy(), deleted))) if len(deleted) else table

    @cached_property
    def ids(self) -> np.ndarray:
        """spectrum_id (n,), int64."""
        return self.metadata["spectrum_id"].to_numpy()

    @cached_property
    def snr(self) -> np.ndarray:
        """Median S/N per pixel (n,), float32; NaN without errors."""
        return self.metadata["snr"].to_numpy()

    @cached_property
    def star(self) -> np.ndarray:
        """A number per star (n,), int64, so that visits of one star are not taken for company."""
        ra, dec = (self.metadata[name].to_numpy() for name in ("ra", "dec"))
        return star_groups(ra.astype(np.float64), dec.astype(np.float64))

    @cached_property
    def wavelength(self) -> np.ndarray:
        """Grid of the modality (p,), vacuum Angstrom."""
        return get_modality(self.modality).wavelength

    def blocks(self) -> Iterator[Block]:
        """Yield all rows in order, some thousand at a time, reading spectra and embeddings side by side."""
        first = 0
        for number in range(len(self.parts)):
            for block in self.part(number, first):
                yield block
                first = block.rows.stop

    @cached_property
    def parts(self) -> list[tuple[str, str]]:
        """Files of spectra and of their embeddings, pair by pair."""
        store = self.db.store
        spectra, vectors = store.spectra_parts(self.modality), store.embedding_parts(store.default_encoder, self.modality)
        if len(spectra) != len(vectors) or not spectra:
            raise DatabaseError(
                f"{len(spectra)} parts of {self.modality} spectra have {len(vectors)} parts of embeddings by "
                f"{store.default_encoder}; run `specdb embed {get_modality(self.modality).survey}` first"
            )
        return list(zip(spectra, vectors, strict=True))

    def part(self, number: int, first: int) -> Iterator[Block]:
        """Yield the rows of one part; `first` is the place of its first row among all rows."""
        root, deleted = self.db.store.root, self.db.store.deleted(self.modality)
        spectra, vectors = (root / name for name in self.parts[number])
        with readable(spectra), pq.ParquetFile(spectra) as left, pq.ParquetFile(vectors) as right:
            of_vectors = right.iter_batches(BLOCK_ROWS, columns=["spectrum_id", "shared"])
            for rows in left.iter_batches(BLOCK_ROWS, columns=["spectrum_id", "snr", "flux", "ivar"]):
                table, embedded = pa.Table.from_batches([rows]), pa.Table.from_batches([next(of_vectors)])
                ids = table["spectrum_id"].to_numpy()
                if not np.array_equal(ids, embedded["spectrum_id"].to_numpy()):
                    raise DatabaseError(f"{vectors} is not about the spectra of {spectra}; `specdb verify` says more")
                if len(deleted):
                    kept = pa.array(~in_sorted(ids, deleted))
                    table, embedded = table.filter(kept), embedded.filter(kept)
                    ids = table["spectrum_id"].to_numpy()
                    if not len(ids):
                        continue
                here = slice(first, first + len(ids))
                arrays = matrix(embedded["shared"]), matrix(table["flux"]), matrix(table["ivar"])
                yield Block(self, here, ids, Sample(*arrays, table["snr"].to_numpy(), self.star[here]))
                first = here.stop

    @cached_property
    def sample(self) -> Sample:
        """Rows drawn at random, all of them where they are few enough."""
        chosen = np.ones(len(self), bool)
        if len(self) > self.settings.sample:
            chosen[:] = False
            rng = np.random.default_rng(self.settings.seed)
            chosen[rng.choice(len(self), self.settings.sample, replace=False)] = True
        taken = [block.spectra.take(chosen[block.rows]) for block in self.blocks()]
        names = ("vectors", "flux", "ivar", "snr", "star")
        return Sample(*(np.concatenate([getattr(part, name) for part in taken]) for name in names))

    @cached_property
    def expectation(self) -> Expectation:
        """The expected spectrum from neighbours in embedding space."""
        return Expectation.fit(self.sample, Nearest(self.settings.neighbours), self.settings.rank)

    @cached_property
    def components(self) -> Expectation:
        """The expected spectrum from the mean of all and principal components."""
        return Expectation.fit(self.sample, Overall(), 2 * self.settings.rank)

    @cached_property
    def decoded(self) -> Expectation:
        """The expected spectrum from the encoder's decoder, which knows the directions of ordinary spectra already."""
        return Expectation.fit(self.sample, Decoded(self.db.encoder, self.modality, self.db.device), 0)

    @cached_property
    def shifted(self) -> ShiftedModel:
        """Ordinary spectra at rest and at a redshift; `InputError` where the grid is not logarithmic."""
        return ShiftedModel.fit(self.components, self.wavelength)

    @cached_property
    def detector(self) -> FeatureDetector:
        """Matched filters for what `expectation` leaves."""
        return FeatureDetector.fit(self.expectation.left_of_ordinary())

    @cached_property
    def graph(self) -> Graph:
        """The nearest neighbours of every row."""
        return Graph.of(self)
