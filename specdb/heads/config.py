"""What is asked of a head, as frozen dataclasses that are saved with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntFlag
from typing import Any, Literal, get_args

from specdb.errors import InputError

__all__ = ["INPUTS", "PHYSICAL", "Flag", "HeadConfig", "Inputs"]

Inputs = Literal["shared", "private", "both", "pixels"]

#: What a head can read: the stored embedding (`both`: shared at its full length, then private) or the prepared spectrum.
INPUTS: tuple[str, ...] = get_args(Inputs)

#: Label -> what a star can have; labels outside are not believed.
PHYSICAL = {
    "teff": (2000.0, 100_000.0),
    "logg": (-1.0, 9.5),
    "feh": (-6.0, 1.5),
    "mh": (-6.0, 1.5),
    "alpha_m": (-1.0, 1.5),
    "alphafe": (-1.0, 1.5),
}


class Flag(IntFlag):
    """Bits of the `flags` column of predictions; 0 means that nothing is known against them."""

    OUTSIDE_LABELS = 1  #: a predicted label lies outside the range of the training labels
    OUTSIDE_INPUTS = 2  #: the spectrum lies outside the cloud of training spectra
    NOT_FINITE = 4  #: the stored embedding holds NaN or infinity; the predictions are null


@dataclass(frozen=True)
class HeadConfig:
    """How a head is made.

    Attributes
    ----------
    inputs : {'shared', 'private', 'both', 'pixels'}
    kind : str
        See `specdb.heads.head_kinds`.
    settings : dict
        Of the kind; what is not named keeps its default.
    n_folds : int
        Folds of stars for stopping and calibration.
    seed : int
    """

    inputs: Inputs = "both"
    kind: str = "mlp"
    settings: dict[str, Any] = field(default_factory=dict)
    n_folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise InputError(f"a head cannot read {self.inputs!r}; it reads one of {', '.join(INPUTS)}")
        if self.n_folds < 2:
            raise InputError(f"n_folds is {self.n_folds}; at least 2 are needed to predict stars left out")
        self.resolved()

    def resolved(self) -> Any:
        """Return the settings of the kind as its own dataclass."""
        from specdb.heads.kinds import kind_class

        known: Any = kind_class(self.kind).Settings
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in self.settings.items()}
        try:
            return known(**given)
        except TypeError:
            unknown = sorted(set(given) - set(known.__dataclass_fields__))
            raise InputError(
                f"a {self.kind} head has no setting {', '.join(unknown)}; it has {', '.join(known.__dataclass_fields__)}"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the configuration with every setting spelt out."""
        return asdict(self) | {"settings": asdict(self.resolved())}
