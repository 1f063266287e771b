"""Where models live: a folder, a single file, a repository of the Hugging Face Hub.

Files are used where they lie, in the user's folder or in the Hub's cache; nothing is copied.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from formats.examine import FORMATS
from formats.pickle import NAMES as PICKLES
from formats.snapshot import ModelFile, Origin, Snapshot
from registry.blob import FileBlob, chunks
from registry.disk import require_free
from registry.errors import ContentError, ModelError, NotFoundError, TransferError, UsageError
from registry.names import matches

_HUB = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_OTHER_WEIGHTS = frozenset((*PICKLES, ".h5", ".msgpack", ".tflite", ".ot", ".mlmodel", ".mlpackage"))
"""What repositories carry besides a format of ours: the same weights for other frameworks."""


class Source(Protocol):
    """A place that a model is taken from."""

    def fetch(self) -> Snapshot:
        """The model's files, pinned; a `TransferError` or `ModelError` if they cannot be had."""


class Meter(Protocol):
    """Whoever is told how a download goes."""

    def expected(self, size: int) -> None:
        """About `size` bytes will come."""

    def advanced(self, count: int) -> None:
        """`count` more bytes have come."""


def fetch(source: Source) -> Snapshot:
    """The stage: the files of a source, pinned."""
    return source.fetch()


def parse_source(text: str, include: Sequence[str] = ()) -> Source:
    """The source that `text` names; `UsageError` if nothing is there or the form is unknown."""
    if text.startswith("hf://"):
        if not (match := _HUB.fullmatch(text)):
            raise UsageError("this is not a repository of the Hub", expected="hf://ORG/NAME[@REVISION]", found=text)
        return HubSource(match[1], match[2] or "main", tuple(include))
    if "://" in text:
        raise UsageError("this kind of source is not known", expected="a folder, a file or hf://ORG/NAME", found=text)
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, tuple(include))
    if path.is_file():
        if include:
            raise UsageError("--include chooses among the files of a folder", found=f"the file {text}")
        return FileSource(path)
    if path.suffix in (".yaml", ".yml"):
        raise UsageError("there is no such build file", subject=text, hint="check the path")
    raise UsageError(
        "there is no such model",
        subject=text,
        expected="a folder, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION], or a build file (.yaml)",
        hint="check the path; a model of the Hub needs hf:// before its name",
    )


@dataclass(frozen=True)
class FileSource:
    """One weight file that is a whole model."""

    path: Path

    def fetch(self) -> Snapshot:
        """The file under its own name."""
        return Snapshot.of(Origin("file"), [ModelFile.of(self.path.name, FileBlob.at(self.path))])


@dataclass(frozen=True)
class FolderSource:
    """A folder in the Hugging Face layout. Hidden files and folders are no part of the model."""

    path: Path
    include: tuple[str, ...] = ()

    def fetch(self) -> Snapshot:
        """Every file, or those that match an `include` glob; links to files are followed, links to folders refused."""
        there = list(self._walk())
        names = [name for name in there if matches(name, self.include)]
        if not names:
            raise ModelError(
                "no file of this folder is taken",
                subject=str(self.path),
                expected=", ".join(self.include) or "at least one file",
                found=", ".join(there[:8]) or "an empty folder",
                hint="globs match the path in the folder, and * reaches over slashes" if there else "",
            )
        return Snapshot.of(Origin("folder"), [ModelFile.of(name, FileBlob.at(self.path / name)) for name in names])

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.path, onerror=_reraise):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    raise _irregular(Path(folder) / name, "a link to a folder")
            for path in (Path(folder) / name for name in names if not name.startswith(".")):
                if not path.is_file():
                    raise _irregular(path, "a broken link" if path.is_symlink() else "not a regular file")
                yield path.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face Hub at a branch, tag or commit.

    huggingface_hub downloads into its own cache, which HF_HOME, HF_ENDPOINT and HF_TOKEN steer. It does not compare
    what it received with the digests that the Hub tells, so this does: sha256 for large files, git's sha1 for others.
    """

    repository: str
    revision: str
    include: tuple[str, ...] = ()
    meter: Meter | None = None

    def fetch(self) -> Snapshot:
        """The chosen files at the commit that the revision means now."""
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        with _hub_errors(f"hf://{self.repository}@{self.revision}"):
            api = HfApi()
            commit = str(api.model_info(self.repository, revision=self.revision).sha)
            tree = {
                entry.path: entry
                for entry in api.list_repo_tree(self.repository, revision=commit, recursive=True)
                if isinstance(entry, RepoFile)
            }
            names = choose(sorted(tree), self.include, f"hf://{self.repository}@{commit}")
            missing = sum(tree[name].size for name in names if not self._is_cached(name, commit))
            require_free(Path(HF_HUB_CACHE), missing, "point HF_HOME to another disk, or take less with --include")
            patterns = [glob.escape(name) for name in names]
            bars = _counting_bars(self.meter, missing)
            folder = Path(snapshot_download(self.repository, revision=commit, allow_patterns=patterns, tqdm_class=bars))
        files = [ModelFile.of(name, _verified(folder / name, tree[name])) for name in names]
        return Snapshot.of(Origin("hf", self.repository, commit), files)

    def _is_cached(self, name: str, commit: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, name, revision=commit), str)


def choose(names: Sequence[str], include: Sequence[str], origin: str) -> list[str]:
    """The files of a repository that make a model: those that match `include`, or one weight format and its company.

    safetensors come before GGUF and GGUF before ONNX. Of several GGUF variants none is guessed.
    """
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if include:
        chosen = [name for name in visible if matches(name, include)]
    else:
        present = {_suffix(name) for name in visible}
        best = next((suffix for suffix in FORMATS if suffix in present), "")
        others = (FORMATS.keys() | _OTHER_WEIGHTS) - {best}
        chosen = [name for name in visible if _suffix(name) not in others]
        _refuse_choice(best, visible, origin)
    if not chosen:
        raise ModelError("no file of this repository is taken", subject=origin, expected=", ".join(include) or "files")
    return chosen


def _refuse_choice(best: str, names: Sequence[str], origin: str) -> None:
    if not best:
        pickles = [name for name in names if _suffix(name) in PICKLES]
        raise ModelError(
            "this repository has only pickles, which run code when loaded" if pickles else "no weights are here",
            subject=origin,
            expected=" or ".join(FORMATS),
            found=", ".join((pickles or list(names))[:5]) or "no files",
            hint="look for a revision or a sibling repository with safetensors",
        )
    variants = {re.sub(r"-\d{5}-of-\d{5}(?=\.gguf$)", "", name) for name in names if _suffix(name) == ".gguf"}
    if best == ".gguf" and len(variants) > 1:
        raise UsageError(
            "this repository has several GGUF variants",
            subject=origin,
            found=", ".join(sorted(variants)[:12]),
            hint="choose one with --include, such as --include '*Q4_K_M*'",
        )


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _counting_bars(meter: Meter | None, size: int) -> Any:
    """A class that huggingface_hub takes for its progress bars, which shows nothing and counts the bytes of one."""
    from tqdm import tqdm

    if not meter:
        return None
    meter.expected(size)
    advanced = meter.advanced

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, desc: str = "", unit: str = "", **kwargs: Any) -> None:
            self.is_counted = unit == "B" and not desc.startswith("Downloading bytes")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.is_counted:
                advanced(int(n or 0))

    return Bar


def _verified(path: Path, entry: Any) -> FileBlob:
    """The file in the cache, if it is what the Hub's tree says."""
    blob = FileBlob.at(path)
    if entry.lfs:
        expected, found = f"sha256:{entry.lfs.sha256}", str(blob.descriptor.digest)
    else:
        expected, found = f"git blob {entry.blob_id}", f"git blob {_git_blob(blob)}"
    if blob.size != entry.size or expected != found:
        raise ContentError(
            "what the Hub sent is not what it promised",
            subject=entry.path,
            expected=f"{entry.size} bytes, {expected}",
            found=f"{blob.size} bytes, {found}",
            hint=f"remove {path.resolve()} from the cache and build again",
        )
    return blob


def _git_blob(blob: FileBlob) -> str:
    digest = hashlib.sha1(f"blob {blob.size}\0".encode(), usedforsecurity=False)
    with blob.open() as stream:
        for piece in chunks(stream):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _hub_errors(origin: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"the Hub allows no such name ({error})", subject=origin) from error
    except errors.GatedRepoError as error:
        raise TransferError(
            "this model is gated", subject=origin, hint="accept its terms on the Hub's page and set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(
            "the repository has no such revision", subject=origin, hint="check what stands after @"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError(
            "the Hub has no such repository, or hides it from you", subject=origin, hint="check the name, and HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        raise TransferError(f"the Hub refused ({error})", subject=origin, hint="try again later") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise TransferError(f"the Hub cannot be reached ({error})", subject=origin, hint="check HF_ENDPOINT") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise TransferError(
                f"the Hub cannot be reached ({error})", subject=origin, hint="check HF_ENDPOINT"
            ) from error
        raise


def _reraise(error: OSError) -> None:
    raise error


def _irregular(path: Path, found: str) -> ModelError:
    return ModelError("this is no part of a model", subject=str(path), expected="files and folders", found=found)
