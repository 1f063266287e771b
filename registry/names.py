"""Relative paths: safe to write below a folder of ours, and matched by globs."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import NewType

from registry.errors import ModelError

RelativePath = NewType("RelativePath", str)
"""A checked POSIX path: relative, no `..`, no `.`, no empty or overlong part, no control character, UTF-8."""


def relative_path(text: str, origin: str) -> RelativePath:
    """`text` as a path that cannot leave the folder it is written to; `ModelError` naming `origin` otherwise."""
    parts = text.split("/")
    if reason := _refusal(text, parts):
        raise ModelError(
            f"the path {text[:200]!r} is refused: it {reason}",
            subject=origin,
            expected="a relative path with plain names, such as tokenizer.json or onnx/model.onnx",
            hint="rename the file, or ask whoever made the artifact",
        )
    return RelativePath(text)


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether any glob matches the whole path, `*` reaching over slashes; without globs everything does."""
    return not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _refusal(text: str, parts: list[str]) -> str:
    if not text or text.startswith("/"):
        return "is empty or absolute"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..'"
    if "\\" in text or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        return "has a backslash or a control character"
    try:
        if len(text.encode()) > 4000 or any(len(part.encode()) > 255 for part in parts):
            return "is too long for a file system"
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return ""
