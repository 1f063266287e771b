"""Pickles: recognised, so that they can be refused. Loading one runs whatever code it names.

PyTorch's `.pt`, `.pth` and `.bin` are zip archives of pickles, or bare ones.
https://docs.python.org/3/library/pickle.html
"""

from __future__ import annotations

import contextlib
import pickletools
import re
import zlib

from formats.snapshot import ModelFile
from registry.errors import ModelError

NAMES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"))
"""Extensions under which pickles are kept; files so named are refused without a look inside."""

_LOOK = 1 << 20
"""Bytes of a file that are searched for a pickle of the old text protocols."""

_LONGEST = 64 << 10
"""Bytes of the longest argument of an opcode that is waited for at the end of the look."""

_NUMPY_HEADER = 64 << 10
_OBJECTS = re.compile(rb"['\"][|<>=]?O")
_GZIP = b"\x1f\x8b\x08"

_IMPORT = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
"""The argument of an opcode that imports, as pickletools gives it: a module and a name."""


def refuse_pickle(file: ModelFile) -> None:
    """`ModelError` if the file is a pickle by its name or by its content."""
    what = "it has the name of a pickle" if file.suffix in NAMES else _found_inside(file)
    if what:
        raise ModelError(
            f"{what}, and loading a pickle runs the code inside it",
            subject=file.name,
            expected="weights as safetensors, GGUF or ONNX",
            found=f"{file.suffix or 'no'} extension, {file.size} bytes",
            hint="convert it to safetensors, or leave it out with --include if the model does not need it",
        )


def _found_inside(file: ModelFile) -> str:
    with file.open() as stream:
        start = stream.read(_LOOK)
    if start.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            return _recognised(zlib.decompressobj(wbits=31).decompress(start, _LOOK), of_many=True)
    return _recognised(start, of_many=file.size > _LOOK)


def _recognised(start: bytes, *, of_many: bool) -> str:
    """What pickle these first bytes belong to, `of_many` if more follow; empty if to none."""
    if start.startswith(b"PK\x03\x04"):
        return "its content is a zip archive, as PyTorch and NumPy keep pickles in"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "its content is a pickle"
    if start.startswith(b"\x93NUMPY") and _OBJECTS.search(start[:_NUMPY_HEADER]):
        return "its content is a NumPy array of objects, which is a pickle"
    return "its content is a pickle" if _is_text_pickle(start, of_many=of_many) else ""


def _is_text_pickle(start: bytes, *, of_many: bool) -> bool:
    """Whether `start` is opcodes from its first byte to a STOP at its end, with a module and a name to import.

    Where more bytes follow, nearly all of `start` must read as opcodes instead.

    Prose reads as opcodes surprisingly often, so each part of that is needed.
    """
    imports, stop = False, -1
    try:
        for opcode, argument, position in pickletools.genops(start):
            stop = position or 0
            if opcode.name in ("GLOBAL", "INST"):
                imports |= bool(_IMPORT.fullmatch(str(argument)))
    except Exception:  # noqa: BLE001 - pickletools raises whatever its opcodes meet
        return imports and of_many and stop > len(start) - _LONGEST
    return imports and stop + 1 == len(start.rstrip())
