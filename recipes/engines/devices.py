"""Where it is computed, and how much memory there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from registry.errors import UsageError

STARTING = 8.0
"""Seconds until libraries are loaded."""

CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
VISIBLE = (CUDA, HIP, ROCR)
"""The variables that list the GPUs that a process can see: NVIDIA's, which AMD's libraries know too, and AMD's own."""

_NVIDIA = "proc/driver/nvidia/gpus/*/information"
_OTHERS = {"dev/kfd": "a GPU of AMD", "dev/dxg": "a GPU of Windows"}
"""Where there is a GPU too: what says so under the root folder, and what it is called."""


@dataclass(frozen=True)
class Device:
    """A device in torch's words (`cpu`, `cuda:1`), and what it is called."""

    name: str
    title: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return self.name != "cpu"


def find_devices(wanted: str) -> list[Device]:
    """The devices for `auto`, `cpu`, `cuda` or `cuda:N`, of which the environment has hidden all others.

    `UsageError` if a GPU is asked for and none can be used.
    """
    import torch

    there = [Device(f"cuda:{at}", torch.cuda.get_device_name(at)) for at in range(torch.cuda.device_count())]
    if wanted == "cpu" or (wanted == "auto" and not there):
        return [Device("cpu", f"CPU, {processors()} cores")]
    if not there:
        raise UsageError(
            "there is no such device",
            expected=wanted,
            found="no GPU that PyTorch can use",
            hint="--device cpu, or look at nvidia-smi and at the build of PyTorch: python -c 'import torch; "
            "print(torch.version.cuda)'",
        )
    return there


def announce(devices: Sequence[Device], how: str, work: float | None = None) -> str:
    """Where it is done and how; on a CPU also about how long, from the seconds of `work` of one core, if these are
    known.
    """
    if devices[0].is_gpu:
        return f"{len(devices)} x {devices[0].title}, {how}"
    if work is None:
        return f"no GPU is used: {devices[0].title}, {how}"
    seconds = STARTING + work / processors()
    about = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    return f"no GPU is used: {devices[0].title}, {how}; about {about}"


def has_short_floats(root: Path = Path("/")) -> bool:
    """Whether this machine's CPU multiplies in bfloat16; where it does not, that takes longer than float32."""
    with suppress(OSError):
        words = set((root / "proc/cpuinfo").read_text(errors="replace").split())
        return not words.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
    return False


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory() -> int:
    """Bytes of memory that can still be had: by the machine, and by the control group of a container."""
    return min(_free())


def _free() -> Iterator[int]:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        yield limit - int(Path("/sys/fs/cgroup/memory.current").read_text())


def listed(text: str) -> list[str]:
    """The devices in such a variable: those before an empty one or -1, as NVIDIA's libraries read it."""
    return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, text.split(","))))


def kind_of(wanted: str, environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """What kind of device `wanted` should mean on this machine, told without loading anything.

    `cpu`, or what the GPUs are called that are there; of several kinds, which of them is wanted counts too.
    """
    if wanted == "cpu" or any(key in environment and not listed(environment[key]) for key in VISIBLE):
        return "cpu"
    said = (path.read_text(errors="replace") for path in root.glob(_NVIDIA))
    names = {line.partition(":")[2].strip() for text in said for line in text.splitlines() if line.startswith("Model:")}
    names |= {name for path, name in _OTHERS.items() if (root / path).exists()}
    kinds = " and ".join(sorted(names)) or "cpu"
    seen = ", ".join(f"{key}={environment[key]}" for key in VISIBLE if key in environment)
    return f"{kinds}: {wanted} {seen}".rstrip() if len(names) > 1 else kinds
