"""Pickles: recognised by name and by content, so that they can be refused or converted; never loaded here.

PyTorch's `.pt`, `.pth` and `.bin` are zip archives of pickles, or several bare ones, as joblib's are, perhaps
compressed. What is dangerous to import is picklescan's to say; what a file imports is read here, because picklescan
keeps every opcode of a file in memory.
https://docs.python.org/3/library/pickle.html
"""

from __future__ import annotations

import io
import logging
import re
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from formats.findings import Finding, Rule
from formats.opcodes import MAX_READ, UNKNOWN, Budget, End, Import, Program, Source, SpentError, read_program
from formats.rules import pickle as rules
from formats.snapshot import ModelFile
from formats.unpacking import (
    Decompressed,
    Member,
    PackedError,
    decompressor,
    ends_as_zip,
    is_tar,
    tar_members,
    zip_directory,
)
from registry.blob import file_of

NAMES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"))
"""Extensions under which pickles are kept; files so named are refused whatever is inside."""

SHOWN = 20
"""Imports that a finding names at most."""

_LINE = 120
"""Characters of them, after which no more are named."""

_COMPRESSED = re.compile(r"\.(gz|bz2|xz|lzma|z|lz4|zst)$")
_LOOK = 1 << 20
"""Bytes read of a file that does not begin as a pickle of protocol 2 or later does."""

_ENOUGH = 100
"""Opcodes in a row, the stack always right, that no text holds by chance."""

_MAX_PICKLES = 16
_MAX_DOTS = 8
_LZ4 = b"\x04\x22\x4d\x18"
_SPENT = "it holds more than is looked at"
_EXPECTED = "weights as safetensors, GGUF or ONNX"


@dataclass(frozen=True)
class _Inside:
    """What a look into a file found: the rule that it breaks, its imports, and a note about what could not be read."""

    rule: Rule
    imports: tuple[Import, ...] = ()
    where: str = ""
    note: str = ""


def find_pickle(file: ModelFile, exempt: Container[str] = ()) -> Finding | None:
    """What is wrong with a file that is a pickle by its name or by its content; None if it is none.

    `found` lists what it would import, the dangerous first. Files called `.bin` whose paths are in `exempt`, such as
    the external data of an ONNX model, are judged by their content alone. Reads 64 KiB at the front of most files and
    as much at the end, at most 16 MiB of pickles and their archives.
    """
    inside = _look(file)
    if inside:
        return _finding(file, inside)
    if appended := find_appended(file):
        return appended
    if file.suffix == ".bin" and file.name in exempt:
        return None
    if pickled_name(file.name):
        return rules.BY_NAME.finding(file.name, expected=_EXPECTED, found=f"{file.size} bytes that are no pickle")
    return None


def find_appended(file: ModelFile) -> Finding | None:
    """What is wrong with a file at whose end a zip archive with a pickle stands; None if it is none.

    Of files far away only small ones are looked at: a server that sends no ranges would send a large one whole.
    """
    if not file_of(file.blob) and file.size > MAX_READ:
        return None
    with file.open() as stream:
        if stream.read(4) == b"PK\x03\x04" or not ends_as_zip(stream):
            return None
        inside = _guarded(lambda: _archive(stream, b"", Budget(), depth=0))
    return _finding(file, replace(inside, rule=rules.APPENDED)) if inside else None


def convertible(finding: Finding) -> bool:
    """Whether the pickle may be handed to `torch.load(weights_only=True)`: it was read whole and imports no danger."""
    return finding.rule is rules.BY_CONTENT


def pickled_name(name: str) -> bool:
    """Whether programs take a file of this name for a pickle, perhaps a compressed one."""
    return _COMPRESSED.sub("", name.lower()).endswith(tuple(NAMES))


def _finding(file: ModelFile, inside: _Inside) -> Finding:
    dangerous = _dangerous(inside.imports)
    rule = rules.DANGEROUS if dangerous else inside.rule
    names = [".".join(pair) for pair in (*dangerous, *(pair for pair in inside.imports if pair not in dangerous))]
    parts = (inside.where, _listed(names) if names or not inside.note else "", inside.note)
    return rule.finding(file.name, expected=_EXPECTED, found="; ".join(part for part in parts if part))


def _listed(names: list[str]) -> str:
    """The first of the names that fit on a line, and how many more there are."""
    shown = [name for at, name in enumerate(names[:SHOWN]) if sum(map(len, names[:at])) < _LINE]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"imports {', '.join(shown)}{more}" if names else "no imports"


def _look(file: ModelFile) -> _Inside | None:
    with file.open() as stream:
        return _guarded(lambda: _recognise(stream, Budget()))


def _guarded(look: Callable[[], _Inside | None]) -> _Inside | None:
    """What a look finds; that it could not be finished is such a thing too."""
    try:
        return look()
    except PackedError as error:
        return _Inside(rules.UNREADABLE, note=str(error))
    except SpentError:
        return _Inside(rules.UNREADABLE, note=_SPENT)


def _recognise(stream: BinaryIO, budget: Budget, depth: int = 0) -> _Inside | None:
    """What pickle the stream holds, if any; archives are looked into at depth 0, compressed data at 0 and 1."""
    source = Source(stream, budget)
    start = source.peek(512)
    if start.startswith((b"PK\x03\x04", _LZ4)) or is_tar(start):
        return _archive(stream, start, budget, depth)
    if make := decompressor(start):
        return _compressed(stream, Decompressed(_rewound(stream, source), make, MAX_READ), start, budget, depth)
    if start.startswith(b"\x93NUMPY"):
        return _numpy(source)
    return _pickles(source)


def _rewound(stream: BinaryIO, source: Source) -> BinaryIO:
    """The stream from its first byte on, of which `source` has read the beginning."""
    if stream.seekable():
        stream.seek(0)
        return stream
    return cast(BinaryIO, io.BytesIO(source.peek(MAX_READ)))


def _archive(stream: BinaryIO, start: bytes, budget: Budget, depth: int) -> _Inside | None:
    if depth or start.startswith(_LZ4):
        return _Inside(rules.UNREADABLE, note="an archive inside another" if depth else "compressed by LZ4")
    if is_tar(start):
        return _merged(_members(tar_members(stream), budget))
    names, members = zip_directory(stream)
    inside = _merged(_members(members, budget))
    if inside and _is_torchscript(names) and inside.rule is not rules.UNREADABLE:
        return replace(inside, rule=rules.TORCHSCRIPT, note="a program under code/")
    return inside


def _is_torchscript(names: Iterable[str]) -> bool:
    return any("/code/" in name and name.endswith(".py") for name in names)


def _members(members: Iterator[Member], budget: Budget) -> Iterator[_Inside]:
    """What is in the members, as far as the budget of the file reaches."""
    for member in members:
        try:
            inside = _recognise(member.stream, budget, depth=1)
        except SpentError:
            yield _Inside(rules.UNREADABLE, where=member.name, note=_SPENT)
            return
        if inside:
            yield replace(inside, where=member.name)


def _merged(found: Iterator[_Inside]) -> _Inside | None:
    """All that was found in an archive under the worst rule."""
    every = list(found)
    if not every:
        return None
    worst = max(every, key=lambda inside: _WORST.index(inside.rule))
    return replace(worst, imports=tuple(dict.fromkeys(pair for inside in every for pair in inside.imports)))


_WORST = (rules.BY_CONTENT, rules.NUMPY_OBJECTS, rules.PARTIAL, rules.UNREADABLE)


def _compressed(stream: BinaryIO, content: Decompressed, start: bytes, budget: Budget, depth: int) -> _Inside | None:
    try:
        inside = _recognise(cast(BinaryIO, content), budget, depth + 1) if depth < 2 else None
    except PackedError:
        sure = start.startswith((b"\x1f\x8b\x08", b"\xfd7zXZ", b"BZh")) or start[5:13] == b"\xff" * 8
        if sure:
            raise
        return _pickles(Source(_rewound(stream, Source(stream, budget)), budget))
    return inside and replace(inside, note=inside.note or "compressed")


def _numpy(source: Source) -> _Inside | None:
    """An array of objects; its header is numpy's to read."""
    from numpy.lib import format as npy

    head = source.peek(12)
    lengths, wide = (head[8:10], 10) if head[6:7] == b"\x01" else (head[8:12], 12)
    header = io.BytesIO(source.peek(min(wide + int.from_bytes(lengths, "little"), _LOOK)))
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(header) == (1, 0) else npy.read_array_header_2_0
        objects = read(header)[2].hasobject
    except Exception as error:  # noqa: BLE001 - numpy evaluates what stands there and raises whatever that meets
        return _Inside(rules.NUMPY_OBJECTS, note=f"a header that cannot be read ({str(error)[:80]})")
    if not objects:
        return None
    source.skip(header.tell())
    inside = _pickles(source)
    return replace(inside, rule=rules.NUMPY_OBJECTS) if inside else _Inside(rules.NUMPY_OBJECTS)


def _pickles(source: Source) -> _Inside | None:
    """The pickles one after the other at the front of a stream.

    What comes before the first that is meant counts too: without its PROTO, the number at the front of an old PyTorch
    file could be the end of a text.
    """
    if source.peek(1) != b"\x80":
        source.limit(_LOOK)
    programs: list[Program] = []
    meant = False
    while len(programs) < _MAX_PICKLES and (not programs or programs[-1].end is End.STOPPED):
        program = read_program(source)
        if meant and not program.calls and not (program.framed and (program.imports or program.end is End.STOPPED)):
            break
        programs.append(program)
        meant = meant or _is_pickle(program, source)
    if not meant and source.budget.spent:
        raise SpentError
    if not meant:
        return None
    imports = tuple(dict.fromkeys(pair for program in programs for pair in program.imports))
    if programs[-1].end is End.STOPPED and len(programs) < _MAX_PICKLES:
        return _Inside(rules.BY_CONTENT, imports)
    return _Inside(rules.PARTIAL, imports, note=programs[-1].end.value)


def _is_pickle(program: Program, source: Source) -> bool:
    """Whether opcodes were meant: nothing else imports and calls with the stack right, or goes on for so long."""
    if program.framed:
        return program.end is not End.BROKEN or bool(program.imports)
    if program.end is End.SPENT:
        return bool(program.imports) or program.opcodes >= _ENOUGH
    if program.calls:
        return bool(program.imports)
    return program.end is End.STOPPED and bool(program.imports) and _at_end(source)


def _at_end(source: Source) -> bool:
    try:
        return len(source.peek(64).strip()) == 0
    except SpentError:
        return False


def _dangerous(imports: tuple[Import, ...]) -> tuple[Import, ...]:
    """Those of the imports that picklescan calls dangerous, under any name by which they reach the same."""
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    logging.getLogger("picklescan").setLevel(logging.CRITICAL)
    ways = {pair: set(_ways(*pair)) for pair in imports}
    texts = (text.encode("utf-8", "surrogatepass") for pair in set().union(*ways.values()) for text in pair)
    pushed = [b"X" + struct.pack("<I", len(text)) + text for text in texts]
    program = b"".join(a + b + b"\x93" for a, b in zip(pushed[::2], pushed[1::2], strict=True)) + b"."
    scanned = scan_pickle_bytes(io.BytesIO(program), "", multiple_pickles=False).globals
    bad = {(entry.module, entry.name) for entry in scanned if entry.safety is SafetyLevel.Dangerous}
    return tuple(pair for pair, all_ways in ways.items() if not bad.isdisjoint(all_ways))


def _ways(module: str, name: str) -> Iterator[Import]:
    """What an import means: itself, its name in Python 3, and each module that a dotted name passes through.

    `torch` and `serialization.os.system` is `os.system`: since protocol 4 names are followed at their dots.
    """
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    yield module, name
    yield NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    parts = name.split(".")
    if len(parts) > _MAX_DOTS:
        yield UNKNOWN
    for at in range(1, min(len(parts), _MAX_DOTS)):
        rest = ".".join(parts[at:])
        yield parts[at - 1], rest
        yield ".".join((module, *parts[:at])), rest
