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

from indexer.train.data import TrainingSet, split_stars
from indexer.train.views import ViewSettings, noisy_views

__all__ = ["TargetSettings", "kernel_ridge", "make_targets", "noise_whitened"]


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
        Relative weights of log10 Teff, logg, [Fe/H].
    kernel_width, ridge : float
        Of the kernel ridge regression that predicts the labels of a star from other stars.
    flux_range : tuple (low, high)
        Normalised flux is clipped to it here (not in the encoder), as a few damaged pixels would rule the covariances.
    """

    n_components: int = 30
    n_principal: int = 200
    constant: float = 2.0
    label_weight: float = 0.5
    label_scale: tuple[float, float, float] = (1.0, 0.7, 0.7)
    kernel_width: float = 0.3
    ridge: float = 0.1
    flux_range: tuple[float, float] = (0.0, 1.3)


def make_targets(data: TrainingSet, settings: TargetSettings, views: ViewSettings, seed: int) -> np.ndarray:
    """Return the target of each training spectrum, (n, d) float32, unit vectors.

    The labels of a star enter the targets of the other folds' stars only (cross-fitting), so that targets carry what spectra
    tell about labels, not the labels' noise. Spectra without labels get predictions too.
    """
    scores = noise_whitened(data.flux, data.sigma, settings, views, seed)  # (n, k)
    unit = np.sqrt((scores**2).sum(axis=1).mean())
    parts = [scores, np.full((len(scores), 1), settings.constant * unit)]
    if settings.label_weight and data.labelled.any():
        predicted = _cross_fitted_labels(scores, data, settings, seed)  # (n, 3)
        parts.append(settings.label_weight * unit * predicted * np.array(settings.label_scale))
    target = np.concatenate(parts, axis=1)
    return (target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32)


def noise_whitened(
    flux: np.ndarray, sigma: np.ndarray, settings: TargetSettings, views: ViewSettings, seed: int
) -> np.ndarray:
    """Return scores (n, k), float64, in which views of a spectrum differ by about one in every component."""
    clipped = np.clip(flux, *settings.flux_range).astype(np.float64)
    centred = clipped - clipped.mean(axis=0)
    _, _, axes = scipy.linalg.svd(centred, full_matrices=False, check_finite=False)
    axes = axes[: min(settings.n_principal, len(flux) - 1)]  # (p, n_pixels)
    generator = torch.Generator().manual_seed(seed)
    # Rare gross damage would swamp the covariance of lines; the encoder learns to bear it, not the linear map.
    ordinary = replace(views, noise=(1.0, 1.0), window_probability=0.0, bad_fraction=0.0)
    view = noisy_views(torch.from_numpy(clipped).float(), torch.from_numpy(sigma), ordinary, generator).numpy()
    noise = (np.clip(view, *settings.flux_range) - clipped) @ axes.T  # (n, p)
    within = noise.T @ noise / len(noise)
    within += 1e-6 * np.trace(within) / len(within) * np.eye(len(within))
    among = np.cov(centred @ axes.T, rowvar=False)
    _, vectors = scipy.linalg.eigh(among, within)  # ascending, vectors' within-variance is one
    return centred @ axes.T @ vectors[:, ::-1][:, : settings.n_components]


def _cross_fitted_labels(scores: np.ndarray, data: TrainingSet, settings: TargetSettings, seed: int) -> np.ndarray:
    """Return standardised labels (n, 3) predicted from scores, each star's from stars of the other four fifths."""
    x = scores / np.sqrt(scores.std(axis=0))
    width = settings.kernel_width / x.var(axis=0).sum()
    known = data.labelled
    y = np.column_stack([np.log10(data.labels[:, 0]), data.labels[:, 1:]])
    y = ((y - y[known].mean(axis=0)) / y[known].std(axis=0)).clip(-4, 4)
    fold = split_stars(data.star, 5, seed)
    predicted = np.empty((len(x), y.shape[1]))
    for f in range(5):
        bank = known & (fold != f)
        predicted[fold == f] = kernel_ridge(x[bank], y[bank], x[fold == f], width, settings.ridge)
    return predicted


def kernel_ridge(x: np.ndarray, y: np.ndarray, query: np.ndarray, width: float, ridge: float) -> np.ndarray:
    """Return predictions (m, l) at `query` (m, d) of the ridge regression of `y` (n, l) on `x` (n, d).

    The kernel is ``exp(-width |x - x'|^2)``.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
        return np.exp(-width * square.clip(0))

    weights = scipy.linalg.solve(kernel(x, x) + ridge * np.eye(len(x)), y, assume_a="pos")
    return kernel(query, x) @ weights
