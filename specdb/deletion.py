"""Which spectra are to be deleted, and that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specdb.catalog.selection import select_ids
from specdb.errors import QueryError

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["delete"]


def delete(
    db: Database,
    ids: Sequence[int] | np.ndarray | None = None,
    *,
    where: str | None = None,
    modality: str | None = None,
    reason: str = "",
    undelete: bool = False,
    dry_run: bool = False,
) -> dict[str, int]:
    """Delete spectra: nothing shows them from now on; their rows leave the files at the next `specdb compact`.

    Parameters
    ----------
    db : Database
    ids : sequence of int, optional
        spectrum_id's.
    where : str, optional
        SQL condition that selects them instead.
    modality : str, optional
        By default all, as long as no id occurs in several.
    reason : str
        Kept with the deletion.
    undelete : bool
        Take deletions of `ids` back. Spectra that were compacted have to be ingested again, with ``--undelete``.
    dry_run : bool
        Only count.

    Returns
    -------
    dict of str to int
        Number of spectra that changed, per modality.

    Raises
    ------
    QueryError
        For an id that is not in the database, or in several modalities; for a condition that is none; and unless either ids
        or a condition are given.
    LockError
        When another process writes.
    """
    if (ids is None) == (where is None) or (undelete and ids is None):
        raise QueryError("give the ids of the spectra, or a condition that selects those to be deleted (one of them)")
    if modality is not None and modality not in db.modalities:
        raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(db.modalities) or 'none'}")
    among = [modality] if modality else db.modalities
    if where is not None:
        chosen = {name: select_ids(db.store, name, where, index=db.index) for name in among}
    else:
        chosen = _find(db, np.unique(np.asarray(ids, np.int64)), among, undelete)
    deleted = {name: db.store.deleted(name) for name in among}
    if dry_run:
        return {n: int((np.isin(found, deleted[n]) == undelete).sum()) for n, found in chosen.items() if len(found)}
    with db.store.writing() as writer:
        return {
            name: writer.mark_deleted(name, found, deleted=not undelete, reason=reason)
            for name, found in chosen.items()
            if len(found)
        }


def _find(db: Database, ids: np.ndarray, among: list[str], deleted: bool) -> dict[str, np.ndarray]:
    """Return the ids that each modality holds."""
    chosen = {}
    for name in among:
        chosen[name] = np.intersect1d(ids, db.store.deleted(name) if deleted else db.store.ids(name, deleted=True))
    found, times = np.unique(np.concatenate([np.empty(0, np.int64), *chosen.values()]), return_counts=True)
    if (missing := np.setdiff1d(ids, found)).size:
        what = "deleted spectrum" if deleted else "spectrum"
        raise QueryError(
            f"no {what} of {', '.join(among)} has the id {missing[0]} ({missing.size} such ids); nothing was done"
        )
    if (several := found[times > 1]).size:
        raise QueryError(f"the id {several[0]} occurs in several modalities; say which with --modality")
    return chosen
