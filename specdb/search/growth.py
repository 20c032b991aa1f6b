"""The life of an index on disk: building, appending, dropping, certifying again. Each makes one new generation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specdb.errors import InputError
from specdb.search.build import (
    ASKED_DEPTH,
    BuildOptions,
    BuiltIndex,
    Certified,
    build_index,
    build_structure,
    certify_index,
    measure,
)
from specdb.search.card import IndexCard
from specdb.search.certificate import Truth
from specdb.search.checks import as_ids, as_vectors, blocks
from specdb.search.generation import GenerationWriter, Snapshot, open_snapshot
from specdb.search.kinds import IndexKind, Structure, choose_kind, get_kind, memory_limit

__all__ = ["Changed", "append_rows", "build_generation", "certify_again", "drop_rows"]

#: A trained index is rebuilt when it has grown to more than this multiple of what it was trained on.
GROWTH_LIMIT = 4

#: Certificates are measured with newly drawn queries when so much larger; in between the old queries' answers are brought up
#: to date with the new rows alone, so that appending does not read everything.
REDRAW_GROWTH = 1.25

#: Up to so many bytes of vectors, drawing anew at every append is a matter of seconds.
_REDRAW_BYTES = 1 << 26


@dataclass(frozen=True)
class Changed:
    """What a change of an index did.

    Attributes
    ----------
    added, dropped, count : int
        Vectors added, dropped, and in the index now.
    rebuilt : bool
        True where the index was built from scratch rather than changed.
    why : str
        One sentence for people.
    """

    added: int
    dropped: int
    count: int
    rebuilt: bool
    why: str


def build_generation(
    directory: Path,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    options: BuildOptions,
    cross: Mapping[str, np.ndarray] | None,
    provenance: dict[str, Any],
) -> Snapshot:
    """Write (ids, vectors) part by part and build an index over them; see `VectorIndex.build_from`."""
    provenance = _plain(provenance)
    writer = GenerationWriter(directory)
    dim = 0
    for ids, vectors in parts:
        if not len(vectors):
            continue
        vectors = as_vectors(vectors)
        if dim and vectors.shape[1] != dim:
            raise InputError(f"vectors have dimension {vectors.shape[1]}, those before {dim}; an index has one dimension")
        dim = vectors.shape[1]
        writer.extend("vectors", [vectors])
        writer.extend("ids", [as_ids(ids, len(vectors))])
    if not dim:
        raise InputError("there are no vectors to index; embed some spectra first (`specdb embed`)")
    cache = writer.map("vectors", dim)
    as_ids(writer.map("ids"), len(cache))
    built = build_index(cache, options, cross=cross, shelf=writer)
    return _commit(directory, writer, built, cache, options, len(cache), provenance)


def append_rows(
    directory: Path,
    snapshot: Snapshot,
    vectors: np.ndarray,
    ids: np.ndarray,
    provenance: dict[str, Any] | None,
    cross: Mapping[str, np.ndarray] | None,
) -> tuple[Changed, Snapshot]:
    """Append checked rows; see `VectorIndex.append`."""
    card = snapshot.card
    provenance = card.provenance if provenance is None else _plain(provenance)
    count = card.count + len(ids)
    writer = GenerationWriter(directory, card)
    writer.extend("vectors", [vectors])
    writer.extend("ids", [ids])
    cache = writer.map("vectors", card.dimension)
    kind = get_kind(card.kind)
    stale = _outgrown(card, count)
    if not stale:
        structure = _take_in(writer, kind, cache, card)
        certified = _certify_grown(writer, kind, structure, cache, card, cross)
        stale = f"its {certified.shortfall}" if certified.shortfall else ""
    if stale:
        built = _rebuild(writer, cache, card.options, cross or _cross_queries(writer, cache), stale)
        said = f"rebuilt as {built.kind.name}: {stale}"
    else:
        why = card.why
        if card.options.kind == "auto":
            why = choose_kind(count, card.dimension, card.options.memory_bytes, card.options.recall)[1]
        built = BuiltIndex(kind, structure, certified, why)
        said = f"extended from {card.count} to {count} vectors; recall@10 {built.certificate.recall[10].value:.4f}"
    built_count = count if stale else card.built_count
    changed = Changed(len(ids), 0, count, bool(stale), said)
    return changed, _commit(directory, writer, built, cache, card.options, built_count, provenance)


def drop_rows(
    directory: Path, snapshot: Snapshot, rows: np.ndarray, provenance: dict[str, Any] | None
) -> tuple[Changed, Snapshot]:
    """Drop rows (e,), int64, increasing; see `VectorIndex.drop`."""
    card = snapshot.card
    provenance = card.provenance if provenance is None else _plain(provenance)
    kept = np.setdiff1d(np.arange(card.count), rows, assume_unique=True)
    if not kept.size:
        raise InputError(f"all {card.count} vectors of the index would be dropped; remove its folder instead")
    old = GenerationWriter(directory, card)
    cross = _cross_queries(old, snapshot.vectors)
    writer = GenerationWriter(directory)
    writer.extend("vectors", (snapshot.vectors[kept[part]] for part in blocks(len(kept), card.dimension)))
    writer.extend("ids", [snapshot.ids[kept]])
    cache = writer.map("vectors", card.dimension)
    kind = get_kind(card.kind)
    stale = _outgrown(card, len(kept)) or ("" if len(rows) <= len(kept) else "more than half of its vectors were dropped")
    if not stale:
        trained = old.read_trained() if "trained" in old.files else None
        structure = build_structure(kind, cache, card.options, writer, trained)
        certified = certify_index(kind, structure, cache, card.options, cross)
        stale = f"its {certified.shortfall}" if certified.shortfall else ""
        built = BuiltIndex(kind, structure, certified, card.why)
    if stale:
        built = _rebuild(writer, cache, card.options, cross, stale)
    said = f"dropped {len(rows)} of {card.count} vectors" + (f"; rebuilt as {built.kind.name}: {stale}" if stale else "")
    built_count = len(kept) if stale else min(card.built_count, len(kept))
    changed = Changed(0, len(rows), len(kept), bool(stale), said)
    return changed, _commit(directory, writer, built, cache, card.options, built_count, provenance)


def certify_again(directory: Path, snapshot: Snapshot, cross: Mapping[str, np.ndarray]) -> tuple[Changed, Snapshot]:
    """Certify with queries of other modalities; see `VectorIndex.certify`."""
    card = snapshot.card
    writer = GenerationWriter(directory, card)
    certified = certify_index(snapshot.kind, snapshot.structure, snapshot.vectors, card.options, cross)
    stale = f"its {certified.shortfall}" if certified.shortfall else ""
    if stale:
        built = _rebuild(writer, snapshot.vectors, card.options, cross, stale)
    else:
        built = BuiltIndex(snapshot.kind, snapshot.structure, certified, card.why)
    said = f"rebuilt as {built.kind.name}: {stale}" if stale else f"certified for {', '.join(cross)} queries"
    built_count = card.count if stale else card.built_count
    changed = Changed(0, 0, card.count, bool(stale), said)
    return changed, _commit(directory, writer, built, snapshot.vectors, card.options, built_count, card.provenance)


# -- parts of these ----------------------------------------------------------------------------------------------------


def _take_in(writer: GenerationWriter, kind: IndexKind, cache: np.ndarray, card: IndexCard) -> Structure:
    """Let the structure cover the rows behind it once they are many; return it as it then is."""
    n = len(cache)
    half = writer.half(cache) if kind.half else None
    if card.segments and n - card.covered > kind.tail_limit(card.covered):
        if kind.divisible:
            trained = writer.read_trained()
            new = range(card.covered, n)
            writer.segment(kind.fill(trained, cache, new), new)
            _merge_small(writer, kind, memory_limit(card.options.memory_bytes))
        else:
            writer.segments = []
            build_structure(kind, cache, card.options, writer)
    covered = sum(segment.count for segment in writer.segments)
    return kind.assemble(writer.map_segments(), covered, cache, half)


def _merge_small(writer: GenerationWriter, kind: IndexKind, limit: int) -> None:
    """Merge the last two segments while the one before is less than twice the last: their number stays logarithmic.

    Each row is then rewritten a logarithmic number of times, whatever the sizes of the appends. What does not fit into half
    of the memory allowed stays apart.
    """
    while len(writer.segments) > 1:
        before, last = writer.segments[-2:]
        if before.count >= 2 * last.count or 2 * (before.file.bytes + last.file.bytes) > limit:
            return
        merged = kind.merge(writer.read_segment(-2), writer.read_segment(-1))
        del writer.segments[-2:]
        writer.segment(merged, range(before.first, last.first + last.count))


def _certify_grown(
    writer: GenerationWriter,
    kind: IndexKind,
    structure: Structure,
    cache: np.ndarray,
    card: IndexCard,
    cross: Mapping[str, np.ndarray] | None,
) -> Certified:
    """Measure the recall of an index that has grown, with new queries or, in between, with those of its certificate."""
    truths = writer.read_truths(cache) if cache.nbytes > _REDRAW_BYTES else {}
    if truths and len(cache) < REDRAW_GROWTH * truths[""].population:
        truths = {source: truth.extended(cache[card.count :]) for source, truth in truths.items()}
        certificates = {
            source: measure(kind, structure, cache, truth, card.certificate_for(source or None).parameters)
            for source, truth in truths.items()
        }
        if all(c.recall[ASKED_DEPTH].value >= card.options.recall for c in certificates.values()):
            return Certified(certificates.pop(""), certificates, truths, "")
    return certify_index(kind, structure, cache, card.options, cross or _cross_queries(writer, cache))


def _cross_queries(writer: GenerationWriter, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return the queries of other modalities that the last certificates were measured with."""
    truths: dict[str, Truth] = writer.read_truths(vectors)
    return {source: truth.queries for source, truth in truths.items() if source}


def _rebuild(
    writer: GenerationWriter,
    cache: np.ndarray,
    options: BuildOptions,
    cross: Mapping[str, np.ndarray],
    stale: str,
) -> BuiltIndex:
    writer.clear()
    built = build_index(cache, options, cross=cross, shelf=writer)
    return BuiltIndex(built.kind, built.structure, built.certified, f"{built.why} (rebuilt: {stale})")


def _commit(
    directory: Path,
    writer: GenerationWriter,
    built: BuiltIndex,
    cache: np.ndarray,
    options: BuildOptions,
    built_count: int,
    provenance: dict[str, Any],
) -> Snapshot:
    card = writer.commit(
        kind=built.kind,
        why=built.why,
        certified=built.certified,
        options=options,
        dimension=cache.shape[1],
        count=len(cache),
        built_count=built_count,
        provenance=provenance,
    )
    return open_snapshot(directory, card, trusted=True)


def _outgrown(card: IndexCard, count: int) -> str:
    """Return why an index must not merely be changed to `count` vectors; empty where it may be."""
    if get_kind(card.kind).trained and count > GROWTH_LIMIT * card.built_count:
        return f"{count} vectors are more than {GROWTH_LIMIT} times the {card.built_count} it was trained on"
    if card.options.kind == "auto":
        options = card.options
        then, now = (choose_kind(n, card.dimension, options.memory_bytes, options.recall) for n in (card.built_count, count))
        if then[0].name != now[0].name:
            return now[1]
    return ""


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return a dict as JSON would give it back."""
    try:
        return json.loads(json.dumps(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance holds what JSON cannot: {error}; use text, numbers, lists and dicts") from None
