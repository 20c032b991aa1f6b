"""One list of stars from the answers of several modalities.

Cosines of different modalities cannot be compared: embeddings of two instruments keep a gap between them however well they
are aligned. Ranks can (reciprocal-rank fusion: Cormack, Clarke & Buettcher 2009, SIGIR, p. 758), and so can scores that were
brought to one scale within each list.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from specdb.search.hits import Hits
from specdb.spectra.stars import star_groups

__all__ = ["fuse_hits"]

#: The constant of reciprocal-rank fusion, as in the paper: it keeps the first few ranks from deciding alone.
RRF_CONSTANT = 60

_OF_STAR = ("object_name", "ra", "dec", "gaia_source_id")


def fuse_hits(parts: Mapping[str, Hits], method: str, k: int | None, radius_arcsec: float) -> pa.Table:
    """Fuse ranked lists into one of stars.

    A star's spectra are those within the radius of one another or with one Gaia id; the best of each modality counts, and
    stars are ranked anew within each modality.

    Parameters
    ----------
    parts : mapping of str to Hits
        By modality.
    method : {"rrf", "score"}
        ``rrf``: the sum over modalities of 1 / (60 + rank). ``score``: the mean over modalities of the cosine brought to
        0 ... 1 between the worst and the best of its list; 0 where a modality does not list the star.
    k : int or None
        Stars wanted; None for all.
    radius_arcsec : float

    Returns
    -------
    pyarrow.Table
        ``rank``, ``score`` (fused), ``object_name``, ``ra``, ``dec``, ``gaia_source_id`` of the star's best hit, and for
        each modality ``<modality>_rank``, ``<modality>_score`` (cosine) and ``<modality>_spectrum_id``, null where it has
        none.
    """
    names = list(parts)
    rows = pa.concat_tables(
        [h.rows.select(["score", "spectrum_id", *_OF_STAR]).replace_schema_metadata(None) for h in parts.values()]
    )
    source = np.repeat(np.arange(len(names)), [len(h) for h in parts.values()])
    cosine = rows["score"].to_numpy().astype(np.float64)
    star = _stars(rows, radius_arcsec)
    n_stars = int(star.max(initial=-1)) + 1
    fused = np.zeros(n_stars)
    best = np.full((len(names), n_stars), -1)
    ranks = np.zeros((len(names), n_stars), np.int64)
    for i in range(len(names)):
        mine = np.flatnonzero(source == i)  # best first
        stars, first = np.unique(star[mine], return_index=True)
        best[i, stars] = mine[first]
        ranks[i, stars[np.argsort(first)]] = np.arange(1, len(stars) + 1)
        if method == "rrf":
            fused[stars] += 1 / (RRF_CONSTANT + ranks[i, stars])
        elif len(stars):
            value = cosine[mine[first]]
            spread = value.max() - value.min()
            fused[stars] += ((value - value.min()) / spread if spread > 0 else np.ones(len(stars))) / len(names)
    order = np.lexsort((np.where(best >= 0, best, len(star)).min(axis=0), -fused))[:k]
    chosen = best[:, order]
    value = np.where(chosen >= 0, cosine[chosen] if len(cosine) else 0.0, -2.0)
    shown = np.take_along_axis(chosen, value.argmax(axis=0)[None], axis=0)[0] if len(order) else np.empty(0, np.int64)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "rank": pa.array(np.arange(1, len(order) + 1), pa.int32()),
        "score": pa.array(fused[order]),
    }
    columns |= {name: rows[name].take(pa.array(shown)) for name in _OF_STAR}
    for i, name in enumerate(names):
        absent = chosen[i] < 0
        place = pa.array(chosen[i], pa.int64(), mask=absent)
        columns[f"{name}_rank"] = pa.array(ranks[i, order], pa.int32(), mask=absent)
        columns[f"{name}_score"] = rows["score"].take(place)
        columns[f"{name}_spectrum_id"] = rows["spectrum_id"].take(place)
    units = {name: rows.schema.field(name) for name in _OF_STAR}
    return pa.table(columns, schema=pa.schema([units.get(n, pa.field(n, c.type)) for n, c in columns.items()]))


def _stars(rows: pa.Table, radius_arcsec: float) -> np.ndarray:
    """Return one number per star (n,), from 0: joined by position or Gaia id, directly or in a chain."""
    if rows.num_rows == 0:
        return np.empty(0, np.int64)
    ra, dec = (pc.fill_null(rows[name], np.nan).to_numpy() for name in ("ra", "dec"))
    near = star_groups(ra, dec, radius_arcsec)
    gaia = pc.fill_null(rows["gaia_source_id"], 0).to_numpy()
    known = np.flatnonzero(gaia)
    _, named = np.unique(gaia[known], return_inverse=True)
    # Spectra are linked to their positional group and to their Gaia id: one graph of all three.
    n, groups = rows.num_rows, int(near.max()) + 1
    ends = np.concatenate([n + near, n + groups + named])
    starts = np.concatenate([np.arange(n), known])
    size = n + groups + int(named.max(initial=-1)) + 1
    _, component = connected_components(coo_array((np.ones(len(ends)), (starts, ends)), shape=(size, size)), directed=False)
    return np.unique(component[:n], return_inverse=True)[1]
