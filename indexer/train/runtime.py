"""Where a training runs: this process on the CPU, or one or several devices through Lightning Fabric.

The loop stays the same; what differs is where tensors lie, how gradients and figures are shared, and the arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from specdb.errors import DependencyError, InputError, TrainingError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["PRECISIONS", "FabricRuntime", "Runtime", "RuntimeSettings", "launch"]

#: Name -> Fabric's name. Weights and optimiser stay in float32; bfloat16 is the arithmetic of matrix products.
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}

Optimisers = tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True)
class RuntimeSettings:
    """Device, number of devices and arithmetic.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda``, or ``cuda:1`` for one particular device.
    devices : int
        Processes, each with a device of its own.
    precision : {"float32", "bfloat16"}
    """

    device: str = "cpu"
    devices: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        kind, _, number = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
            raise InputError(f"device {self.device!r} is unknown; choose cpu, cuda or cuda:NUMBER")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
        if self.devices < 1 or (number and self.devices > 1):
            raise InputError(f"{self.devices} devices of {self.device!r} were asked for; give 1 or more, and no number then")
        have = torch.cuda.device_count()
        if kind == "cuda" and max(self.devices, int(number or 0) + 1) > have:
            raise InputError(f"{self.devices} of {self.device!r} were asked for; this machine has {have} CUDA devices")

    @property
    def is_plain(self) -> bool:
        """Whether it needs nothing but this process on the CPU."""
        return self == RuntimeSettings()


class Runtime:
    """This process, on the CPU, in float32."""

    rank = 0
    world = 1
    cuda_devices: tuple[int, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def setup(self, module: nn.Module, optimisers: Optimisers) -> tuple[nn.Module, Optimisers]:
        """Return module and optimisers ready to train with."""
        return module, optimisers

    def move(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch on the device."""
        return batch

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()

    def local_gradients(self, module: nn.Module, local: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are, if `local`, only added up, not yet shared with other processes."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of numbers over all processes."""
        return values

    def gather(self, embeddings: Tensor) -> Tensor:
        """Return the rows (B, d) of all processes, (world * B, d); gradients flow back to where they came from."""
        return embeddings

    def barrier(self) -> None:
        """Wait for all processes."""


class FabricRuntime(Runtime):
    """One of the processes that Fabric started."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size
        device = fabric.device
        self.cuda_devices = (device.index or 0,) if device.type == "cuda" else ()

    def setup(self, module: nn.Module, optimisers: Optimisers) -> tuple[nn.Module, Optimisers]:
        """Move to the device and wrap."""
        wrapped, *others = self.fabric.setup(module, *optimisers)
        return wrapped, tuple(others)

    def move(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy to the device."""
        return {name: tensor.to(self.fabric.device, non_blocking=True) for name, tensor in batch.items()}

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, shared unless inside `local_gradients`."""
        self.fabric.backward(loss)

    def local_gradients(self, module: nn.Module, local: bool) -> AbstractContextManager[Any]:
        """Skip the exchange of gradients while a step adds up micro-batches."""
        return self.fabric.no_backward_sync(module, enabled=local and self.world > 1)  # type: ignore[arg-type]

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes."""
        return self.fabric.all_reduce(values.to(self.fabric.device), reduce_op="mean")  # type: ignore[return-value]

    def gather(self, embeddings: Tensor) -> Tensor:
        """Gather with gradients."""
        if self.world == 1:
            return embeddings
        return self.fabric.all_gather(embeddings, sync_grads=True).flatten(0, 1)  # type: ignore[union-attr]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.fabric.barrier()


def launch(settings: RuntimeSettings, function: Callable[..., None], *arguments: Any) -> None:
    """Call ``function(runtime, *arguments)`` in every process that the settings ask for.

    Several devices are served by processes that are started here, so the function must be importable and its arguments must
    survive being sent to another process. Under ``torchrun`` the processes are there already.

    Raises
    ------
    DependencyError
        When Lightning is needed and missing.
    TrainingError
        What went wrong in one of several processes.
    """
    if settings.is_plain:
        function(Runtime(), *arguments)
        return
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise DependencyError(
            f"training on {settings.devices} x {settings.device} in {settings.precision} needs Lightning; "
            'install it with: pip install "specdb[train]"'
        ) from error
    kind, _, number = settings.device.partition(":")
    fabric = Fabric(
        accelerator=kind,
        devices=[int(number)] if number else settings.devices,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        strategy="auto" if settings.devices == 1 else "ddp" if "TORCHELASTIC_RUN_ID" in os.environ else "ddp_spawn",
        precision=PRECISIONS[settings.precision],  # type: ignore[arg-type]
    )
    try:
        # As one opaque object: Fabric looks into arguments, and refuses frozen dataclasses.
        fabric.launch(_Call(function, arguments))
    except torch.multiprocessing.ProcessRaisedException as error:
        last = str(error).strip().splitlines()[-1]
        raise TrainingError(f"one of the {settings.devices} processes stopped: {last.partition(': ')[2] or last}") from error


class _Call:
    """A function and its arguments, to be called with the runtime in front."""

    def __init__(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self, fabric: Fabric) -> None:
        self.function(FabricRuntime(fabric), *self.arguments)
