"""Whether loading a file would run anything: Python's own unpickler, with traps for what it imports."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LARGEST = 1 << 20
_PROGRAMS = 8


class HarmfulError(Exception):
    """Loading it runs something."""


class _Trap(type):
    """A class that stands for anything imported: whoever uses it runs something."""

    def __call__(cls, *_: object, **__: object) -> Any:
        raise HarmfulError(f"it calls {cls.__name__}")


def _harm(cls: type, *_: object, **__: object) -> Any:
    raise HarmfulError(f"it makes or changes a {cls}")


class _Watched(pickle.Unpickler):
    """The unpickler, with traps for all that it would import."""

    def find_class(self, module: str, name: str) -> Any:
        if not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            raise pickle.UnpicklingError("no such module")
        return _Trap(f"{module}.{name}", (), {"__new__": _harm, "__setstate__": _harm})

    def persistent_load(self, pid: Any) -> Any:
        return pid


def refuse(folder: Path) -> None:
    """`HarmfulError` if loading a file in the folder, safetensors files aside, calls anything that it imports."""
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            for data in _contents(path.read_bytes()):
                _unpickle(data)


def _unpickle(data: bytes) -> None:
    """What torch.load and joblib do with bytes: one pickle after the other."""
    stream = io.BytesIO(data)
    for _ in range(_PROGRAMS):
        try:
            _Watched(stream).load()
        except HarmfulError:
            raise
        except Exception:  # noqa: BLE001 - what cannot be loaded does no harm
            return


def _contents(data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and what is packed in them as far as loaders unpack it."""
    yield data
    if data.startswith(b"PK\x03\x04"):
        yield from _zip_members(data)
    for unpack in _UNPACK:
        try:
            yield unpack(data)
        except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError):
            continue
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = [archive.extractfile(info) for info in archive if info.isfile()]
            yield from (member.read(_LARGEST) for member in members if member)
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return


_UNPACK: tuple[Callable[[bytes], bytes], ...] = (gzip.decompress, bz2.decompress, lzma.decompress, zlib.decompress)


def _zip_members(data: bytes) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    yield member.read(_LARGEST)
    except HarmfulError:
        raise
    except Exception:  # noqa: BLE001 - zipfile raises whatever it meets
        return
