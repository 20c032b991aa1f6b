"""A training as a TOML file: read into frozen dataclasses, with every key checked."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from indexer.train.loop import LoopSettings
from indexer.train.sources import DataSettings
from specdb.encoders.config import ClipConfig, Config, MlpHeadConfig, config_from_dict, config_to_dict
from specdb.errors import CheckpointError, InputError

__all__ = ["MINI", "StartSettings", "TrainConfig", "list_configs", "load_config", "parse_config"]

#: The recipe of the encoder that ships: a command of its own behind the same verb.
MINI = "mini"

_FOLDER = Path(__file__).with_name("configs")

T = TypeVar("T")


@dataclass(frozen=True)
class StartSettings:
    """Weights to start from: names of encoders or folders, empty for fresh weights.

    Attributes
    ----------
    model : str
        An encoder of exactly this architecture and size, all of whose weights are taken.
    lamost_lrs, gaia_xp : str
        Pre-trained encoders whose weights the backbones of a CLIP model take.
    freeze : bool
        Whether such backbones stay as they are, as in the published models; fresh ones are always trained.
    fresh : {"published", "scaled"}
        How fresh weights are drawn: as in the published models, whose N(0, 0.02) suits a width of 768, or with a variance of
        1 / fan-in (`indexer.train.optimiser.initialise`), without which narrow models begin nearly dead.
    """

    model: str = ""
    lamost_lrs: str = ""
    gaia_xp: str = ""
    freeze: bool = True
    fresh: str = "published"

    def __post_init__(self) -> None:
        if self.fresh not in ("published", "scaled"):
            raise InputError(f"fresh is {self.fresh!r}; choose published or scaled")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out of a training, besides the data.

    Attributes
    ----------
    model : Config
    data : DataSettings
    loop : LoopSettings
    start : StartSettings
    seed : int
    title : str
        For the card.
    """

    model: Config
    data: DataSettings = field(default_factory=DataSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    start: StartSettings = field(default_factory=StartSettings)
    seed: int = 0
    title: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.model, MlpHeadConfig):
            raise InputError("a parameter head is not trained with `specdb train`; use `specdb heads train`")
        if isinstance(self.model, ClipConfig):
            if self.model.lamost_lrs is None or self.model.gaia_xp is None:
                raise InputError("alignment needs both modalities; leave neither lamost_lrs nor gaia_xp out of [model]")
        elif self.start.lamost_lrs or self.start.gaia_xp:
            raise InputError("start.lamost_lrs and start.gaia_xp are for CLIP models; give start.model")
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed is {self.seed}; it must be between 0 and 2**63")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it is trained on."""
        return ("lamost_lrs", "gaia_xp") if isinstance(self.model, ClipConfig) else (self.model.modality,)  # type: ignore[union-attr]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"model": config_to_dict(self.model)}


def list_configs() -> dict[str, str]:
    """Return the named configurations with their titles."""
    named = {path.stem: parse_config(path.read_text(encoding="utf-8"), path.stem).title for path in _FOLDER.glob("*.toml")}
    return dict(sorted(named.items())) | {MINI: "the encoder that ships: small, both modalities"}


def load_config(name_or_path: str | Path) -> TrainConfig:
    """Read a named configuration or a TOML file.

    Raises
    ------
    InputError
        When there is none, or something in it is unknown, of the wrong type, or contradicts something else.
    """
    name = str(name_or_path)
    path = _FOLDER / f"{name}.toml"
    if "/" in name or not path.is_file():
        path = Path(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(list_configs())
        raise InputError(
            f"no training is called {name!r}, and it is not a TOML file ({error}); known trainings: {known}"
        ) from error
    return parse_config(text, path.name)


def parse_config(text: str, source: str) -> TrainConfig:
    """Turn TOML into a configuration; `source` is for messages."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not TOML ({error})") from error
    sections = {"data": DataSettings, "loop": LoopSettings, "start": StartSettings}
    known = ["seed", "title", "model", *sections]
    if unknown := [key for key in values if key not in known]:
        raise InputError(f"{source}: {unknown[0]!r} is unknown; known are {', '.join(known)}")
    if not isinstance(values.get("model"), dict) or "architecture" not in values["model"]:
        raise InputError(f"{source} has no [model] with an architecture; give lrs_mt, xp_mt, xp_oae or clip")
    try:
        model = config_from_dict(values["model"])
    except CheckpointError as error:
        raise InputError(f"{source}, [model]: {error}") from error
    read: dict[str, Any] = {
        name: _section(kind, values.get(name, {}), f"{source}, [{name}]") for name, kind in sections.items()
    }
    top = {
        key: _typed(values[key], kind, f"{source}: {key}") for key, kind in (("seed", int), ("title", str)) if key in values
    }
    try:
        return TrainConfig(model=model, **read, **top)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _section(kind: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a table of settings")
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in names]:
        raise InputError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join(names)}")
    hints = get_type_hints(kind)
    try:
        return kind(**{key: _typed(value, hints[key], f"{where}: {key}") for key, value in values.items()})
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return a TOML value as the type that a setting has; integers will do for floats, lists for tuples."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, str, bool):
        if type(value) is kind:
            return value
    elif isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value):
        return float(value[0]), float(value[1])
    expected = getattr(kind, "__name__", "") if kind in (int, float, str, bool) else "two numbers"
    raise InputError(f"{where} is {value!r}; {expected} is needed")
