"""Building an index that keeps its promise: choose a kind, build it, tune it, certify it, or step up to the next kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specdb.errors import InputError, RecallError
from specdb.search.certificate import RecallCertificate, Truth, certify, draw_rows, exact_truth
from specdb.search.kinds import IndexKind, SearchParameters, choose_kind, get_kind
from specdb.search.retrieve import retrieve

__all__ = ["BuildOptions", "BuiltIndex", "build_index", "certify_index"]

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
        Limit for ``auto``; a quarter of the machine's memory by default.
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


@dataclass(frozen=True)
class BuiltIndex:
    """An index with the parameters that its certificate was measured with, and why it became what it is."""

    kind: IndexKind
    index: Any
    parameters: SearchParameters
    certificate: RecallCertificate
    why: str


def _halves(vectors: np.ndarray, options: BuildOptions) -> tuple[Truth, Truth]:
    """Draw queries to tune with and others to certify with: measured on the former, the best setting flatters itself."""
    rows = draw_rows(len(vectors), 2 * options.queries, options.seed)
    tuning, testing = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return exact_truth(vectors, tuning), exact_truth(vectors, testing)


def certify_index(kind: IndexKind, index: Any, vectors: np.ndarray, options: BuildOptions) -> tuple[RecallCertificate, bool]:
    """Find the cheapest parameters that reach the asked recall@10, and certify them with queries they were not chosen by.

    Chosen is the first setting whose lower confidence bound reaches the asked recall; failing that (a recall of 1 is never
    certain), the first whose measured recall does.

    Returns
    -------
    certificate : RecallCertificate
        Of the chosen parameters, or of the costliest ones where none suffice.
    reached : bool
    """
    settings = kind.settings(index)
    tuning, testing = _halves(vectors, options)

    def measure(truth: Truth, parameters: SearchParameters, *depths: int) -> RecallCertificate:
        def search(queries: np.ndarray, k: int) -> np.ndarray:
            return retrieve(kind, index, vectors, queries, k, parameters)[1]

        return certify(search, vectors, truth, parameters, **({"depths": depths} if depths else {}))

    start = len(settings) - 1
    estimated = start
    if len(settings) > 1:
        for i, parameters in enumerate(settings):
            recall = measure(tuning, parameters, ASKED_DEPTH).recall[ASKED_DEPTH]
            if recall.value >= options.recall:
                estimated = min(estimated, i)
            if recall.low >= options.recall or recall.value == 1.0:
                start = i
                break
        else:
            start = estimated
    for parameters in settings[start:]:
        certificate = measure(testing, parameters)
        if certificate.recall[ASKED_DEPTH].value >= options.recall:
            return certificate, True
    return certificate, False


def build_index(vectors: np.ndarray, options: BuildOptions) -> BuiltIndex:
    """Build, tune and certify an index of unit vectors (n, d), n > 0.

    Raises
    ------
    InputError
        Where the asked kind cannot hold these vectors.
    RecallError
        Where the asked recall is not reached and stepping up is not allowed.
    """
    n, dim = vectors.shape
    if options.kind == "auto":
        kind, why = choose_kind(n, dim, options.memory_bytes)
    else:
        kind, why = get_kind(options.kind), f"{options.kind}, as asked"
    kind.validate(n, dim)
    while True:
        index = kind.build(vectors, options.seed)
        certificate, reached = certify_index(kind, index, vectors, options)
        if reached:
            return BuiltIndex(kind, index, certificate.parameters, certificate, why)
        measured = certificate.recall[ASKED_DEPTH]
        shortfall = (
            f"{kind.name} reaches recall@{ASKED_DEPTH} {measured.value:.4f} at its costliest setting, "
            f"below the {options.recall:g} asked"
        )
        if options.on_shortfall == "fail" or kind.step_up is None:
            raise RecallError(f"{shortfall}: ask for less recall, another kind, or allow stepping up to the next kind")
        kind = get_kind(kind.step_up)
        why = f"{kind.name}, since {shortfall}"
