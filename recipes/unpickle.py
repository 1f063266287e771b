"""Conversion of pickled weights to safetensors, in a child process that loads nothing but tensors.

The child is `python -m recipes.unpickle SOURCE TARGET`: it loads with `torch.load(weights_only=True)`, writes, reads
what it wrote and compares every tensor bit by bit. It ends with one line of JSON on its standard output.
https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from formats.findings import RejectedError
from formats.pickle import convertible, find_pickle
from formats.snapshot import ModelFile
from formats.text import printable
from registry.blob import FileBlob
from registry.disk import require_free
from registry.errors import ModelError, SpaceError, UsageError

TIME_LIMIT = 3600.0
"""Seconds that a conversion may take unless the caller says otherwise."""

NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys of a training checkpoint under which the tensors are looked for, in this order; the rest of it is dropped."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|_AUTH|^AWS_|^SSH_", re.IGNORECASE)
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
    name. `RejectedError` for a pickle that imports what is dangerous or could not be read whole, `ModelError` for one
    that is no map of names to tensors or takes more than `timeout` seconds, `SpaceError` if memory or disk do not
    suffice, `UsageError` without the extra `packer[convert]`.
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
        scratch.chmod(0o644)
        scratch.replace(target)
    return Converted(int(answer["tensors"]), int(answer["bytes"]))


def _in_child(source: Path, scratch: Path, timeout: float) -> dict[str, Any]:
    # -P: a torch.py in the current folder, which may be the model's, is not the library
    command = [sys.executable, "-P", "-m", "recipes.unpickle", str(source.absolute()), str(scratch.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, env=_environment(), timeout=timeout, check=False)
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


def _environment() -> dict[str, str]:
    """The environment without anything that looks like a credential."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)}


def _refuse(source: Path, what: str, answer: Mapping[str, Any]) -> NoReturn:
    found = printable(str(answer["error"]))
    match answer.get("kind"):
        case "missing":
            raise UsageError(
                "conversion needs PyTorch and safetensors", found=found, hint="pip install 'packer[convert]'"
            )
        case "space":
            raise SpaceError(what, subject=source.name, found=found, hint="run it where there is more memory and disk")
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
        self.key = key[:_MAX_SAID]


def _main(source: str, target: str) -> dict[str, object]:
    """The child's answer."""
    try:
        import safetensors.torch
        import torch
    except ImportError as error:
        return {"error": str(error), "kind": "missing"}
    try:
        tensors = _separate(dict(_tensors(_load(source))))
        safetensors.torch.save_file(tensors, target, metadata={"format": "pt"})
        _prove(tensors, target)
    except _KeyError as error:
        return {"error": str(error), "key": error.key}
    except (MemoryError, torch.OutOfMemoryError) as error:
        return {"error": str(error) or "not enough memory", "kind": "space"}
    except Exception as error:  # noqa: BLE001 - hostile content makes torch raise anything
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        said = _said(error)
        return {"error": said, "kind": "space" if full else ""}
    return {"tensors": len(tensors), "bytes": sum(tensor.nbytes for tensor in tensors.values())}


def _said(error: Exception) -> str:
    """What torch says on one line, without its advice to load the file unsafely."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    reason = re.search(r"WeightsUnpickler error: (.*?)(?: Please | Check the documentation|$)", text)
    return (reason[1] if reason else text)[:_MAX_SAID]


def _load(source: str) -> object:
    import torch

    return torch.load(source, weights_only=True, map_location="cpu", mmap=_can_map(source))


def _can_map(source: str) -> bool:
    """Whether the bytes of the tensors lie in the file as they are; torch would map compressed ones just so."""
    with Path(source).open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(source) as archive:
        return all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


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
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter) or not isinstance(value, torch.Tensor):
        raise _KeyError(key, f"a {_kind(value)}")
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise _KeyError(key, f"a {value.layout} tensor of {value.dtype} on {value.device}")
    return value.detach().resolve_conj().resolve_neg().contiguous()


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
