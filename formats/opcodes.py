"""Pickle streams, read opcode by opcode so that what they would import is known and nothing is run.

The table of opcodes is `pickletools`'; arguments are read here, because a decoder that is stricter than the unpickler
(`I0x1`, text that is not ASCII) would stop before what it should find. The stack is followed as the unpickler's is, so
that prose, which reads as opcodes surprisingly often, soon fails.
https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import BinaryIO, NamedTuple

MAX_OPCODES = 250_000
"""Opcodes read of one file: some ten thousand tensors, and less than a second."""

MAX_READ = 16 << 20
"""Bytes read of one file that is a pickle, long arguments not counted where they can be skipped."""

MAX_IMPORTS = 1000
"""Different imports kept of one file."""

_FIRST, _CHUNK = 4 << 10, 64 << 10
"""Bytes read at once, at first and later."""

_LONGEST = 64 << 10
"""Bytes of the longest argument that is read and not skipped; of a line, in any case."""

_FARTHEST = 1 << 40
"""Bytes of an argument that a file may hold; file systems do not seek to any offset."""

_NAME = 200
"""Characters of the longest module or name that is believed."""

_PLAUSIBLE = re.compile(r"[A-Za-z_][\w.]*")

Import = tuple[str, str]
"""A module and what is taken from it."""

UNKNOWN: Import = ("unknown", "unknown")
"""An import whose module or name is computed."""


class End(Enum):
    """Why the reading of a pickle ended."""

    STOPPED = "it was read to its STOP"
    BROKEN = "bytes that are no opcodes come before its STOP"
    SPENT = "it has more opcodes or imports than are looked at"


class SpentError(Exception):
    """The limit of what is read of one file is reached."""


class _BrokenError(Exception):
    """What no unpickler accepts, or the end of the bytes."""


@dataclass
class Budget:
    """What may still be read of one file, all its parts together."""

    opcodes: int = MAX_OPCODES
    size: int = MAX_READ

    @property
    def spent(self) -> bool:
        """Whether nothing more can be read."""
        return self.opcodes <= 0 or self.size <= 0


class Source:
    """A stream read once from front to back, within a budget; `SpentError` where it is spent."""

    def __init__(self, stream: BinaryIO, budget: Budget) -> None:
        self._stream, self.budget = stream, budget
        self._data, self._position = b"", 0
        self._piece, self._left = _FIRST, MAX_READ

    def limit(self, size: int) -> None:
        """Let at most `size` more bytes be read, whatever the budget holds."""
        self._left = min(self._left, size)

    def peek(self, size: int) -> bytes:
        """The next bytes, at most `size`, fewer only at the end; they stay to be read."""
        while (missing := size - len(self._data) + self._position) > 0 and self._fill(missing):
            pass
        return self._data[self._position : self._position + size]

    def read(self, size: int) -> bytes:
        """Exactly the next `size` bytes."""
        end = self._position + size
        if end > len(self._data) and len(self.peek(size)) < size:
            raise _BrokenError
        data = self._data[self._position : self._position + size]
        self._position += size
        return data

    def line(self) -> bytes:
        """The bytes to the next newline, without it."""
        while (end := self._data.find(b"\n", self._position)) < 0:
            if len(self._data) - self._position > _LONGEST:
                raise SpentError
            if not self._fill():
                raise _BrokenError
        line = self._data[self._position : end]
        self._position = end + 1
        return line

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, by seeking where the stream can."""
        if size > _FARTHEST:
            raise _BrokenError
        ready = min(size, len(self._data) - self._position)
        self._position += ready
        if self._stream.seekable():
            self._stream.seek(size - ready, io.SEEK_CUR)
            return
        for start in range(ready, size, _CHUNK):
            self.read(min(_CHUNK, size - start))

    def _fill(self, missing: int = 0) -> bool:
        allowed = min(self._left, self.budget.size)
        if allowed <= 0:
            raise SpentError
        piece = self._stream.read(min(max(self._piece, missing), allowed))
        self._left -= len(piece)
        self.budget.size -= len(piece)
        self._data, self._position, self._piece = self._data[self._position :] + piece, 0, _CHUNK
        return bool(piece)


@dataclass
class Program:
    """One pickle: what it imports, whether it calls anything, and how far it could be read.

    `framed` says that it begins with PROTO, as all since protocol 2 do.
    """

    framed: bool = False
    imports: dict[Import, None] = field(default_factory=dict)
    calls: bool = False
    opcodes: int = 0
    end: End = End.STOPPED


class _Opcode(NamedTuple):
    name: str
    argument: int | None
    takes: int
    to_mark: bool
    leaves: int


_CALLS = frozenset(("REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"))
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TEXTS = {
    "STRING": "latin-1",
    "BINSTRING": "latin-1",
    "SHORT_BINSTRING": "latin-1",
    "UNICODE": "raw-unicode-escape",
    "BINUNICODE": "utf-8",
    "SHORT_BINUNICODE": "utf-8",
    "BINUNICODE8": "utf-8",
}


@cache
def _table() -> dict[int, _Opcode]:
    table = {}
    for opcode in pickletools.opcodes:
        before = [item.name for item in opcode.stack_before]
        marked = "mark" in before
        takes = before.index("mark") if marked else len(before)
        argument = opcode.arg.n if opcode.arg else None
        table[ord(opcode.code)] = _Opcode(opcode.name, argument, takes, marked, len(opcode.stack_after))
    return table


def read_program(source: Source) -> Program:
    """The pickle that begins at the next byte; whatever is there instead ends it as `End.BROKEN`."""
    program = Program(framed=source.peek(1) == b"\x80")
    machine = _Machine(program)
    try:
        while machine.step(source):
            pass
    except SpentError:
        program.end = End.SPENT
    except (_BrokenError, ValueError, OverflowError):
        program.end = End.BROKEN
    return program


class _Machine:
    """The unpickler's stack and memo, holding texts and None for all else."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._stack: list[str | None] = []
        self._marks: list[int] = []
        self._memo: dict[int, str | None] = {}
        self._table = _table()

    def step(self, source: Source) -> bool:
        """Read one opcode; whether another one follows."""
        if source.budget.opcodes <= 0:
            raise SpentError
        source.budget.opcodes -= 1
        self._program.opcodes += 1
        opcode = self._table.get(source.read(1)[0])
        if opcode is None:
            raise _BrokenError
        name = opcode.name
        argument = b"" if opcode.argument is None else _argument(source, opcode.argument, twice=name in _TWO_LINES)
        special = _SPECIAL.get(name)
        if special:
            special(self, argument)
        elif name in _TEXTS:
            self._stack.append(_text(name, argument))
        else:
            self._move(opcode)
        if name in _CALLS:
            self._program.calls = True
        return name != "STOP"

    def _move(self, opcode: _Opcode) -> None:
        if opcode.to_mark:
            self._to_mark()
        self._pop(opcode.takes)
        self._stack.extend([None] * opcode.leaves)

    def _to_mark(self) -> None:
        if not self._marks:
            raise _BrokenError
        del self._stack[self._marks.pop() :]

    def _pop(self, count: int) -> list[str | None]:
        if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
            raise _BrokenError
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _mark(self, _: bytes) -> None:
        self._marks.append(len(self._stack))

    def _pop_one(self, _: bytes) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop(1)

    def _duplicate(self, _: bytes) -> None:
        self._stack.extend(self._pop(1) * 2)

    def _put(self, key: bytes) -> None:
        self._memo[_number(key)] = self._top()

    def _put_binary(self, key: bytes) -> None:
        self._memo[int.from_bytes(key, "little")] = self._top()

    def _memoize(self, _: bytes) -> None:
        self._memo[len(self._memo)] = self._top()

    def _top(self) -> str | None:
        if not self._stack:
            raise _BrokenError
        return self._stack[-1]

    def _get(self, key: bytes) -> None:
        self._stack.append(self._memo.get(_number(key)))

    def _get_binary(self, key: bytes) -> None:
        self._stack.append(self._memo.get(int.from_bytes(key, "little")))

    def _global(self, lines: bytes) -> None:
        self._import(*lines.decode("utf-8", "surrogateescape").split("\n"))
        self._stack.append(None)

    def _instance(self, lines: bytes) -> None:
        self._to_mark()
        self._global(lines)

    def _stack_global(self, _: bytes) -> None:
        module, name = self._pop(2)
        self._import(*((module, name) if module and name else UNKNOWN))
        self._stack.append(None)

    def _extension(self, _: bytes) -> None:
        self._import(*UNKNOWN)
        self._stack.append(None)

    def _import(self, module: str, name: str) -> None:
        if not self._program.framed and not (_PLAUSIBLE.fullmatch(module) and _PLAUSIBLE.fullmatch(name)):
            raise _BrokenError
        self._program.imports[(module, name) if max(len(module), len(name)) <= _NAME else UNKNOWN] = None
        if len(self._program.imports) > MAX_IMPORTS:
            raise SpentError


_TWO_LINES = frozenset(("GLOBAL", "INST"))
_SPECIAL = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop_one,
    "DUP": _Machine._duplicate,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put_binary,
    "LONG_BINPUT": _Machine._put_binary,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get_binary,
    "LONG_BINGET": _Machine._get_binary,
    "GLOBAL": _Machine._global,
    "INST": _Machine._instance,
    "STACK_GLOBAL": _Machine._stack_global,
    "EXT1": _Machine._extension,
    "EXT2": _Machine._extension,
    "EXT4": _Machine._extension,
}


def _argument(source: Source, size: int, *, twice: bool) -> bytes:
    """An opcode's argument without its length; empty if it is too long to be of interest."""
    if size >= 0:
        return source.read(size)
    if size == pickletools.UP_TO_NEWLINE:
        return source.line() + b"\n" + source.line() if twice else source.line()
    length = int.from_bytes(source.read(_LENGTHS[size]), "little", signed=size == pickletools.TAKEN_FROM_ARGUMENT4)
    if length < 0:
        raise _BrokenError
    if length <= _LONGEST:
        return source.read(length)
    source.skip(length)
    return b""


def _number(line: bytes) -> int:
    """A number in text as the unpickler reads it, which is up to a NUL."""
    return int(line.split(b"\0")[0])


def _text(name: str, argument: bytes) -> str | None:
    """A text that may become the name of an import; None for one that cannot."""
    if name == "STRING":
        if len(argument) < 2 or argument[:1] != argument[-1:] or argument[:1] not in (b"'", b'"'):
            raise _BrokenError
        argument = codecs.escape_decode(argument[1:-1])[0] if b"\\" in argument else argument[1:-1]
    if len(argument) > 4 * _NAME:
        return None
    text = argument.decode(_TEXTS[name], "surrogatepass" if _TEXTS[name] == "utf-8" else "strict")
    return text if len(text) <= _NAME else None
