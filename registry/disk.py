"""Disk space, looked at before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from registry.errors import SpaceError


def require_free(folder: Path, size: int, hint: str) -> None:
    """`SpaceError` if `size` more bytes do not fit where `folder` is, or is to be made."""
    place = folder.absolute()
    free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    if size > free:
        raise SpaceError(
            "the disk is too full",
            subject=str(folder),
            expected=f"{size} bytes free",
            found=f"{free} bytes free",
            hint=hint,
        )
