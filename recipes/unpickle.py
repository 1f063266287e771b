"""Conversion of pickled weights to safetensors, in a child process that loads nothing but tensors.

The child is `python -m recipes.unpickle SOURCE TARGET SECONDS`: it loads with `torch.load(weights_only=True)`, writes,
reads what it wrote and compares every tensor bit by bit. It ends with one line of JSON on its standard output. What it
writes, its memory and its time are bounded, so that a small file cannot fill a machine.
https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from formats.findings import RejectedError
from formats.pickle import convertible, find_pickle
from formats.safetensors import MAX_HEADER
from formats.snapshot import ModelFile
from formats.text import printable
from recipes.task import settle
from registry.blob import FileBlob
from registry.disk import require_free
from registry.errors import ModelError, SpaceError, UsageError

TIME_LIMIT = 3600.0
"""Seconds that a conversion may take unless the caller says otherwise."""

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys of a training checkpoint under which the tensors are looked for, in this order; the rest of it is dropped."""

VERSION = 2
"""Of what the same pickle becomes; another one makes every pickle be converted again."""

GROWTH = 4
"""Bytes of tensors that a byte of a pickle may become: weights tied under several names, or an archive compressed."""

SMALL = 16 << 20
"""Bytes of tensors that any pickle may become: of a tiny one the tied or compressed part is nearly all."""

_ENVIRONMENT = {"PATH": os.defpath, "OMP_NUM_THREADS": "1"}
"""All that the child gets: no credentials, and nothing that steers Python or torch. A thread costs it memory."""

_SPARE = 512 << 20
"""Bytes of memory that torch may need for itself, beyond those at its start."""

_MAX_SAID = 500
_HINT = "convert it where the model was made, or leave it out with --include"


@dataclass(frozen=True)
class Converted:
    """What was written and proved: how many tensors, and the bytes of their data."""

    tensors: int
    size: int


def convert(source: Path, target: Path, *, timeout: float = TIME_LIMIT) -> Converted:
    """Write the tensors in the pickle `source` to `target` as safetensors, which is there only when it is proved.

    Every name is written, contiguous: tensors that shared memory, such as tied embeddings, are written once for each
    name. No tensor may be larger than the storage that it is a view of, and all together, like an archive's members
    unpacked, at most `most_bytes` of the file. `RejectedError` for a pickle that imports what is dangerous or could
    not be read whole, `ModelError` for one that is no map of names to tensors, grows beyond those bounds or takes more
    than `timeout` seconds, `SpaceError` if memory or disk do not suffice, `UsageError` without the extra
    `packer[convert]`.
    """
    finding = find_pickle(ModelFile.of(source.name, FileBlob.at(source)))
    if finding is None:
        raise ModelError("this is no pickle, so there is nothing to convert", subject=source.name)
    if not convertible(finding):
        raise RejectedError(finding)
    require_free(target.parent, source.stat().st_size, "the converted weights need as much as the pickle; free some")
    with tempfile.TemporaryDirectory(prefix=".packer-", dir=target.parent) as folder:
        scratch = Path(folder) / "converted.safetensors"
        answer = _in_child(source, scratch, timeout)
        settle(scratch, target)
    return Converted(int(answer["tensors"]), int(answer["bytes"]))


def most_bytes(size: int) -> int:
    """Bytes of tensors that a pickle of `size` bytes may become: `GROWTH` times as many, or `SMALL` if that is more."""
    return max(GROWTH * size, SMALL)


def _in_child(source: Path, scratch: Path, timeout: float) -> dict[str, Any]:
    # -P: a torch.py in the current folder, which may be the model's, is not the library
    command = [sys.executable, "-P", "-m", "recipes.unpickle", str(source.absolute()), str(scratch.absolute())]
    command.append(str(math.ceil(timeout)))
    try:
        done = subprocess.run(command, capture_output=True, env=_ENVIRONMENT, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            "its conversion takes too long", subject=source.name, expected=f"{timeout:g} s", found="more", hint=_HINT
        ) from error
    if done.returncode == -signal.SIGKILL:
        raise SpaceError(
            "its conversion was killed, most likely for want of memory",
            subject=source.name,
            expected=f"some {source.stat().st_size} bytes of memory",
            found=signal.strsignal(-done.returncode) or f"signal {-done.returncode}",
            hint="run it where there is more memory",
        )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        _refuse(source, "its conversion failed", {"error": done.stderr.decode(errors="replace").strip()[-_MAX_SAID:]})
    if "error" in answer:
        _refuse(source, "it cannot be converted to safetensors", answer)
    return dict(answer)


def _refuse(source: Path, what: str, answer: Mapping[str, Any]) -> NoReturn:
    found = printable(str(answer["error"]))
    match answer.get("kind"):
        case "missing":
            raise UsageError(
                "conversion needs PyTorch and safetensors", found=found, hint="pip install 'packer[convert]'"
            )
        case "space":
            raise SpaceError(what, subject=source.name, found=found, hint="run it where there is more memory and disk")
        case "bound":
            raise ModelError(
                f"{what}: it grows beyond what weights do",
                subject=source.name,
                expected=printable(str(answer["expected"])),
                found=found,
                hint=f"save clones of its tensors, uncompressed; else {_HINT}",
            )
    key = printable(str(answer.get("key", "")))
    raise ModelError(
        f"{what}: {key!r} is no tensor that can be written" if key else what,
        subject=source.name,
        expected="a map of names to dense tensors, such as state_dict() returns",
        found=found,
        hint=_HINT,
    )


class _KeyError(Exception):
    """What stands under `key` is not what is needed."""

    def __init__(self, key: str, error: str) -> None:
        super().__init__(error)
        self.answer = {"error": error, "key": key[:_MAX_SAID]}


class _BoundError(Exception):
    """A file becomes larger than it may."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(found)
        self.answer = {"error": found, "expected": expected, "kind": "bound"}


def _main(source: str, target: str, seconds: str) -> dict[str, object]:
    """The child's answer."""
    try:
        import safetensors.torch
        import torch
    except ImportError as error:
        return {"error": str(error), "kind": "missing"}
    most = most_bytes(Path(source).stat().st_size)
    memory = _limit(most, int(seconds))
    try:
        tensors = _separate(dict(_bounded(_tensors(_load(source, most)), most)))
        safetensors.torch.save_file(tensors, target, metadata={"format": "pt"})
        _prove(tensors, target)
    except (_KeyError, _BoundError) as error:
        return dict(error.answer)
    except (MemoryError, torch.OutOfMemoryError) as error:
        said = str(error) or "not enough memory"
        bound = {"expected": f"at most {memory} bytes of memory", "kind": "bound"}
        return {"error": said, **(bound if memory else {"kind": "space"})}
    except Exception as error:  # noqa: BLE001 - hostile content makes torch raise anything
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        said = _said(error)
        return {"error": said, "kind": "space" if full else ""}
    return {"tensors": len(tensors), "bytes": sum(tensor.nbytes for tensor in tensors.values())}


def _limit(most: int, seconds: int) -> int:
    """Bound the rest of this process, which may write `most` bytes of tensors; the bytes of memory, 0 if not by us.

    The checks of sizes come first and speak clearly; these hold where they see nothing. The target may have a header
    besides the tensors. Memory is that of data, since address space is mostly libraries: enough for what is loaded,
    what is written and what is read again. The time is the parent's, should the parent be gone. Open files are not
    bounded: nothing that is loaded can open one. Where a limit of this process is lower already, it stays.
    """
    import resource

    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, most + MAX_HEADER)
    _bound(resource.RLIMIT_CPU, seconds)
    with contextlib.suppress(ValueError, OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
        memory = used + 3 * most + _SPARE
        return memory if _bound(resource.RLIMIT_DATA, memory) == memory else 0
    return 0


def _bound(kind: int, wanted: int) -> int:
    """Lower one limit of this process to `wanted`, or to what is allowed; what it is now, -1 where that fails."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
        return limit
    return -1


def _said(error: Exception) -> str:
    """What torch says on one line, without its advice to load the file unsafely."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    reason = re.search(r"WeightsUnpickler error: (.*?)(?: Please | Check the documentation|$)", text)
    return (reason[1] if reason else text)[:_MAX_SAID]


def _load(source: str, most: int) -> object:
    import torch

    return torch.load(source, weights_only=True, map_location="cpu", mmap=_can_map(source, most))


def _can_map(source: str, most: int) -> bool:
    """Whether the bytes of the tensors lie in the file as they are; torch would map compressed ones just so.

    `_BoundError` if the members of an archive have more than `most` bytes, before torch unpacks them.
    """
    with Path(source).open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
    unpacked = sum(info.file_size for info in members)
    if unpacked > most:
        raise _BoundError(f"at most {most} bytes unpacked", f"{unpacked} bytes")
    return all(info.compress_type == zipfile.ZIP_STORED for info in members)


def _tensors(loaded: object) -> Iterator[tuple[str, Any]]:
    """The names and tensors of a state dict, or of the first one in a training checkpoint."""
    if not isinstance(loaded, Mapping):
        raise _KeyError("", f"a {_kind(loaded)}")
    nested = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
    for key, value in (loaded if nested is None else nested).items():
        if not isinstance(key, str):
            raise _KeyError(str(key), f"a name that is a {_kind(key)}")
        yield key, _plain(key, value)


def _plain(key: str, value: object) -> Any:
    """The value, which is a tensor whose bytes are all in memory."""
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter) or not isinstance(value, torch.Tensor):
        raise _KeyError(key, f"a {_kind(value)}")
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise _KeyError(key, f"a {value.layout} tensor of {value.dtype} on {value.device}")
    return value.detach()


def _bounded(tensors: Iterable[tuple[str, Any]], most: int) -> Iterator[tuple[str, Any]]:
    """The same, contiguous; `_BoundError` before one that is larger than its storage, or makes them `most` bytes."""
    total = 0
    for key, tensor in tensors:
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > stored:
            raise _BoundError(f"{stored} bytes, as are stored", f"{size} bytes of tensor {key[:_MAX_SAID]!r}")
        total += size
        if total > most:
            raise _BoundError(f"at most {most} bytes of tensors", f"{total} bytes up to tensor {key[:_MAX_SAID]!r}")
        yield key, tensor.resolve_conj().resolve_neg().contiguous()


def _separate(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same tensors, none sharing memory with another, as safetensors demands."""
    seen: set[int] = set()
    for key, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen or tensor.nbytes != tensor.untyped_storage().nbytes():
            tensors[key] = tensor.clone()
        seen.add(place)
    return tensors


def _prove(tensors: Mapping[str, Any], target: str) -> None:
    """Read the file that was written and compare its tensors, bit by bit, with those that were loaded."""
    import safetensors

    with safetensors.safe_open(target, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise _KeyError("", "other names than were written")
        for key, tensor in tensors.items():
            again = file.get_tensor(key)
            if (again.dtype, again.shape) != (tensor.dtype, tensor.shape) or not _same_bits(again, tensor):
                raise _KeyError(key, "other bits than were written")


def _same_bits(one: Any, other: Any) -> bool:
    import torch

    return bool(torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)))


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))  # noqa: T201 - the answer to the parent
