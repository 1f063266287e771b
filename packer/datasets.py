"""Data by name: a file, a folder, or a dataset of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from packer.hub import verified
from packer.hub_answers import hub_errors, listing, understood
from registry.errors import UsageError

_DATASET = re.compile(r"(?:hf://datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")
_KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".txt")
"""The suffixes of files with rows, what is taken first standing first."""

_NO_ROWS = re.compile(r"(.*/)?(dataset_infos?|README|LICENSE|requirements)[^/]*")


def find_data(text: str) -> Path:
    """The file or folder that `text` names; a dataset's file is downloaded into the Hub's own cache and verified.

    A dataset is `ORG/NAME` or `hf://datasets/ORG/NAME`, with `@REVISION` and `/PATH` behind it where wanted; a path
    with neither `hf://` nor a revision before it looks like a file here, and is taken for one. Without a path it is the
    first file of the training split. `UsageError` if there is nothing of the name.
    """
    if Path(text).exists():
        return Path(text)
    match = _DATASET.fullmatch(text)
    is_file_here = Path(text).suffix in _KINDS and not text.startswith("hf://") and "@" not in text
    if not match or is_file_here:
        raise UsageError(
            "there is no such data",
            subject=text,
            expected="a .jsonl, .json, .parquet or .txt file, a folder of such, or a dataset of the Hub, ORG/NAME",
            hint="check the path; a file of a dataset has hf://datasets/ before it",
        )
    return _download(match[1], match[2] or "main", match[3])


def data_name(text: str) -> str:
    """How another machine would name it: a file or folder without the path of this machine, a dataset as it is."""
    return Path(text).resolve().name if Path(text).exists() else text


def _download(repository: str, revision: str, path: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    origin = f"hf://datasets/{repository}@{revision}"
    with hub_errors(origin):
        commit, tree = listing(repository, revision, "dataset")
        name = path or first_rows(tree)
        if not name or name not in tree:
            raise UsageError(
                "this dataset has no such file" if path else "this dataset has no file with rows",
                subject=origin,
                expected=path or f"one that ends in {', '.join(_KINDS)}",
                found=", ".join(sorted(tree)[:10]) or "no files",
                hint=f"name one: {origin}/PATH",
            )
        with understood("the commit, the ETag and the size of the file, as headers"):
            local = hf_hub_download(repository, name, revision=commit, repo_type="dataset")
    verified(Path(local), tree[name])
    return Path(local)


def first_rows(names: Iterable[str]) -> str:
    """The file that holds the first rows of the training split, or of the whole; empty if none seems to hold rows."""
    rows = [name for name in names if name.endswith(_KINDS) and not _NO_ROWS.fullmatch(name)]
    ranked = sorted(rows, key=lambda name: ("train" not in name, _KINDS.index(Path(name).suffix), name))
    return next(iter(ranked), "")
