"""Targets that the encoder learns to reach from noisy views: noise-whitened components and, if wanted, predicted labels.

The linear map that best keeps two noisy views of one spectrum together and different stars apart is known in closed form:
the leading generalised eigenvectors of the covariance of spectra against the covariance of what views add to them, as in
linear discriminant analysis. Its scores have unit noise, so plain distances weigh every component by what it can tell. A
constant component makes the cosine of the normalised scores follow their Euclidean distance instead of the angle seen from
the mean star. The transformer starts from there and is free to go further.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch

from indexer.train.data import split_stars
from indexer.train.views import ViewSettings, noisy_views

__all__ = ["KernelRidge", "TargetMap", "TargetSettings", "noise_whitening"]

_N_FOLDS = 5  # of the cross-fitted labels
_BLOCK = 8192  # spectra mapped at a time


@dataclass(frozen=True)
class TargetSettings:
    """What the targets consist of.

    Attributes
    ----------
    n_components : int
        Noise-whitened components.
    n_principal : int
        Principal components that they are sought in.
    constant : float
        Size of the constant component, relative to the root mean square length of the scores.
    label_weight : float
        Size of the predicted labels, in the same unit per standard deviation of log Teff; 0 uses no labels at all.
    label_scale : tuple
        Relative weights of the labels; the first is log10 Teff.
    kernel_width, ridge : float
        Of the kernel ridge regression that predicts the labels of a star from other stars.
    flux_range : tuple (low, high)
        Prepared flux is clipped to it here (not in the encoder), as a few damaged pixels would rule the covariances.
    """

    n_components: int = 30
    n_principal: int = 200
    constant: float = 2.0
    label_weight: float = 0.5
    label_scale: tuple[float, ...] = (1.0, 0.7, 0.7)
    kernel_width: float = 0.3
    ridge: float = 0.1
    flux_range: tuple[float, float] = (0.0, 1.3)

    @property
    def n_dim(self) -> int:
        """Length of a target with labels."""
        return self.n_components + 1 + (len(self.label_scale) if self.label_weight else 0)


@dataclass(frozen=True)
class KernelRidge:
    """Ridge regression with the kernel ``exp(-width |x - x'|^2)``: training points (n, d) and their weights (n, l)."""

    x: np.ndarray
    weights: np.ndarray
    width: float

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, width: float, ridge: float) -> KernelRidge:
        """Fit `y` (n, l) at `x` (n, d)."""
        weights = scipy.linalg.solve(_kernel(x, x, width) + ridge * np.eye(len(x)), y, assume_a="pos")
        return cls(x, weights, width)

    def __call__(self, query: np.ndarray) -> np.ndarray:
        """Return predictions (m, l) at `query` (m, d)."""
        return _kernel(query, self.x, self.width) @ self.weights


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.exp(-width * square.clip(0))


@dataclass(frozen=True)
class TargetMap:
    """Turns prepared spectra of one modality into their targets.

    Attributes
    ----------
    settings : TargetSettings
    mean : ndarray (n_pixels,)
    axes : ndarray (n_pixels, k)
        From centred flux to noise-whitened scores.
    unit : float
        Root mean square length of the scores.
    label_scores : ndarray (k,)
        What scores are divided by before labels are predicted from them.
    regression : KernelRidge or None
        Fitted to all training stars; None without labels.
    """

    settings: TargetSettings
    mean: np.ndarray
    axes: np.ndarray
    unit: float
    label_scores: np.ndarray
    regression: KernelRidge | None

    @classmethod
    def fit(
        cls,
        flux: np.ndarray,
        sigma: np.ndarray,
        labels: np.ndarray,
        star: np.ndarray,
        settings: TargetSettings,
        views: ViewSettings,
        seed: int,
        noise_root: torch.Tensor | None = None,
    ) -> tuple[TargetMap, np.ndarray]:
        """Fit the map to training spectra and return it with their targets (n, d), float32, unit vectors.

        The labels of a star enter the targets of the other folds' stars only (cross-fitting), so that targets carry what
        spectra tell about labels, not the labels' noise. Spectra without labels get predictions too.

        Parameters
        ----------
        flux, sigma : ndarray (n, n_pixels), float32
        labels : ndarray (n, l)
            The first is Teff; NaN where there is none.
        star : ndarray (n,)
            Equal numbers are one star.
        settings, views, seed
        noise_root : Tensor, optional
            See `indexer.train.views.noisy_views`.
        """
        s = settings
        mean, axes = noise_whitening(flux, sigma, s, views, seed, noise_root)
        scores = (np.clip(flux, *s.flux_range) - mean) @ axes  # (n, k)
        unit = float(np.sqrt((scores**2).sum(axis=1).mean()))
        scaled = np.sqrt(scores.std(axis=0))
        fold = split_stars(star, _N_FOLDS, seed)
        known = np.isfinite(labels).all(axis=1)
        regressions: list[KernelRidge | None] = [None] * (_N_FOLDS + 1)
        if s.label_weight and known.any():
            y = np.column_stack([np.log10(labels[:, 0]), labels[:, 1:]])
            y = ((y - y[known].mean(axis=0)) / y[known].std(axis=0)).clip(-4, 4)
            x = scores / scaled
            width = s.kernel_width / x.var(axis=0).sum()
            banks = [known & (fold != f) for f in range(_N_FOLDS + 1)]  # the last one is all of them
            regressions = [KernelRidge.fit(x[bank], y[bank], width, s.ridge) for bank in banks]
        *of_folds, of_all = regressions
        found = cls(s, mean, axes, unit, scaled, of_all)
        parts = [found._of_scores(scores[fold == f], regression) for f, regression in enumerate(of_folds)]
        target = np.empty((len(flux), parts[0].shape[1]), np.float32)
        for f, part in enumerate(parts):
            target[fold == f] = part
        return found, target

    def __call__(self, flux: np.ndarray) -> np.ndarray:
        """Return the targets (n, d), float32, of spectra of other stars (n, n_pixels)."""
        low, high = self.settings.flux_range
        found = []
        for start in range(0, len(flux), _BLOCK):
            block = flux[start : start + _BLOCK].astype(np.float32).clip(low, high)
            found.append(self._of_scores((block - self.mean) @ self.axes, self.regression))
        return np.concatenate(found)

    def _of_scores(self, scores: np.ndarray, regression: KernelRidge | None) -> np.ndarray:
        s = self.settings
        parts = [scores, np.full((len(scores), 1), s.constant * self.unit)]
        if regression is not None:
            predicted = regression(scores / self.label_scores)  # (n, l)
            parts.append(s.label_weight * self.unit * predicted * np.array(s.label_scale))
        target = np.concatenate(parts, axis=1)
        return (target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32)


def noise_whitening(
    flux: np.ndarray,
    sigma: np.ndarray,
    settings: TargetSettings,
    views: ViewSettings,
    seed: int,
    noise_root: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (n_pixels,) and axes (n_pixels, k), float64, of scores in which views differ by about one everywhere."""
    clipped = np.clip(flux, *settings.flux_range).astype(np.float64)
    mean = clipped.mean(axis=0)
    centred = clipped - mean
    _, _, axes = scipy.linalg.svd(centred, full_matrices=False, check_finite=False)
    axes = axes[: min(settings.n_principal, len(flux) - 1)].T  # (n_pixels, p)
    generator = torch.Generator().manual_seed(seed)
    # Rare gross damage would swamp the covariance of lines; the encoder learns to bear it, not the linear map.
    ordinary = replace(views, noise=(1.0, 1.0), window_probability=0.0, bad_fraction=0.0)
    view = noisy_views(torch.from_numpy(clipped).float(), torch.from_numpy(sigma), ordinary, generator, noise_root).numpy()
    noise = (np.clip(view, *settings.flux_range) - clipped) @ axes  # (n, p)
    within = noise.T @ noise / len(noise)
    within += 1e-6 * np.trace(within) / len(within) * np.eye(len(within))
    among = np.cov(centred @ axes, rowvar=False)
    _, vectors = scipy.linalg.eigh(among, within)  # ascending, vectors' within-variance is one
    return mean, axes @ vectors[:, ::-1][:, : settings.n_components]
