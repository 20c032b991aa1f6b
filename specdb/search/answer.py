"""From queries to answers: filter, plan, search, exclusions, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import DatabaseError, QueryError
from specdb.search.asked import Asked, ask
from specdb.search.fusion import fuse_hits
from specdb.search.hits import Hits, JointHits
from specdb.search.index import VectorIndex
from specdb.search.joins import add_labels, add_spectra
from specdb.search.lookups import Kept, Ragged
from specdb.search.planner import Plan
from specdb.search.query import Query
from specdb.spectra import get_modality

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["Found", "Request", "Target", "answer", "find", "make_plan"]

DEFAULT_K = 10

_WHY = {
    "index": "no condition",
    "exact": "comparing all that match is the fastest way here, and exact",
    "lists": "too many match to compare all; lists are visited, nearest first, until no better match is to be expected",
    "over-fetch": "most match; more neighbours are fetched than wanted, and those that match are kept",
    "radius": "a limit on the similarity is answered by comparing every spectrum",
}


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes
    ----------
    k : int, optional
        Answers per query; by default 10, or all within the limit where there is one.
    radius_deg : float, optional
        Largest angle between embeddings, in (0, 180].
    min_score : float, optional
        The same as a cosine, in [-1, 1]; give one of both.
    where : str, optional
        SQL condition over metadata and labels of the answers.
    exclude : {"row", "star", "none"}
        Leave out the query itself, all spectra of its star, or nothing.
    star_radius_arcsec : float
        Spectra this close are of one star, as are those with one Gaia id.

    Raises
    ------
    QueryError
        For values that make no sense.
    """

    k: int | None = None
    radius_deg: float | None = None
    min_score: float | None = None
    where: str | None = None
    exclude: Literal["row", "star", "none"] = "row"
    star_radius_arcsec: float = 3.0

    def __post_init__(self) -> None:
        if self.k is not None and self.k <= 0:
            raise QueryError(f"k is {self.k}; ask for at least one answer")
        if self.radius_deg is not None and self.min_score is not None:
            raise QueryError("give either radius_deg or min_score: both limit the same angle")
        if self.radius_deg is not None and not 0 < self.radius_deg <= 180:
            raise QueryError(
                f"radius_deg is {self.radius_deg:g}; it is the angle between embeddings, above 0 and up to 180 degrees"
            )
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise QueryError(f"min_score is {self.min_score:g}; it is a cosine, from -1 to 1")
        if self.exclude not in ("row", "star", "none"):
            raise QueryError(f"exclude is {self.exclude!r}; it must be 'row', 'star' or 'none'")
        if not 0 < self.star_radius_arcsec <= 3600:
            raise QueryError(f"star_radius_arcsec is {self.star_radius_arcsec:g}; it must be above 0 and up to 3600")

    @property
    def least(self) -> float | None:
        """The smallest cosine wanted."""
        return float(np.cos(np.radians(self.radius_deg))) if self.radius_deg is not None else self.min_score

    @property
    def depth(self) -> int | None:
        """Answers per query; None for all within the limit."""
        return DEFAULT_K if self.k is None and self.least is None else self.k


@dataclass(frozen=True)
class Found:
    """Answers to several queries: those of query i from ``limits[i]`` to ``limits[i + 1]``, best first.

    Attributes
    ----------
    limits : ndarray (m + 1,), int64
    scores : ndarray, float32
        Cosines.
    ids : ndarray, int64
        spectrum_id.
    """

    limits: np.ndarray
    scores: np.ndarray
    ids: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """The query that each answer belongs to, int64."""
        return np.repeat(np.arange(len(self.limits) - 1), np.diff(self.limits))

    @property
    def rank(self) -> np.ndarray:
        """Place of each answer, from 1, int32."""
        return (np.arange(len(self.ids)) - self.limits[self.owner] + 1).astype(np.int32)

    def keep(self, chosen: np.ndarray) -> Found:
        """Return the chosen answers (booleans) in their order."""
        counts = np.bincount(self.owner[chosen], minlength=len(self.limits) - 1)
        limits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Found(limits, self.scores[chosen], self.ids[chosen])


@dataclass(frozen=True)
class Target:
    """What is searched: one generation of an index, whatever is written meanwhile.

    Attributes
    ----------
    modality : str
    index : VectorIndex
    kept : Kept or None
        What the condition selects of it.
    """

    modality: str
    index: VectorIndex
    kept: Kept | None

    @classmethod
    def of(cls, db: Database, modality: str, where: str | None) -> Target:
        """Open what is in force now."""
        index = db.index(modality)
        return cls(modality, index, None if where is None else db.lookups.kept(modality, where, index))


def make_plan(target: Target, request: Request, queries: int = 1) -> Plan:
    """Say how a search of one modality would go about it."""
    index, kept = target.index, target.kept
    n, depth = len(index) - index.hidden, request.depth
    if request.least is not None:
        kind: str = "radius"
    elif kept is None:
        kind = "index"
    else:
        kind = index.path(kept.filter, queries, depth or 1)
    if kind in ("exact", "radius"):
        guarantee = "exact"
    elif kind == "index":
        guarantee = str(index.certificate)
    else:
        guarantee = "approximate, with recall@10 of at least 0.99 in the benchmark of filters"
    guarantee += "; fewer only where fewer match" if depth is not None else "; all that match"
    if kept is not None and kept.unindexed:
        guarantee += f"; {kept.unindexed:,} more match but are not indexed yet: run `specdb index`"
    return Plan(kind, target.modality, n, None if kept is None else kept.filter.count, request.where, _WHY[kind], guarantee)


def find(db: Database, target: Target, asked: Asked, part: slice, request: Request) -> Found:
    """Search one modality for some of the queries.

    Raises
    ------
    QueryError
        Where the queries' embeddings cannot be compared with those searched.
    """
    modality, index = target.modality, target.index
    if asked.modality is not None and asked.modality != modality:
        _require_one_encoder(db, asked.modality, target)
    keep = None if target.kept is None else target.kept.filter
    unwanted = _unwanted(db, modality, asked, part, request)
    most = int(np.diff(unwanted.limits).max(initial=0))
    vectors, depth = asked.vectors(part), request.depth
    if request.least is not None:
        found = Found(*index.within(vectors, request.least, keep=keep))
    else:
        assert depth is not None
        source = asked.modality if asked.modality != modality else None  # None for plain vectors, too
        scores, ids = index.search(vectors, depth + most, keep=keep, source=source)
        found = Found(np.arange(len(ids) + 1) * ids.shape[1], scores.ravel(), ids.ravel())
    if most:
        found = found.keep(~_among(found, unwanted))
    return found if depth is None else found.keep(found.rank <= depth)


def _require_one_encoder(db: Database, source: str, target: Target) -> None:
    used = db.embedded_with(source)
    of_index = target.index.card.provenance.get("weight_hash")
    if used is not None and used != of_index:
        raise QueryError(
            f"{source} and {target.modality} were embedded with different weights, {used[:16]} and {str(of_index)[:16]}: "
            "cosines between such embeddings mean nothing; embed both with one encoder that knows both"
        )


def _unwanted(db: Database, modality: str, asked: Asked, part: slice, request: Request) -> Ragged:
    """Return the ids that each query must not find."""
    ids = asked.ids[part]
    own = np.flatnonzero(ids >= 0) if asked.modality == modality and request.exclude != "none" else np.empty(0, np.int64)
    owners, values = own, ids[own]
    if request.exclude == "star":
        stars = asked.stars()
        stars = replace(stars, ids=stars.ids[part], ra=stars.ra[part], dec=stars.dec[part], gaia=stars.gaia[part])
        same = db.lookups.stars(modality).same_star(stars, request.star_radius_arcsec)
        owners, values = np.concatenate([owners, same.owner]), np.concatenate([values, same.values])
    if len(owners):
        owners, values = np.unique(np.stack([owners, values]), axis=1)  # each once, lest k + most grows
    return Ragged.of(owners, values, len(ids))


def _among(found: Found, unwanted: Ragged) -> np.ndarray:
    """Say which answers are unwanted by their query."""
    names = np.unique(unwanted.values)
    place = np.minimum(np.searchsorted(names, found.ids), len(names) - 1)
    pairs = unwanted.owner * len(names) + np.searchsorted(names, unwanted.values)
    return (names[place] == found.ids) & np.isin(found.owner * len(names) + place, pairs)


def answer(
    db: Database,
    query: Query,
    request: Request,
    *,
    to: str | Sequence[str] | None,
    modality: str | None,
    fuse: str | None = None,
    labels: Sequence[str] = (),
    with_spectra: bool = False,
) -> Hits | JointHits:
    """Answer one query; see `specdb.database.Database.search`."""
    if not db.modalities:
        raise DatabaseError(f"{db.store.root} holds no spectra yet; fill it with `specdb build-index`")
    if fuse not in (None, "rrf", "score"):
        raise QueryError(f"fuse is {fuse!r}; it must be 'rrf' (reciprocal ranks) or 'score'")
    asked = ask(db, query, modality)
    assert asked.modality is not None
    targets = [_usual(db, asked.modality)] if to is None else [to] if isinstance(to, str) else list(dict.fromkeys(to))
    if fuse is not None and len(targets) < 2:
        raise QueryError(f"there is nothing to fuse in answers from {', '.join(targets)} alone; name several modalities")
    # Several spectra of one star become one line, and a star low in one list may be high in another.
    wanted = replace(request, k=5 * request.depth) if fuse and request.depth else request
    seen = {target: _own_spectrum(db, asked, target) if fuse else None for target in targets}
    parts = {target: _hits(db, target, seen[target] or asked, wanted, labels, with_spectra) for target in targets}
    for target, own in seen.items():
        if own is not None:
            plan = parts[target].plan
            why = f"{plan.why}; asked with the star's own {target} spectrum {own.names[0]}, which `pairs/` gives"
            parts[target] = replace(parts[target], plan=replace(plan, why=why))
    if len(parts) == 1 and (to is None or isinstance(to, str)):
        return parts[targets[0]]
    name = str(asked.names[0])
    if fuse is not None:
        return JointHits(fuse_hits(parts, fuse, request.depth, request.star_radius_arcsec), name, parts, fuse)
    shared = [c for c in parts[targets[0]].rows.column_names if all(c in h.rows.column_names for h in parts.values())]
    shared = [c for c in shared if len({h.rows.schema.field(c).type for h in parts.values()}) == 1]
    rows = pa.concat_tables([hits.rows.select(shared).replace_schema_metadata(None) for hits in parts.values()])
    return JointHits(rows, name, parts, None)


def _usual(db: Database, modality: str) -> str:
    """Return where the spectra of a modality are looked for: in it, or in what it is made to look like."""
    alike = get_modality(modality).encoded_as
    return alike if modality not in db.modalities and alike in db.modalities else modality


def _own_spectrum(db: Database, asked: Asked, target: str) -> Asked | None:
    """Return the best spectrum that another instrument took of the query's star, where the database knows of one.

    Its neighbours are nearer the truth than those found across modalities.
    """
    if asked.modality in (None, target) or asked.ids[0] < 0:
        return None
    partners = db.lookups.partners(asked.modality, target, int(asked.ids[0]))
    partners = partners[db.index(target).has(partners)]
    if not len(partners):
        return None
    snr = pc.fill_null(db.lookups.metadata(target, partners)["snr"], 0).to_numpy()
    return ask(db, partners[np.argmax(snr)], target)


def _hits(db: Database, modality: str, asked: Asked, request: Request, labels: Sequence[str], with_spectra: bool) -> Hits:
    while True:
        state = db.store.manifest()
        try:
            return _hits_once(db, modality, asked, request, labels, with_spectra)
        except DatabaseError:
            if db.store.manifest() is state:
                raise
            # Compacted while it was asked: the answers' rows have moved, or are gone.


def _hits_once(
    db: Database, modality: str, asked: Asked, request: Request, labels: Sequence[str], with_spectra: bool
) -> Hits:
    target = Target.of(db, modality, request.where)
    plan = make_plan(target, request)
    found = find(db, target, asked, slice(0, 1), request)
    rows = db.lookups.metadata(modality, found.ids)
    cosines = pa.array(np.minimum(found.scores, 1), pa.float32())  # rounding can lift a cosine above 1
    rows = rows.add_column(0, pa.field("score", pa.float32(), metadata={"description": "cosine similarity"}), cosines)
    rows = rows.add_column(0, pa.field("rank", pa.int32(), metadata={"description": "1 is the nearest"}), [found.rank])
    if with_spectra:
        rows = add_spectra(db, modality, rows)
    rows = add_labels(db, rows, labels)
    if request.depth is not None and len(rows) < request.depth:
        plan = replace(plan, guarantee=f"{plan.guarantee}; {request.depth} asked for, {len(rows)} there are: all are here")
    return Hits(rows, str(asked.names[0]), modality, db.store.default_encoder, target.index.card, plan)
