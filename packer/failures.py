"""What failures of the machine amount to, in the words of our errors."""

from __future__ import annotations

import errno

from registry.errors import ModelError, PackerError, SpaceError, TransferError, UsageError

REFUSED = 4
"""The exit code of a gate that says no."""

FINAL = frozenset((UsageError.exit_code, ModelError.exit_code, REFUSED))
"""The exit codes of what ends in the same way however often it is tried."""

REFUSALS = frozenset((ModelError.exit_code, REFUSED))
"""The exit codes of a model that is not good enough."""

PASSING = frozenset((TransferError.exit_code, SpaceError.exit_code))
"""The exit codes of failures that may pass: of a registry or a source, of disk or memory."""


def expected(error: Exception) -> Exception:
    """The error of our tree that a failure of the machine amounts to; other errors as they are."""
    if isinstance(error, PackerError):
        return error
    if isinstance(error, MemoryError):
        return SpaceError("there is not enough memory", hint="free some, or build on a larger machine")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "the disk is full", subject=str(error.filename or ""), hint="free some space and run it again"
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        hint = "check the path, its permissions and the limits of this process"
        return TransferError(
            f"a file cannot be used ({error.strerror or error})", subject=str(error.filename or ""), hint=hint
        )
    return error
