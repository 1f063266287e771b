"""Calibration samples: rows of text by which an engine measures how a model is used, chosen from files of many forms.

Files are read from front to back, once, and only the chosen rows are kept. Each row draws a number from
`random.Random(seed)`, and those with the least numbers are used, least first. Python promises the same numbers on every
machine and in every version, so the choice and its order depend on nothing but the files and the seed; with a smaller
count it is the beginning of the same list. A row without text gives way to the next. A row that was not drawn is not
parsed, so a mistake in it is not found.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.text import printable
from recipes.rows import MAX_LINE, SHAPES, SUFFIXES, Load, Row, is_readable, meaning, read_rows, too_many
from recipes.task import whole_file
from registry.blob import FileBlob
from registry.descriptor import Digest, digest_of
from registry.errors import UsageError

OWN = Path(__file__).parent / "data" / "calibration.jsonl"
"""The set that is used when the user names none."""

DEFAULT, LEAST = 512, 16
"""Rows that are used, and that there must be, where the user asks for no number."""

MAX_SAMPLES = 65_536
"""Rows that may be asked for."""

MAX_ROWS, MAX_TEXT = 4_000_000, 64 << 20
"""Rows of all files together, and characters of the chosen rows together."""


@dataclass(frozen=True)
class Samples:
    """Chosen rows in the order of use.

    Each is `{"text": ...}`, `{"messages": [{"role": ..., "content": ...}, ...]}`, or for ONNX `{"inputs": {...}}`, with
    the numbers of each input.

    `origin` is the path as the user named it, or "packer's own". `digest` is that of the file; for a folder, that of
    its files' digests, each on a line, sorted by the names of the files.
    """

    rows: tuple[Row, ...]
    origin: str
    digest: Digest

    @property
    def chosen(self) -> Digest:
        """The digest of the rows in their order, as `write` writes them."""
        return digest_of(b"".join(map(_line, self.rows)))

    def write(self, path: Path) -> None:
        """Makes `path` a file of JSON lines in UTF-8: the same samples give the same bytes."""
        with whole_file(path) as scratch, scratch.open("wb") as stream:
            stream.writelines(_line(row) for row in self.rows)


def read_samples(path: Path | None, count: int | None, seed: int, least: int = LEAST, most: int = DEFAULT) -> Samples:
    """`count` rows of a file, of all files of a folder, or of packer's own set; all, but `most` at most, if None.

    `.jsonl` and `.ndjson` hold an object a line, `.json` may hold a list of them instead, `.parquet` has a column for
    each key, and `.txt` and `.md` are plain text. A row has `messages`, `conversations` (of ShareGPT), `text`,
    `prompt` (which `completion` goes on with, or `response` answers), `instruction` (of Alpaca, with `input` and
    `output`), `content` or, for ONNX, `inputs`; the first of these that holds something is taken. Of a folder,
    `README.md` and hidden files are left out, and so are folders in it. `UsageError` for whatever is wrong, and for
    fewer rows than `count`, or `least` if that is None.
    """
    if count is not None and not 1 <= count <= MAX_SAMPLES:
        raise UsageError("this is no number of samples", expected=f"1 to {MAX_SAMPLES}", found=count)
    named = OWN if path is None else path
    choice = _Choice(most if count is None else count, random.Random(seed).random)  # noqa: S311 - not for secrets
    try:
        files = _files(named)
        for file in files:
            choice.read(file)
        digest = _digest(named, files)
    except OSError as error:
        raise UsageError(
            f"this cannot be read: {error.strerror or error}", subject=str(error.filename or named)
        ) from error
    _require_enough(choice, named, count, least)
    return Samples(choice.rows(), "packer's own" if path is None else str(path), digest)


def _files(named: Path) -> list[Path]:
    """The file itself, or those of the folder that are to be read, sorted by name."""
    if not named.is_dir():
        return [named]
    there = sorted(path for path in named.iterdir() if is_readable(path) and path.is_file())
    files = [path for path in there if not path.name.startswith(".") and path.name != "README.md"]
    if not files:
        raise UsageError("no file of samples in this folder", subject=str(named), expected=f"files of {SUFFIXES}")
    return files


def _digest(named: Path, files: list[Path]) -> Digest:
    digests = [FileBlob.at(path).descriptor.digest for path in files]
    return digest_of("".join(f"{digest}\n" for digest in digests).encode()) if named.is_dir() else digests[0]


def _require_enough(choice: _Choice, named: Path, count: int | None, least: int) -> None:
    found, least = len(choice.kept), least if count is None else count
    if not found:
        raise UsageError(
            "a file of samples with no text",
            subject=choice.empty or str(named),
            expected=f"a row with one of {', '.join(SHAPES)}",
            found=choice.keys or "no rows",
            hint="rename the key that holds the text, or give another file",
        )
    if found < least:
        asks = f"calibration needs {least} samples at least" if count is None else f"asks for {least} samples"
        raise UsageError(
            f"{asks}, found {found}",
            subject=str(named),
            expected=f"{least} rows with text",
            found=f"{found} rows with text",
            hint=f"--samples {found}, or give more",
        )


@dataclass
class _Choice:
    """The `most` rows with the least numbers so far, in a heap whose first is the next to go.

    `empty` and `keys` are the place and the keys of the first row without text.
    """

    most: int
    draw: Callable[[], float]
    kept: list[tuple[float, int, Row]] = field(default_factory=list)
    seen: int = 0
    letters: int = 0
    empty: str = ""
    keys: str = ""

    def rows(self) -> tuple[Row, ...]:
        """The rows, least number first."""
        return tuple(row for *_, row in sorted(self.kept, key=lambda entry: entry[:2], reverse=True))

    def read(self, path: Path) -> None:
        """Offers every row of a file; `UsageError` for one that cannot be read."""
        for number, load in read_rows(path):
            self._offer(f"{path}:{number}", load)

    def _offer(self, place: str, load: Load) -> None:
        drawn = -self.draw()
        self.seen += 1
        if self.seen > MAX_ROWS:
            raise too_many("rows", place, MAX_ROWS)
        if len(self.kept) == self.most and drawn < self.kept[0][0]:
            return
        document = _parsed(place, load)
        if row := meaning(document):
            self._keep(place, (drawn, -self.seen, row))
        elif not self.empty:
            self.empty, self.keys = place, _shown(document)

    def _keep(self, place: str, entry: tuple[float, int, Row]) -> None:
        self.letters += _checked(place, entry[2])
        if len(self.kept) < self.most:
            heapq.heappush(self.kept, entry)
        else:
            self.letters -= _letters(heapq.heapreplace(self.kept, entry)[2])
        if self.letters > MAX_TEXT:
            raise UsageError(
                "the chosen samples are too long together",
                subject=place,
                expected=f"at most {MAX_TEXT} characters",
                hint="ask for fewer with --samples, or cut long ones: of each only the beginning is used",
            )


def _parsed(place: str, load: Load) -> dict[str, Any]:
    try:
        document = load()
        if not isinstance(document, dict):
            raise ValueError("this row is no object")
    except ValueError as error:
        hint = "see that every line is a whole object, in UTF-8"
        raise UsageError(str(error), subject=place, expected="a JSON object or plain text", hint=hint) from error
    return document


def _checked(place: str, row: Row) -> int:
    """The characters of a row; `UsageError` if they are too many, or UTF-8 cannot hold them."""
    try:
        _line(row)
    except UnicodeEncodeError as error:
        raise UsageError("half a surrogate pair, which UTF-8 cannot hold", subject=place) from error
    letters = _letters(row)
    if letters > MAX_LINE:
        raise UsageError(
            "this row is too long",
            subject=place,
            expected=f"at most {MAX_LINE} characters",
            found=letters,
            hint="cut it into several rows",
        )
    return letters


def _letters(row: Row) -> int:
    if "inputs" in row:
        return len(json.dumps(row["inputs"]))
    return len(row["text"]) if "text" in row else sum(len(turn["content"]) for turn in row["messages"])


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _shown(document: Row) -> str:
    """The keys of a row, as an error shows them."""
    return printable(("keys " + ", ".join(document))[:300]) if document else "no keys"
