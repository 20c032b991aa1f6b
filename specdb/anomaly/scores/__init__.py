"""The anomaly scores, behind one registry: each is a small class that says what it needs and turns blocks into numbers."""

from collections.abc import Iterable

from specdb.anomaly.scores.catalogue import CatalogueDisagreement
from specdb.anomaly.scores.density import Density
from specdb.anomaly.scores.isolation import Isolation
from specdb.anomaly.scores.neighbours import LocalReachability, NeighbourDistance
from specdb.anomaly.scores.pairs import PairDisagreement, TranslationResidual
from specdb.anomaly.scores.reconstruction import DecoderFeatures, DecoderResidual, Reconstruction
from specdb.anomaly.scores.redshift import Redshift
from specdb.anomaly.scores.residual import ExpectedSpectrum, Features
from specdb.anomaly.scores.score import FittedScore, Score, Unavailable
from specdb.errors import InputError

__all__ = ["SCORES", "FittedScore", "Score", "Unavailable", "chosen_scores", "voting_scores"]

_ALL: tuple[Score, ...] = (
    NeighbourDistance(),
    LocalReachability(),
    Isolation(),
    Density(),
    Reconstruction(),
    DecoderResidual(),
    DecoderFeatures(),
    ExpectedSpectrum(),
    Features(),
    Redshift(),
    TranslationResidual(),
    PairDisagreement(),
    CatalogueDisagreement(),
)

#: Scores by name; a new one is one line above.
SCORES: dict[str, Score] = {score.name: score for score in _ALL}


def chosen_scores(methods: tuple[str, ...]) -> list[Score]:
    """Return the scores of these names, all of them for none.

    Raises
    ------
    InputError
        For an unknown name.
    """
    unknown = [name for name in methods if name not in SCORES]
    if unknown:
        raise InputError(f"no anomaly score is called {unknown[0]!r}; scores are {', '.join(SCORES)}")
    return [SCORES[name] for name in methods or SCORES]


def voting_scores(names: Iterable[str]) -> list[str]:
    """Return those of the scores that make up the combination: the ones that vote and that no other one replaces."""
    voters = [name for name in names if SCORES[name].votes]
    replaced = {other for name in voters for other in SCORES[name].replaces}
    return [name for name in voters if name not in replaced]
