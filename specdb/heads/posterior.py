"""Neural posterior estimation: the joint posterior of all labels given an input, amortised over inputs.

The density estimators are those of the `sbi` package, made by its public builder. They are stored as their weights and the
settings that rebuild them, never as pickled objects. As in `specdb.heads.ensemble` every member leaves out one fold of
stars; the posterior of a new star is the mixture of all members', that of a training star comes from members that have not
seen it.

A posterior is that of the catalogue's label: errors of the labels are part of it and are not taken out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from specdb.errors import CheckpointError, DependencyError, InputError, TrainingError
from specdb.heads.kinds import Alone, Fitted, HeadData, Report

__all__ = ["PosteriorEnsemble", "PosteriorSettings"]

_ESTIMATORS = ("mdn", "zuko_maf", "zuko_nsf")
_ROWS = 1024  # spectra sampled at once
_LEAST_COMPLETE = 50


@dataclass(frozen=True)
class PosteriorSettings:
    """How the density estimators look and learn.

    Attributes
    ----------
    estimator : {'mdn', 'zuko_maf', 'zuko_nsf'}
        Mixture of Gaussians with full covariances (fast), masked autoregressive flow, neural spline flow.
    components : int
        Gaussians of a mixture.
    transforms, hidden_features : int
        Of a flow, and the width of the estimator's own layers.
    hidden : tuple of int
        Widths of the network that condenses the input.
    dropout : float
        In that network.
    members_per_fold : int
        Members that leave out the same fold.
    draws : int
        From which `predict` takes median and quantiles, over all members.
    steps, batch_size : int
    lr, weight_decay : float
        Peak of AdamW's rate, which falls along half a cosine, and its decay.
    """

    estimator: str = "mdn"
    components: int = 5
    transforms: int = 3
    hidden_features: int = 64
    hidden: tuple[int, ...] = (256, 64)
    dropout: float = 0.2
    members_per_fold: int = 2
    draws: int = 500
    steps: int = 600
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.estimator not in _ESTIMATORS:
            raise InputError(f"no estimator is called {self.estimator!r}; there are {', '.join(_ESTIMATORS)}")


class PosteriorEnsemble:
    """Joint posteriors from an ensemble of conditional density estimators; see the module."""

    kind: ClassVar[str] = "posterior"
    Settings: ClassVar[Any] = PosteriorSettings

    def __init__(self, members: list[Any], settings: PosteriorSettings, n_inputs: int, n_labels: int) -> None:
        self._members = [member.eval().requires_grad_(False) for member in members]
        self._settings, self._n_inputs, self._n_labels = settings, n_inputs, n_labels

    @classmethod
    def fit(cls, data: HeadData, settings: PosteriorSettings, seed: int, report: Report | None = None) -> Fitted:
        """Train on the stars that have all labels; see `HeadModel.fit`.

        Raises
        ------
        InputError
            When too few stars have all labels.
        TrainingError
            When the loss is not finite.
        DependencyError
            Without the `sbi` package.
        """
        complete = np.isfinite(data.y).all(axis=1)
        if complete.sum() < _LEAST_COMPLETE:
            raise InputError(
                f"{complete.sum()} stars have all {data.y.shape[1]} labels; a joint posterior needs at least "
                f"{_LEAST_COMPLETE}: ask for fewer labels"
            )
        left_out = np.repeat(np.arange(int(data.fold.max()) + 1), settings.members_per_fold)
        with torch.random.fork_rng(devices=[]):  # sbi's networks know no generator of their own
            torch.manual_seed(seed)
            members = []
            for number, fold in enumerate(left_out):
                told = None if report is None else _share(report, number, len(left_out), settings.steps)
                members.append(_train(data, complete & (data.fold != fold), complete & (data.fold == fold), settings, told))
        model = cls(members, settings, data.x.shape[1], data.y.shape[1])

        def draw(rows: np.ndarray) -> np.ndarray:
            out = np.empty((len(rows), settings.draws, data.y.shape[1]), np.float32)
            for fold in np.unique(left_out):
                here = data.fold[rows] == fold
                out[here] = model._draw(data.x[rows[here]], settings.draws, seed, np.flatnonzero(left_out == fold))
            return out

        n, n_labels = data.y.shape
        mean, sigma = np.empty((n, n_labels), np.float32), np.empty((n, n_labels), np.float32)
        shape = settings.members_per_fold, n, n_labels
        alone = Alone(np.empty(shape, np.float32), np.empty(shape, np.float32), len(left_out))
        for rows in np.array_split(np.arange(n), -(-n // _ROWS)):
            mean[rows], sigma[rows] = _summary(draw(rows))
            for fold in np.unique(data.fold[rows]):
                here = rows[data.fold[rows] == fold]
                for r, member in enumerate(np.flatnonzero(left_out == fold)):
                    alone.mean[r, here], alone.sigma[r, here] = _summary(
                        model._draw(data.x[here], settings.draws, seed, np.array([member]))
                    )
        return Fitted(model, mean, sigma, alone, draw)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the median and half of the 16 to 84 per cent interval (n, L), float32, of scaled inputs (n, d)."""
        found = [_summary(self.sample(x[i : i + _ROWS], self._settings.draws)) for i in range(0, len(x), _ROWS)]
        if not found:
            return np.empty((0, self._n_labels), np.float32), np.empty((0, self._n_labels), np.float32)
        mean, sigma = zip(*found, strict=True)
        return np.concatenate(mean), np.concatenate(sigma)

    def sample(self, x: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
        """Return draws (rows, n, L), float32, of scaled labels for scaled inputs (rows, d).

        Members take turns: each gives its share of the draws. Equal calls give equal draws.
        """
        return self._draw(x, n, seed, np.arange(len(self._members)))

    def _draw(self, x: np.ndarray, n: int, seed: int, members: np.ndarray) -> np.ndarray:
        shares = [len(part) for part in np.array_split(np.arange(n), len(members))]
        out = np.empty((len(x), n, self._n_labels), np.float32)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for start in range(0, len(x), _ROWS):
                rows = slice(start, start + _ROWS)
                condition = torch.from_numpy(np.ascontiguousarray(x[rows]))
                at = 0
                for member, share in zip(members, shares, strict=True):
                    if share:
                        drawn = self._members[member].sample(torch.Size((share,)), condition)  # (share, b, L)
                        out[rows, at : at + share] = drawn.transpose(0, 1).numpy()
                        at += share
        return out

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the weights of all members by name."""
        return {
            f"{number}.{name}": value.numpy()
            for number, member in enumerate(self._members)
            for name, value in member.state_dict().items()
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: PosteriorSettings) -> PosteriorEnsemble:
        """Rebuild from `tensors`.

        Raises
        ------
        CheckpointError
            When the installed `sbi` names or shapes its weights in another way.
        """
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, rest = name.partition(".")
            states.setdefault(int(number), {})[rest] = torch.from_numpy(np.array(value))
        first = states[0]
        n_inputs = first[next(name for name in first if name.endswith("condense.0.weight"))].shape[1]
        n_labels = len(first[_SIZE])
        members = []
        for _, state in sorted(states.items()):
            with torch.random.fork_rng(devices=[]):
                member = _estimator(n_inputs, n_labels, settings)
            try:
                member.load_state_dict(state)
            except RuntimeError as error:
                import sbi

                reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
                raise CheckpointError(
                    f"sbi {sbi.__version__} does not know the weights of this posterior head ({reason}); "
                    "use the version that its card names, or train it again"
                ) from error
            members.append(member)
        return cls(members, settings, n_inputs, n_labels)


_SIZE = "_embedding_net.n_labels"


class _Condense(nn.Module):
    """Perceptron from the input to what the density estimator is conditioned on."""

    def __init__(self, n_inputs: int, n_labels: int, settings: PosteriorSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = n_inputs
        for width in settings.hidden:
            layers += [nn.Linear(n_in, width), nn.ReLU(), nn.Dropout(settings.dropout)]
            n_in = width
        self.condense = nn.Sequential(*layers)
        self.register_buffer("n_labels", torch.zeros(n_labels))  # its length tells the number of labels when read back

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d) to (B, width)."""
        return self.condense(x)


def _estimator(n_inputs: int, n_labels: int, settings: PosteriorSettings) -> Any:
    """Build an untrained estimator p(labels | input) on scaled labels and inputs."""
    try:
        from sbi.neural_nets import posterior_nn
    except ImportError as error:
        raise DependencyError('posterior heads need sbi: pip install "specdb[heads]"') from error
    options: dict[str, Any] = {"hidden_features": settings.hidden_features}
    if settings.estimator == "mdn":
        options["num_components"] = settings.components
    else:
        options["num_transforms"] = settings.transforms
    build = posterior_nn(
        model=settings.estimator,
        z_score_theta="none",
        z_score_x="none",
        embedding_net=_Condense(n_inputs, n_labels, settings),
        **options,
    )
    return build(torch.randn(2, n_labels), torch.randn(2, n_inputs))


def _train(data: HeadData, train: np.ndarray, held: np.ndarray, settings: PosteriorSettings, report: Report | None) -> Any:
    """Train one estimator on some stars and keep the weights that suit the others best."""
    member = _estimator(data.x.shape[1], data.y.shape[1], settings)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    noise = None if data.x_err is None else torch.from_numpy(data.x_err)
    rows, held_rows = torch.from_numpy(np.flatnonzero(train)), torch.from_numpy(np.flatnonzero(held))
    optimiser = torch.optim.AdamW(member.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    best_loss, best = math.inf, {k: v.clone() for k, v in member.state_dict().items()}
    every = max(1, settings.steps // 20)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            rise = min(1.0, (step + 1) / max(1, 0.05 * settings.steps))
            group["lr"] = settings.lr * rise * (1 + math.cos(math.pi * step / settings.steps)) / 2
        chosen = rows[torch.randint(len(rows), (settings.batch_size,))]
        batch = x[chosen] if noise is None else x[chosen] + noise[chosen] * torch.randn(len(chosen), x.shape[1])
        loss = member.loss(y[chosen], batch).mean()
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is not finite at step {step}; look for wild values among inputs and labels")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(member.parameters(), 5.0)
        optimiser.step()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            member.eval()
            with torch.no_grad():
                now = float(torch.cat([member.loss(y[h], x[h]) for h in held_rows.split(4096)]).mean())
            member.train()
            if now < best_loss:
                best_loss, best = now, {k: v.clone() for k, v in member.state_dict().items()}
            if report is not None:
                report(step + 1, now)
    member.load_state_dict(best)
    return member


def _share(report: Report, number: int, members: int, steps: int) -> Callable[[int, float], None]:
    """Report the steps of one member as those of all."""
    return lambda step, loss: report(number * steps + step, loss)


def _summary(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median and half of the 16 to 84 per cent interval (n, L) of draws (n, s, L)."""
    low, middle, high = np.quantile(draws, [0.15865525, 0.5, 0.84134475], axis=1).astype(np.float32)
    return middle, (high - low) / 2
