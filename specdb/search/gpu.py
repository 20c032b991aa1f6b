"""An index on a GPU: the same structure copied there, searched there where that gives the same answer.

What lies on disk is always the CPU's structure, so an index built on one machine serves on any other. FAISS's classic GPU
indices accept a filter and ignore it, and stop at 2048 for k and for nprobe: such searches go to the CPU's structure, which
stays mapped. Scores are computed afresh from the full-precision vectors on the CPU, so that they are the same bit for bit;
a few more candidates than asked for cover what the GPU's rounding may swap.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import faiss
import numpy as np

from specdb.errors import DependencyError, InputError
from specdb.search.generation import Snapshot
from specdb.search.kinds.base import IndexKind, SearchParameters, Structure

__all__ = ["OnGpu", "on_gpu"]

_faiss: Any = faiss  # its type stubs know only part of it

#: Largest k and nprobe of FAISS's GPU kernels.
LIMIT = 2048

_MARGIN = 8


@dataclass(frozen=True)
class _Placed(Structure):
    """A structure with copies of its searchers on a GPU."""

    copies: tuple[Any, ...] = ()


class OnGpu:
    """A kind whose plain searches run on a GPU."""

    def __init__(self, kind: IndexKind) -> None:
        self._kind = kind
        self.precise = False  # the GPU rounds otherwise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def search(
        self, structure: Any, queries: np.ndarray, k: int, parameters: SearchParameters, selector: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return candidates (m, >= k) from the GPU, or from the CPU where only that is right."""
        kind = self._kind
        fetch = k + _MARGIN if kind.precise or not kind.trained else max(k * parameters.k_factor, k + _MARGIN)
        if selector is not None or max(fetch, parameters.nprobe) > LIMIT:
            return kind.search(structure, queries, k, parameters, selector)
        extra = _faiss.SearchParametersIVF(nprobe=parameters.nprobe) if kind.trained else None
        found = [copy.search(queries, fetch, params=extra) for copy in structure.copies]
        return np.hstack([scores for scores, _ in found]), np.hstack([rows for _, rows in found])


def on_gpu(snapshot: Snapshot, device: str) -> Snapshot:
    """Return a snapshot that is searched on ``cuda``, ``cuda:1``, or ``cpu``.

    Raises
    ------
    InputError
        For another name of a device.
    DependencyError
        Where FAISS sees no such GPU.
    """
    kind: Any = snapshot.kind
    if isinstance(kind, OnGpu):
        plain = {f.name: getattr(snapshot.structure, f.name) for f in fields(Structure)}
        snapshot = replace(snapshot, kind=kind._kind, structure=Structure(**plain))
    name, _, number = device.partition(":")
    if device == "cpu":
        return snapshot
    if name != "cuda" or not (number.isdigit() or device == "cuda"):
        raise InputError(f"{device!r} is no device; use cpu, cuda or cuda:1")
    seen = _faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if int(number or 0) >= seen:
        raise DependencyError(
            f"FAISS sees {seen} GPUs here, so there is no {device}: put `faiss-gpu` or `faiss-gpu-cuvs` in the place of "
            "`faiss-cpu` (`specdb doctor` tries it), or search on the cpu"
        )
    resources = _faiss.StandardGpuResources()
    try:
        copies = tuple(_faiss.index_cpu_to_gpu(resources, int(number or 0), s) for s in snapshot.structure.searchers)
    except RuntimeError:
        return snapshot  # FAISS has no GPU code for this kind: four-bit codes, graphs
    values = {f.name: getattr(snapshot.structure, f.name) for f in fields(Structure)}
    values["keep"] = (*snapshot.structure.keep, resources)
    moved: Any = OnGpu(snapshot.kind)
    return replace(snapshot, kind=moved, structure=_Placed(**values, copies=copies))
