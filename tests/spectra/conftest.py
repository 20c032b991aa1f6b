"""What the tests of the LAMOST preparation share: synthetic stars and the one-at-a-time reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The module `benchmarks/reference_preparation.py`; benchmarks are not a package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "reference_preparation.py"
    spec = importlib.util.spec_from_file_location("reference_preparation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stars() -> Callable[..., np.ndarray]:
    """Black bodies of 4000 to 12,000 K with Balmer lines and 2 per cent noise, float32."""

    def make(wavelength: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        flux = (5000 / wavelength) ** 5 / np.expm1(1.4388e8 / (wavelength * np.linspace(4000, 12000, n)[:, None]))
        flux /= flux.mean(axis=1, keepdims=True)
        for line in (4102.9, 4341.7, 4862.7, 6564.6):
            flux *= 1 - rng.uniform(0.1, 0.6, (n, 1)) * np.exp(-0.5 * ((wavelength - line) / 12) ** 2)
        return (1000 * flux * (1 + rng.normal(0, 0.02, flux.shape))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def deviation() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest |difference| / (1 + |expected|)."""
    return lambda found, expected: float((np.abs(found - expected) / (1 + np.abs(expected))).max())
