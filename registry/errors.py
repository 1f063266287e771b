"""Every error that a user can meet, in one tree.

    PackerError
    ├── UsageError           the command line or the build file is wrong             exit 2
    ├── ModelError           the model is not acceptable                             exit 3
    ├── TransferError        a registry or a source refused or failed                exit 5
    │   ├── NotFoundError    what was named is not there
    │   ├── ContentError     the bytes are not what their descriptor says
    │   └── ResponseError    a server answered with an error
    └── SpaceError           not enough disk or memory                               exit 6

Each says what went wrong, in which file, tensor, digest or host (`subject`), what was expected and
found where that applies, and what to do next. Exit 4 belongs to the gate, whose answer is a value
and not an error; anything outside this tree is a defect of ours and ends with exit 1.
This module imports nothing of the project.
"""

from __future__ import annotations

from typing import ClassVar, Self


class PackerError(Exception):
    """The base of every expected failure.

    `what` is one sentence; `subject` names the file, tensor, digest or host it is about;
    `expected` and `found` are given together where something was compared; `hint` is the next step.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, subject: str = "", expected: object = None, found: object = None, hint: str = ""
    ) -> None:
        super().__init__(what)
        self.what = what
        self.subject = subject
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.what}" if self.subject else self.what]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        if self.hint:
            lines.append(f"  next:     {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Everything that `str()` shows, as a JSON object."""
        document: dict[str, object] = {"error": type(self).__name__, "exit_code": self.exit_code, "what": self.what}
        for key in ("subject", "hint"):
            if value := getattr(self, key):
                document[key] = value
        for key in ("expected", "found"):
            if (value := getattr(self, key)) is not None:
                document[key] = str(value)
        return document


class UsageError(PackerError):
    """The command line, a reference or the build file cannot be understood."""

    exit_code = 2


class ModelError(PackerError):
    """A file of the model is not what it claims to be, or is not allowed."""

    exit_code = 3


class TransferError(PackerError):
    """A registry, a hub or a file of the source failed.

    `retry_after` is None unless the same may succeed when it is repeated: then it is the seconds to wait at least.
    """

    exit_code = 5
    retry_after: float | None = None

    def passing(self, seconds: float = 0.0) -> Self:
        """The same error, marked as one that may pass by itself."""
        self.retry_after = seconds
        return self


class NotFoundError(TransferError):
    """A tag, manifest, blob, repository or revision is not there."""


class ContentError(TransferError):
    """Bytes arrived whose size, digest or structure is not the promised one."""


class ResponseError(TransferError):
    """A server answered a request with an error status: `status`, 0 if what it said made no sense."""

    status = 0


class SpaceError(PackerError):
    """There is not enough disk or memory for what is to be done."""

    exit_code = 6
