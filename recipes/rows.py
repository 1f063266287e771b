"""Rows of text in files of many forms: how files hold them, and what a row means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count as count_from
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from formats.document import parse_json
from formats.text import printable
from registry.errors import UsageError

MAX_FILE, MAX_LIST, MAX_LINE = 1 << 30, 64 << 20, 4 << 20
"""Bytes of a file, of one that is a JSON list, and of a line, which is also the most characters of a row."""

MAX_LINES = 16_000_000
"""Lines of one file."""

SAMPLE = 2000
"""Characters of plain text after which a sample ends with its paragraph; after twice as many it ends with its line."""

_MAX_VALUES = 4 << 20
_MAX_GROUP = 2 << 30
"""Bytes that a row group of Parquet says it takes when it is unpacked."""

_MAX_DEPTH = 33
"""Lists inside each other, and the numbers in them: an array of numpy may have 32 dimensions."""

_BATCH = 64
_FAR = "cut it into parts, and name the folder in which they lie"

Row = Mapping[str, Any]
Load = Callable[[], object]
"""Parses one row; `ValueError` says why it is none."""


def is_readable(path: Path) -> bool:
    """Whether the name of a file says that it holds rows."""
    return path.suffix.lower() in _READERS


def read_rows(path: Path) -> Iterator[tuple[int, Load]]:
    """The rows of a file: for each the number of its line or its place, from 1, and how to parse it.

    `UsageError` for a file of which nobody knows how it holds rows, or that is too large or broken.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise UsageError("this is neither a file nor a folder", subject=str(path))
    if size > MAX_FILE:
        raise _too_large(str(path), MAX_FILE, size)
    reader = _READERS.get(path.suffix.lower())
    if not reader:
        raise UsageError("this is no file of samples", subject=str(path), expected=f"one of {SUFFIXES}")
    yield from reader(path)


def too_many(things: str, place: str, most: int) -> UsageError:
    """What is said of a file with more things than may be."""
    return UsageError(f"too many {things}", subject=place, expected=f"at most {most}", hint="give a part of them")


def _too_large(subject: str, most: int, found: object, hint: str = _FAR) -> UsageError:
    return UsageError("this is too large", subject=subject, expected=f"at most {most} bytes", found=found, hint=hint)


# ---- what a row means


def meaning(document: Row) -> Row | None:
    """The row as samples have it: `{"text": ...}`, `{"messages": [...]}` or `{"inputs": {...}}`; None if it is none."""
    return next((row for key, shape in SHAPES.items() if key in document and (row := shape(document))), None)


def _text(key: str, document: Row) -> Row | None:
    return {"text": document[key]} if _is_text(document[key]) else None


def _chat(document: Row) -> Row | None:
    return _turns(document["messages"], "role", "content", {})


def _share(document: Row) -> Row | None:
    return _turns(document["conversations"], "from", "value", {"human": "user", "gpt": "assistant"})


def _turns(turns: object, who: str, what: str, roles: Mapping[str, str]) -> Row | None:
    if not isinstance(turns, list):
        return None
    if not all(isinstance(turn, dict) and isinstance(turn.get(key), str) for turn in turns for key in (who, what)):
        return None
    made = [{"role": roles.get(turn[who], turn[who]), "content": turn[what]} for turn in turns]
    return {"messages": made} if any(_is_text(turn["content"]) for turn in made) else None


def _prompt(document: Row) -> Row | None:
    """A completion goes on where the prompt ends; a response is another's turn."""
    prompt, completion, response = (document.get(key) for key in ("prompt", "completion", "response"))
    if not _is_text(prompt):
        return None
    if _is_text(completion):
        return {"text": prompt + completion}
    return _exchange(prompt, response) if _is_text(response) else {"text": prompt}


def _alpaca(document: Row) -> Row | None:
    instruction, given, output = (document.get(key) for key in ("instruction", "input", "output"))
    if not _is_text(instruction):
        return None
    return _exchange(f"{instruction}\n\n{given}" if _is_text(given) else instruction, output)


def _exchange(question: str, answer: object) -> Row:
    turns = [{"role": "user", "content": question}]
    return {"messages": [*turns, {"role": "assistant", "content": answer}] if _is_text(answer) else turns}


def _inputs(document: Row) -> Row | None:
    """What an ONNX model is run with: by the name of each input its numbers, in lists of lists."""
    given = document["inputs"]
    if not isinstance(given, dict) or not given or not all(map(_are_numbers, given.values())):
        return None
    return {"inputs": given}


def _are_numbers(value: object) -> bool:
    """Whether it is a number, or lists of such, no deeper than an array can be."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        if not all(isinstance(each, int | float | list) for each in level):
            return False
        level = [inner for each in level if isinstance(each, list) for inner in each]
    return not level


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


SHAPES: dict[str, Callable[[Row], Row | None]] = {
    "messages": _chat,
    "conversations": _share,
    "text": partial(_text, "text"),
    "prompt": _prompt,
    "instruction": _alpaca,
    "content": partial(_text, "content"),
    "inputs": _inputs,
}
"""By the key that holds the text, or the numbers, what is taken first standing first."""


# ---- how files hold rows


def _read_lines(path: Path) -> Iterator[tuple[int, Load]]:
    with path.open("rb") as stream:
        for number, line in _lines(stream, path):
            if not line.isspace():
                yield number, partial(_object, line)


def _lines(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    for number in count_from(1):
        line = stream.readline(MAX_LINE + 1)
        if not line:
            return
        if number > MAX_LINES:
            raise too_many("lines", f"{path}:{number}", MAX_LINES)
        if len(line) > MAX_LINE:
            raise _too_large(f"{path}:{number}", MAX_LINE, "a longer line", "put fewer words on a line")
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _object(line: bytes) -> object:
    document, why = parse_json(_decoded(line).encode(), _MAX_VALUES)
    if why:
        raise ValueError(f"this is not JSON: {why.replace('line 1 column', 'column')}")
    return document


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"this is not UTF-8: byte {raw[error.start]:#04x} at position {error.start + 1}") from error


def _read_json(path: Path) -> Iterator[tuple[int, Load]]:
    """A list, which is parsed as a whole, or else JSON lines."""
    with path.open("rb") as stream:
        if not stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from _read_lines(path)
            return
    if path.stat().st_size > MAX_LIST:
        raise _too_large(str(path), MAX_LIST, path.stat().st_size, "make it JSON lines: an object a line, named .jsonl")
    try:
        rows = _object(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise UsageError(str(error), subject=str(path), expected="a list of JSON objects") from error
    assert isinstance(rows, list)
    yield from ((number, partial(_same, row)) for number, row in enumerate(rows, 1))


def _same(row: object) -> object:
    return row


def _read_text(path: Path) -> Iterator[tuple[int, Load]]:
    """Samples of whole paragraphs, each of some `SAMPLE` characters; a line is never cut."""
    with path.open("rb") as stream:
        begun, lines, letters = 1, list[bytes](), 0
        for number, line in _lines(stream, path):
            begun = begun if lines else number
            if lines or not line.isspace():
                lines.append(line)
                letters += len(line.decode(errors="replace"))
            if letters >= SAMPLE * (1 if line.isspace() else 2):
                yield begun, partial(_paragraphs, lines)
                lines, letters = [], 0
        if lines:
            yield begun, partial(_paragraphs, lines)


def _paragraphs(lines: Iterable[bytes]) -> object:
    return {"text": _decoded(b"".join(lines)).strip()}


def _read_parquet(path: Path) -> Iterator[tuple[int, Load]]:
    """Rows of the columns that can matter, a few at a time."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "reading Parquet needs pyarrow", subject=str(path), hint="pip install 'packer[quantize]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows(path, file)
    except (pa.ArrowException, OSError) as error:
        why = printable(" ".join(str(error).split())[:300])
        raise UsageError(f"this is not a whole Parquet file: {why}", subject=str(path)) from error


def _rows(path: Path, file: Any) -> Iterator[tuple[int, Load]]:
    columns = [name for name in file.schema_arrow.names if name in _COLUMNS]
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        if group.total_byte_size > _MAX_GROUP:
            raise _too_large(str(path), _MAX_GROUP, f"a row group of {group.total_byte_size} bytes", "use smaller ones")
    if not columns:  # so that the names of the others are told
        yield 1, partial(_same, dict.fromkeys(file.schema_arrow.names))
        return
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
        for at in range(batch.num_rows):
            number += 1
            yield number, partial(_row, batch, at)


def _row(batch: Any, at: int) -> object:
    return batch.slice(at, 1).to_pylist()[0]


_COLUMNS = frozenset({*SHAPES, "completion", "response", "input", "output"})

_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Load]]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".md": _read_text,
}

SUFFIXES = ", ".join(_READERS)
"""How the names of files with rows may end, for people."""
