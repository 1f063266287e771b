"""Quantization without data, file by file: the model is never loaded, only its tensors, one at a time.

Each weight goes by itself through llmcompressor's converter of its `model_free_ptq`. What is in memory is what becomes
of a file, and one tensor more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any

from recipes.engines.devices import Device, announce, free_memory, processors
from recipes.task import Module, Step, Task, Tell, whole_file
from registry.parallel import StoppedError, run_each

RATE = 30e6
"""Bytes of 16-bit weights that a core rounds in a second."""


def quantize_files(task: Task, config: Any, modules: Sequence[Module], devices: Sequence[Device], tell: Tell) -> None:
    """Make those files of the task that have modules to quantize and are not there yet, side by side as memory allows.

    The same bytes come of the same files, versions and kind of device.
    """
    from llmcompressor.entrypoints.model_free.converter import ModelFreePtqConverter

    converter = ModelFreePtqConverter(config)
    chosen = frozenset(f"{module.name}.weight" for module in modules if module.is_quantized)
    waiting = [name for name in task.files if not (task.target / name).exists() and holds(task.source / name, chosen)]
    size = sum((task.source / name).stat().st_size for name in waiting)
    count = _Count(size, tell)
    tell(announce(devices, "file by file", size / RATE))
    places = dict(zip(waiting, (devices[at % len(devices)] for at in range(len(waiting))), strict=True))

    def make(name: str, stop: Event) -> None:
        convert = _converting(converter, chosen, places[name])
        with whole_file(task.target / name) as scratch:
            _quantize(task.source / name, scratch, convert, lambda size: count.add(size, name), stop)

    run_each(make, waiting, _workers([task.source / name for name in waiting], devices))


def holds(path: Path, chosen: frozenset[str]) -> bool:
    """Whether a file has any of the tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return not chosen.isdisjoint(file.keys())


def _workers(paths: Sequence[Path], devices: Sequence[Device]) -> int:
    """Two files for each GPU, since one is read while another is computed; as many as there is memory for elsewhere."""
    wanted = sum(2 if device.is_gpu else max(processors() // 4, 1) for device in devices)
    largest = max((path.stat().st_size for path in paths), default=1)
    return max(min(wanted, free_memory() // (2 * largest + 1)), 1)


Convert = Callable[[str, Any], dict[str, Any]]


def _converting(converter: Any, chosen: frozenset[str], device: Device) -> Convert:
    def convert(name: str, tensor: Any) -> dict[str, Any]:
        """What stands for a tensor in the result: itself if it is not to be quantized."""
        if name not in chosen:
            return {name: tensor}
        made = converter.process({name: tensor.to(device.name).float()})
        return {key: value.to("cpu") for key, value in made.items()}

    return convert


def _quantize(source: Path, target: Path, convert: Convert, advance: Callable[[int], None], stop: Event) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    made: dict[str, Any] = {}
    with safe_open(source, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no map
            if stop.is_set():
                raise StoppedError
            tensor = file.get_tensor(name)
            made |= convert(name, tensor)
            advance(tensor.nbytes)
        save_file(made, target, metadata=file.metadata())


class _Count:
    """Bytes that are done, counted by several threads."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._done, self._total, self._tell, self._lock = 0, total, tell, Lock()

    def add(self, size: int, name: str) -> None:
        with self._lock:
            self._done += size
            self._tell(Step(self._done, self._total, "bytes", name))
