"""Functions that SQL gets from us: neighbours as a table, similarities, cones, HEALPix and Galactic coordinates.

DuckDB has no table functions in Python, but its table macros may contain a vectorised Python function and `unnest`. So
``knn(...)`` is a macro: it joins like any table, also laterally (``FROM lasp, knn(lasp.spectrum_id, k := 5)``), where DuckDB
hands over some 2000 ids at a time, which are searched as one batch. No text of the user is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from specdb.errors import DatabaseError, QueryError

if TYPE_CHECKING:
    from specdb.search import VectorIndex

__all__ = ["TABLE_FUNCTIONS", "Neighbours", "define_functions"]

#: Table functions that a query may call; DuckDB's others read files, memory or settings.
TABLE_FUNCTIONS = frozenset({"generate_series", "knn", "range", "unnest"})

_HITS = "STRUCT(rank INTEGER, score FLOAT, spectrum_id BIGINT)[]"

#: Positions are in degrees (ICRS). Galactic pole and node: The Hipparcos Catalogue, ESA SP-1200, vol. 1, section 1.5.3.
_MACROS = """
CREATE MACRO knn(spectrum_id, k := 10, modality := NULL) AS TABLE
    SELECT unnest(_knn(CAST(spectrum_id AS BIGINT), CAST(k AS INTEGER), CAST(modality AS VARCHAR)), recursive := true);
CREATE MACRO similarity(a BIGINT, b BIGINT) AS _similarity(a, b),
    (a FLOAT[], b FLOAT[]) AS CAST(list_cosine_similarity(a, b) AS FLOAT);
CREATE MACRO _asin(x) AS asin(CASE WHEN x > 1 THEN 1 WHEN x < -1 THEN -1 ELSE x END);
CREATE MACRO separation_arcsec(ra, "dec", ra0, dec0) AS
    2 * 3600 * degrees(_asin(sqrt(
        pow(sin(radians("dec" - dec0) / 2), 2)
        + cos(radians("dec")) * cos(radians(dec0)) * pow(sin(radians(ra - ra0) / 2), 2))));
CREATE MACRO in_cone(ra, "dec", ra0, dec0, radius_arcsec) AS
    "dec" BETWEEN dec0 - radius_arcsec / 3600 AND dec0 + radius_arcsec / 3600
    AND separation_arcsec(ra, "dec", ra0, dec0) <= radius_arcsec;
CREATE MACRO healpix(ra, "dec", level) AS _healpix(CAST(ra AS DOUBLE), CAST("dec" AS DOUBLE), CAST(level AS INTEGER));
CREATE MACRO galactic_b(ra, "dec") AS degrees(_asin(
    sin(radians("dec")) * sin(radians(27.12825))
    + cos(radians("dec")) * cos(radians(27.12825)) * cos(radians(ra - 192.85948))));
CREATE MACRO galactic_l(ra, "dec") AS ((122.93192 - degrees(atan2(
    cos(radians("dec")) * sin(radians(ra - 192.85948)),
    sin(radians("dec")) * cos(radians(27.12825))
    - cos(radians("dec")) * sin(radians(27.12825)) * cos(radians(ra - 192.85948))))) % 360 + 360) % 360;
"""


class Neighbours:
    """Answers ``knn`` and ``similarity`` from the indices.

    DuckDB turns an exception of a Python function into a text of its own; ours is kept in `error` for the session to raise.

    Parameters
    ----------
    modalities : sequence of str
    index : callable
        Modality -> `VectorIndex`; raises `QueryError` or `DatabaseError` where there is none.
    """

    def __init__(self, modalities: Sequence[str], index: Callable[[str], VectorIndex]) -> None:
        self._modalities = modalities
        self._index = index
        self.error: Exception | None = None

    def knn(self, ids: pa.Array, k: pa.Array, modality: pa.Array) -> pa.Array:
        """Return the hits of each id as a list of (rank, score, spectrum_id); null for a null id."""
        try:
            n = len(ids)
            known = ids.is_valid().to_numpy(zero_copy_only=False)
            spectra = ids.fill_null(0).to_numpy()
            counts, rows = np.zeros(n, np.int32), []
            kinds = [(None, None)] * n if n == 0 else list(zip(k.to_pylist(), modality.to_pylist(), strict=True))
            for number, target in dict.fromkeys(kinds):
                if number is None or number <= 0:
                    raise QueryError(f"knn: k is {number}; ask for at least one answer")
                same = known & np.array([kind == (number, target) for kind in kinds])
                for place, scores, found in self._groups(np.flatnonzero(same), spectra, number, target):
                    counts[place] = scores.shape[1]
                    rows.append((place, scores, found))
            return _lists(counts, rows)
        except Exception as error:
            self.error = error
            raise

    def similarity(self, a: pa.Array, b: pa.Array) -> pa.Array:
        """Return the cosine between the vectors of two ids each; null where an id is null."""
        try:
            known = np.flatnonzero(
                (a.is_valid().to_numpy(zero_copy_only=False)) & (b.is_valid().to_numpy(zero_copy_only=False))
            )
            left, right = (self._vectors(side.fill_null(0).to_numpy()[known])[0] for side in (a, b))
            cosine = np.full(len(a), np.nan, np.float32)
            cosine[known] = np.minimum(np.einsum("nd,nd->n", left, right), 1)
            return pa.array(cosine, mask=np.isnan(cosine))
        except Exception as error:
            self.error = error
            raise

    def _groups(self, places: np.ndarray, spectra: np.ndarray, k: int, target: str | None):
        """Search in one batch per modality of the answers; yield (places, scores, ids)."""
        vectors, home = self._vectors(spectra[places])
        targets = home if target is None else np.full(len(places), target)
        for own in np.unique(home):
            for name in np.unique(targets[home == own]):
                here = (home == own) & (targets == name)
                exclude = spectra[places[here]][:, None] if own == name else None
                scores, found = self._index(str(name)).search(vectors[here], k, exclude_ids=exclude)
                yield places[here], np.minimum(scores, 1), found

    def _vectors(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors (n, d) of ids, and the modality of each."""
        home = np.full(len(ids), "", dtype=object)
        out: np.ndarray | None = None
        for name in self._modalities:
            try:
                index = self._index(name)
            except DatabaseError:
                continue  # not indexed yet; should an id be there, the message below says so
            mine = np.flatnonzero(home == "")
            try:
                found = index.vectors(ids[mine])
            except QueryError:  # some of them are of another modality, or of none
                mine = mine[_held(index, ids[mine])]
                found = index.vectors(ids[mine])
            if mine.size:
                out = np.zeros((len(ids), found.shape[1]), np.float32) if out is None else out
                out[mine] = found
                home[mine] = name
        if (missing := ids[home == ""]).size:
            raise QueryError(f"no indexed spectrum has the id {missing[0]}; `specdb index` adds new ones")
        return (np.zeros((0, 1), np.float32) if out is None else out), home


def _held(index: VectorIndex, ids: np.ndarray) -> np.ndarray:
    """Say of each id (n,) whether it is in an index; of a few without touching all of the index's ids."""
    if len(ids) > 16:
        return np.isin(ids, index.ids)
    held = np.zeros(len(ids), bool)
    for i in range(len(ids)):
        with suppress(QueryError):
            index.vectors(ids[i : i + 1])
            held[i] = True
    return held


def _lists(counts: np.ndarray, groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> pa.Array:
    """Lay out groups of hits (places (m,), scores (m, k), ids (m, k)) as one list per row."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    rank = np.empty(offsets[-1], np.int32)
    score, found = np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.int64)
    for places, scores, ids in groups:
        at = offsets[places][:, None] + np.arange(scores.shape[1])
        rank[at], score[at], found[at] = np.arange(1, scores.shape[1] + 1), scores, ids
    hits = pa.StructArray.from_arrays([pa.array(rank), pa.array(score), pa.array(found)], ["rank", "score", "spectrum_id"])
    return pa.ListArray.from_arrays(pa.array(offsets), hits)


def _healpix(ra: pa.Array, dec: pa.Array, level: pa.Array) -> pa.Array:
    """Return the nested HEALPix number (ICRS, degrees); null for a null or impossible position."""
    import astropy.units as u
    from astropy_healpix import lonlat_to_healpix

    lon, lat = (side.cast(pa.float64()).fill_null(np.nan).to_numpy() for side in (ra, dec))
    depth = level.fill_null(-1).to_numpy()
    good = np.isfinite(lon) & (np.abs(lat) <= 90) & (depth >= 0) & (depth <= 29)
    out = np.zeros(len(lon), np.int64)
    for one in np.unique(depth[good]):
        here = good & (depth == one)
        out[here] = lonlat_to_healpix(lon[here] * u.deg, lat[here] * u.deg, nside=1 << int(one), order="nested")
    return pa.array(out, mask=~good)


def define_functions(connection: duckdb.DuckDBPyConnection, neighbours: Neighbours) -> None:
    """Create the functions in a session."""
    functions: tuple[tuple[str, Any, Any, Any], ...] = (
        ("_healpix", _healpix, ["DOUBLE", "DOUBLE", "INTEGER"], "BIGINT"),
        ("_knn", neighbours.knn, ["BIGINT", "INTEGER", "VARCHAR"], _HITS),
        ("_similarity", neighbours.similarity, ["BIGINT", "BIGINT"], "FLOAT"),
    )
    arrow: Any = "arrow"
    special: Any = "special"
    for name, function, inputs, output in functions:
        connection.create_function(name, function, inputs, output, type=arrow, null_handling=special)
    connection.execute(_MACROS)
