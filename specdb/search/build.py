"""Building an index that keeps its promise: choose a kind, build it, tune it, certify it, or step up to the next kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from specdb.errors import InputError, RecallError
from specdb.search.certificate import RecallCertificate, Truth, certify, cross_truth, draw_rows, exact_truth
from specdb.search.kinds import IndexKind, SearchParameters, Structure, get_kind, memory_limit, plan_index
from specdb.search.retrieve import retrieve

__all__ = ["BuildOptions", "BuiltIndex", "Certified", "Shelf", "build_index", "build_structure", "certify_index", "measure"]

#: The k at which the asked recall must be reached.
ASKED_DEPTH = 10


@dataclass(frozen=True)
class BuildOptions:
    """What the user asked for; stored with the index, so that a later rebuild asks for the same.

    Attributes
    ----------
    kind : str
        A registered kind, or ``auto``.
    recall : float
        recall@10 to be reached, in (0, 1].
    seed : int
        For the training sample, k-means and the choice of queries.
    on_shortfall : {"step-up", "fail"}
        What to do where a kind stays below `recall` at every setting: build the next, more exact kind, or `RecallError`.
    memory_bytes : int, optional
        What the index may occupy, for ``auto``; while it is built, half of it goes to the training sample or to what is
        not yet written. A quarter of the machine's memory by default.
    queries : int
        Number of queries to tune with, and of others to certify with.
    """

    kind: str = "auto"
    recall: float = 0.99
    seed: int = 0
    on_shortfall: Literal["step-up", "fail"] = "step-up"
    memory_bytes: int | None = None
    queries: int = 1000

    def __post_init__(self) -> None:
        if self.kind != "auto":
            get_kind(self.kind)
        if not 0 < self.recall <= 1:
            raise InputError(f"recall is {self.recall}; ask for a share above 0 and at most 1, such as 0.99")
        if self.on_shortfall not in ("step-up", "fail"):
            raise InputError(f"on_shortfall is {self.on_shortfall!r}; it must be 'step-up' or 'fail'")
        if self.queries < 1:
            raise InputError(f"queries is {self.queries}; a recall cannot be measured without any")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise InputError(f"memory_bytes is {self.memory_bytes}; an index needs some memory")


class Shelf(Protocol):
    """Where a build puts what it has made, so that it need not hold all of it."""

    def half(self, vectors: np.ndarray) -> np.ndarray:
        """Return the vectors in half precision (n, d), made once."""
        ...

    def trained(self, index: Any) -> None:
        """Keep the empty structure that segments are filled from."""
        ...

    def segment(self, index: Any, rows: range) -> Any:
        """Take a segment and return what can be searched in its place."""
        ...

    def clear(self) -> None:
        """Forget the segments and the empty structure of a kind that did not serve."""
        ...


class _Memory:
    """A shelf that holds everything."""

    def half(self, vectors: np.ndarray) -> np.ndarray:
        return vectors.astype(np.float16)

    def trained(self, index: Any) -> None:
        pass

    def segment(self, index: Any, rows: range) -> Any:
        return index

    def clear(self) -> None:
        pass


@dataclass(frozen=True)
class Certified:
    """What tuning and measuring found out.

    Attributes
    ----------
    certificate : RecallCertificate
        For queries of the indexed modality.
    cross : dict of str to RecallCertificate
        For queries of other modalities.
    truths : dict of str to Truth
        The queries of the certificates, under the modality, empty for the indexed one.
    shortfall : str
        Which recall stayed below the asked one; empty where none did.
    """

    certificate: RecallCertificate
    cross: dict[str, RecallCertificate]
    truths: dict[str, Truth]
    shortfall: str


@dataclass(frozen=True)
class BuiltIndex:
    """An index with the parameters that its certificates were measured with, and why it became what it is."""

    kind: IndexKind
    structure: Structure
    certified: Certified
    why: str

    @property
    def certificate(self) -> RecallCertificate:
        """The certificate for queries of the indexed modality."""
        return self.certified.certificate

    @property
    def parameters(self) -> SearchParameters:
        """The parameters for queries of the indexed modality."""
        return self.certificate.parameters


def measure(
    kind: IndexKind,
    structure: Structure,
    vectors: np.ndarray,
    truth: Truth,
    parameters: SearchParameters,
    *depths: int,
) -> RecallCertificate:
    """Certify one setting on some queries, at the depths of all certificates or at others."""

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return retrieve(kind, structure, vectors, queries, k, parameters)[1]

    return certify(search, vectors, truth, parameters, **({"depths": depths} if depths else {}))


def certify_index(
    kind: IndexKind,
    structure: Structure,
    vectors: np.ndarray,
    options: BuildOptions,
    cross: Mapping[str, np.ndarray] | None = None,
) -> Certified:
    """Find the cheapest parameters that reach the asked recall@10, and certify them with queries they were not chosen by.

    Chosen is the first setting whose lower confidence bound reaches the asked recall; failing that (a recall of 1 is never
    certain), the first whose measured recall does; failing that, the costliest. Each source of queries gets its own.

    Parameters
    ----------
    cross : mapping of str to ndarray (m, d), float32, optional
        Queries of other modalities, at least two of each.
    """
    rows = draw_rows(len(vectors), 2 * options.queries, options.seed)
    truths = {"": exact_truth(vectors, rows)}
    for source, queries in (cross or {}).items():
        truths[source] = cross_truth(vectors, queries[: 2 * options.queries], source)
    certificates, testing, shortfalls = {}, {}, []
    settings = kind.settings(structure)
    for source, truth in truths.items():
        # Measured on the queries that it was chosen by, the best setting flatters itself.
        middle = len(truth.queries) // 2
        testing[source] = truth.part(slice(middle, None))
        first = _cheapest(kind, structure, vectors, truth.part(slice(middle)), settings, options.recall)
        for parameters in settings[first:]:
            certificates[source] = measure(kind, structure, vectors, testing[source], parameters)
            if certificates[source].recall[ASKED_DEPTH].value >= options.recall:
                break
        else:
            shortfalls.append(_shortfall(source, certificates[source], options.recall))
    own = certificates.pop("")
    return Certified(own, certificates, testing, "; ".join(shortfalls))


def _cheapest(
    kind: IndexKind,
    structure: Structure,
    vectors: np.ndarray,
    tuning: Truth,
    settings: list[SearchParameters],
    asked: float,
) -> int:
    """Return the number of the first setting worth certifying."""
    estimated = len(settings) - 1
    if len(settings) == 1 or not len(tuning.queries):
        return estimated
    for i, parameters in enumerate(settings):
        recall = measure(kind, structure, vectors, tuning, parameters, ASKED_DEPTH).recall[ASKED_DEPTH]
        if recall.low >= asked or recall.value == 1.0:
            return i
        if recall.value >= asked:
            estimated = min(estimated, i)
    return estimated


def _shortfall(source: str, certificate: RecallCertificate, asked: float) -> str:
    measured = certificate.recall[ASKED_DEPTH].value
    queries = f" for {source} queries" if source else ""
    return f"recall@{ASKED_DEPTH} {measured:.4f}{queries} at its costliest setting, below the {asked:g} asked"


def build_structure(
    kind: IndexKind, vectors: np.ndarray, options: BuildOptions, shelf: Shelf, trained: Any = None
) -> Structure:
    """Build one kind over all vectors, in as many segments as memory asks for.

    Parameters
    ----------
    trained : optional
        An empty structure of the kind to fill instead of fitting a new one.
    """
    n, dim = vectors.shape
    limit = memory_limit(options.memory_bytes)
    if trained is None:
        trained = kind.train(vectors, options.seed, limit)
    segments = []
    if trained is not None:
        if kind.trained:
            shelf.trained(trained)
        size = kind.estimate_bytes(n, dim)
        pieces = max(1, -(-2 * size // limit)) if kind.divisible else 1
        step = -(-n // pieces)
        for first in range(0, n, step):
            rows = range(first, min(first + step, n))
            segments.append(shelf.segment(kind.fill(trained, vectors, rows), rows))
    return kind.assemble(tuple(segments), n, vectors, shelf.half(vectors) if kind.half else None)


def build_index(
    vectors: np.ndarray,
    options: BuildOptions,
    *,
    cross: Mapping[str, np.ndarray] | None = None,
    shelf: Shelf | None = None,
) -> BuiltIndex:
    """Build, tune and certify an index of unit vectors (n, d), n > 0.

    Raises
    ------
    InputError
        Where the asked kind cannot hold these vectors.
    DependencyError
        Where the asked kind needs what is not installed.
    RecallError
        Where the asked recall is not reached and stepping up is not allowed.
    """
    shelf = _Memory() if shelf is None else shelf
    plan = plan_index(len(vectors), vectors.shape[1], options.kind, options.memory_bytes, options.recall)
    kind, why = plan.kind, plan.why
    while True:
        structure = build_structure(kind, vectors, options, shelf)
        certified = certify_index(kind, structure, vectors, options, cross)
        if not certified.shortfall:
            return BuiltIndex(kind, structure, certified, why)
        shortfall = f"{kind.name} reaches {certified.shortfall}"
        if options.on_shortfall == "fail" or kind.step_up is None:
            raise RecallError(f"{shortfall}: ask for less recall, another kind, or allow stepping up to the next kind")
        shelf.clear()
        kind = get_kind(kind.step_up)
        why = f"{kind.name}, since {shortfall}"
