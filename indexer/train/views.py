"""Noisy views of a spectrum: what another exposure of the same star might have looked like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from indexer.simulate.xp_instrument import XpStatistics, merged_basis

__all__ = ["ViewSettings", "chebyshev", "noisy_views", "xp_noise_root"]


@dataclass(frozen=True)
class ViewSettings:
    """How strongly a view differs from its spectrum.

    Radial velocity is left alone: it belongs to the star, and two visits of a star agree in it to a tenth of a pixel.

    Attributes
    ----------
    noise : tuple (low, high)
        Noise is added with the error of each pixel times a factor between these, log-uniform, one per view.
    max_sigma : float
        Largest error that is believed, in units of the continuum.
    continuum : float
        Amplitude of each term of the polynomial (in Chebyshev form) that the spectrum is multiplied by.
    continuum_order : int
    window : int
        Greatest width in pixels of the one window that is bridged by a straight line, as the preparation does.
    window_probability : float
    bad_fraction : float
        Greatest share of single pixels that are thrown off ...
    bad_amplitude : float
        ... by a normal deviate of this standard deviation.
    """

    noise: tuple[float, float] = (0.1, 2.0)
    max_sigma: float = 0.3
    continuum: float = 0.01
    continuum_order: int = 6
    window: int = 40
    window_probability: float = 0.5
    bad_fraction: float = 0.002
    bad_amplitude: float = 0.3


def chebyshev(n_pixels: int, order: int) -> Tensor:
    """Return the Chebyshev polynomials T_0 to T_order over the grid, (order + 1, n_pixels)."""
    x = torch.linspace(-1, 1, n_pixels)
    return torch.cos(torch.arange(order + 1)[:, None] * torch.arccos(x))


def xp_noise_root(statistics: XpStatistics | None = None) -> Tensor:
    """Return the matrix (110, 343) from white noise to noise of unit variance, correlated as in XP samples of G = 15.

    The samples are sums of basis functions, so their errors are correlated over many of them; a view with independent errors
    would be no XP spectrum.
    """
    statistics = statistics or XpStatistics.load()
    errors = np.exp(statistics.error_trend[0]) * statistics.noise_factor  # (110,), at G = 15 and colour 0
    basis = merged_basis() * errors[:, None]  # (110, 343)
    n_bases = len(basis) // 2
    arms = (slice(0, n_bases), slice(n_bases, None))
    root = np.concatenate([r.T @ basis[arm] for r, arm in zip(statistics.noise_roots, arms, strict=True)])
    return torch.from_numpy(root / np.sqrt((root**2).sum(axis=0))).float()


def noisy_views(
    flux: Tensor,
    sigma: Tensor,
    settings: ViewSettings,
    generator: torch.Generator,
    noise_root: Tensor | None = None,
) -> Tensor:
    """Return one view of each spectrum.

    Parameters
    ----------
    flux, sigma : Tensor (B, n_pixels)
        Prepared flux and its error, 0 where a pixel was repaired.
    settings : ViewSettings
    generator : torch.Generator
        The only source of randomness.
    noise_root : Tensor (k, n_pixels), optional
        Correlates the noise of the pixels (`xp_noise_root`); without it they are independent.

    Returns
    -------
    Tensor (B, n_pixels)
    """
    s, (B, n) = settings, flux.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    low, high = torch.tensor(s.noise).log()
    level = (low + (high - low) * uniform(B, 1)).exp()  # (B, 1)
    noise = normal(B, n) if noise_root is None else normal(B, len(noise_root)) @ noise_root  # (B, n)
    view = flux + level * sigma.clamp_max(s.max_sigma) * noise
    tilt = normal(B, s.continuum_order + 1) @ chebyshev(n, s.continuum_order)  # (B, n)
    view = view * (1 + s.continuum * tilt)
    bad = uniform(B, n) < s.bad_fraction * uniform(B, 1)
    view = view + bad * s.bad_amplitude * normal(B, n)
    return _bridge(view, uniform(B, 1), uniform(B, 1) * (uniform(B, 1) < s.window_probability), s.window)


def _bridge(flux: Tensor, place: Tensor, share: Tensor, greatest: int) -> Tensor:
    """Replace a window of each row (B, n) by the straight line between the pixels beside it."""
    n = flux.shape[1]
    width = 1 + (share * greatest).long().clamp_max(n - 2)  # (B, 1), in steps: width - 1 pixels are replaced
    first = (place * (n - width)).long()  # (B, 1), the last pixel before the window
    step = (torch.arange(n) - first) / width  # (B, n)
    left, right = flux.gather(1, first), flux.gather(1, first + width)
    return torch.where((step > 0) & (step < 1), left + (right - left) * step, flux)
