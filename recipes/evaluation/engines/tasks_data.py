"""Where datasets are: found where the user's are, written nowhere but in a folder that goes away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def caches_in(scratch: Path) -> Iterator[Path]:
    """An empty folder in which the library `datasets` keeps its caches until the block ends.

    It finds what the user has downloaded there as well, by links: it makes locks beside what it reads, and writes what
    it derives from it, and the user's folder may not be ours to write to.
    """
    import datasets

    names = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH")
    before = {name: getattr(datasets.config, name) for name in names}
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _link(Path(before["HF_DATASETS_CACHE"]), scratch)
    was_enabled, temporary = datasets.is_caching_enabled(), os.environ.get("TMPDIR")
    try:
        for name, path in zip(names, (scratch, scratch / "downloads", scratch / "extracted"), strict=True):
            setattr(datasets.config, name, path)
        datasets.disable_caching()  # else what tasks make of documents is kept beside them, behind the links
        os.environ["TMPDIR"] = str(scratch)
        yield scratch
    finally:
        for name, value in before.items():
            setattr(datasets.config, name, value)
        if was_enabled:
            datasets.enable_caching()
        os.environ.pop("TMPDIR")
        if temporary is not None:
            os.environ["TMPDIR"] = temporary
        shutil.rmtree(scratch, ignore_errors=True)


def _link(cache: Path, scratch: Path) -> None:
    """A link to each dataset that lies ready in a cache, under its name: dataset/configuration/version/hash."""
    for info in cache.glob("*/*/*/*/dataset_info.json"):
        link = scratch / info.parent.relative_to(cache)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(info.parent)
