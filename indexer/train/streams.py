"""Batches from data that does not fit in memory: an endless sequence of shuffled chunks, cut into batches.

A chunk is a pure function of its number, so that a place in the stream is two numbers, a run that was killed goes on exactly
where it was, and memory holds two chunks whatever the size of the survey. Every process cuts the same batches and takes
its own rows of each: no two see the same spectrum, and the number of processes changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Arrays", "Source", "Stream"]

#: Modality -> flux (n, n_grid), float32; row i of all is the same star.
Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """Where training spectra come from."""

    modalities: tuple[str, ...]

    def chunk(self, number: int) -> Arrays:
        """Return chunk `number` (0, 1, ... without end) in random order; it may be empty."""
        ...

    def validation(self) -> Arrays:
        """Return spectra of held-out stars."""
        ...

    def counts(self) -> Mapping[str, int | None]:
        """Return ``training`` and ``validation``: how many spectra or pairs there are; None where the stream has no end."""
        ...

    def preparation(self) -> dict[str, tuple[str, int]]:
        """Return name and version of each modality's preparation."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what a card should say about the data."""
        ...


class Stream:
    """Batches of a source.

    Parameters
    ----------
    source : Source
    batch_size : int
        Rows of a batch, over all processes.
    rank, world : int
        Number of this process and of processes.
    """

    def __init__(self, source: Source, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.batch_size, self.rank, self.world = source, batch_size, rank, world
        self._number, self._offset = 0, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chunks")
        self._held: dict[int, Future[Arrays]] = {}

    def position(self) -> Tensor:
        """Return chunk and row of the next batch, (2,) int64."""
        return torch.tensor([self._number, self._offset])

    def seek(self, position: Tensor) -> None:
        """Go to what `position` returned."""
        self._number, self._offset = (int(p) for p in position)

    def rows(self) -> slice:
        """Return which rows of a batch are this process's."""
        return slice(self.rank, None, self.world)

    def next(self) -> dict[str, Tensor]:
        """Return this process's rows of the next batch: modality -> flux (B / world, n_grid)."""
        parts: list[Arrays] = []
        wanted = self.batch_size
        while wanted:
            chunk = self._chunk()
            rows = slice(self._offset, self._offset + wanted)
            part = {name: flux[rows] for name, flux in chunk.items()}
            n = len(next(iter(part.values())))
            parts.append(part)
            wanted -= n
            self._offset += n
            if wanted:
                self._number, self._offset = self._number + 1, 0
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {name: torch.from_numpy(np.ascontiguousarray(flux[self.rows()])) for name, flux in joined.items()}

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _chunk(self) -> Arrays:
        """Return the chunk at the position; the one after it is read meanwhile."""
        wanted = (self._number, self._number + 1)
        self._held = {n: self._held.get(n) or self._pool.submit(self.source.chunk, n) for n in wanted}
        return self._held[self._number].result()
