"""`doctor`: what is installed, which devices there are, and whether a real search works on each of them."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from specdb._version import __version__

__all__ = ["doctor"]

_PACKAGES = ("numpy", "scipy", "astropy", "pyarrow", "duckdb", "torch", "safetensors", "h5py")
_FAISS_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12")
_OPTIONAL = {"huggingface-hub": "specdb encoders pull"}
_PROBES = 64


@click.command()
def doctor() -> None:
    """Check the installation with a real search on each device; exit status 1 when something does not work."""
    click.echo(f"specdb {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in _PACKAGES:
        click.echo(f"  {name:16s} {_version(name) or 'MISSING'}")
    wheels = [f"{name} {version}" for name in _FAISS_WHEELS if (version := _version(name))]
    click.echo(f"  {'faiss':16s} {', '.join(wheels) or 'MISSING'}")
    if len(wheels) > 1:
        click.echo("  several faiss wheels overwrite one another: uninstall all of them and install one")
    for name, use in _OPTIONAL.items():
        click.echo(f"  {name:16s} {_version(name) or f'not installed (needed for {use})'}")

    checks: list[tuple[str, Callable[[], str]]] = [
        ("default encoder", _check_encoder),
        ("write, lock and read a database", _check_store),
        (f"search of {_PROBES} vectors on the CPU", _check_cpu_search),
        (f"search of {_PROBES} vectors on the GPU", _check_gpu_search),
        ("encoder on the GPU", _check_gpu_encoder),
    ]
    failures = 0
    for name, check in checks:
        try:
            click.echo(f"{name}: {check()}")
        except Exception as error:
            # Whatever a broken installation throws is the finding.
            failures += 1
            click.echo(f"{name}: FAILED ({type(error).__name__}: {error})")
    sys.exit(1 if failures else 0)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _probe():
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((_PROBES, 32)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _require_self_first(ids) -> str:
    import numpy as np

    found = int(np.sum(ids[:, 0] == np.arange(_PROBES)))
    if found != _PROBES:
        raise RuntimeError(f"only {found} of {_PROBES} vectors find themselves")
    return "works"


def _check_encoder() -> str:
    import numpy as np

    from specdb.encoders import load_encoder
    from specdb.spectra import get_modality

    encoder = load_encoder()
    modality = encoder.modalities[0]
    n_grid = len(get_modality(modality).wavelength)
    flux = 1 + 0.1 * np.random.default_rng(0).standard_normal((2, n_grid)).astype(np.float32)
    shape = encoder.encode(flux, modality)["shared"].shape
    return f"{encoder.name} ({encoder.weight_hash[:16]}) embeds {modality} into {shape[1]} dimensions"


def _check_store() -> str:
    from specdb.store import Store

    with tempfile.TemporaryDirectory() as folder, Store.create(Path(folder) / "probe", "none").writing():
        return "works"


def _check_cpu_search() -> str:
    import faiss

    index = faiss.IndexFlatIP(32)
    index.add(_probe())
    return _require_self_first(index.search(_probe(), 1)[1])


def _check_gpu_search() -> str:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        return "this faiss has no GPU support; the CPU is used"
    if faiss.get_num_gpus() == 0:
        return "faiss has GPU support, but sees no GPU; the CPU is used"
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 32)
    index.add(_probe())
    return _require_self_first(index.search(_probe(), 1)[1])


def _check_gpu_encoder() -> str:
    import torch

    if not torch.cuda.is_available():
        return "torch sees no GPU; the CPU is used"
    product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    if float(product[0, 0]) != 64:
        raise RuntimeError(f"a matrix product on the GPU gave {float(product[0, 0])} instead of 64")
    return torch.cuda.get_device_name()
