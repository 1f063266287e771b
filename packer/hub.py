"""The Hugging Face Hub as a source: downloaded through its own client and cache, or looked at in ranges."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from formats.examine import FORMATS
from formats.pickle import NAMES as PICKLES
from formats.snapshot import ModelFile, Origin, Snapshot
from registry.blob import FileBlob, chunks
from registry.descriptor import OCTETS, Descriptor, parse_digest
from registry.disk import require_free
from registry.errors import ContentError, ModelError, NotFoundError, ResponseError, TransferError, UsageError
from registry.names import matches, relative_path
from registry.ranged import Allowance, Answer, RangedBlob

_OTHER_WEIGHTS = frozenset((*PICKLES, ".h5", ".msgpack", ".tflite", ".ot", ".mlmodel", ".mlpackage"))
"""What repositories carry besides a format of ours: the same weights for other frameworks."""


class Meter(Protocol):
    """Whoever is told how a download goes."""

    def expected(self, size: int) -> None:
        """About `size` bytes will come."""

    def advanced(self, count: int) -> None:
        """`count` more bytes have come."""


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
        """The chosen files at the commit that the revision means now, downloaded."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        with _hub_errors(f"hf://{self.repository}@{self.revision}"):
            commit, tree = self._listing()
            names = choose(sorted(tree), self.include, f"hf://{self.repository}@{commit}")
            missing = sum(tree[name].size for name in names if not self._is_cached(name, commit))
            require_free(Path(HF_HUB_CACHE), missing, "point HF_HOME to another disk, or take less with --include")
            patterns = [glob.escape(name) for name in names]
            bars = _counting_bars(self.meter, missing)
            folder = Path(snapshot_download(self.repository, revision=commit, allow_patterns=patterns, tqdm_class=bars))
        files = [ModelFile.of(name, _verified(folder / name, tree[name])) for name in names]
        return Snapshot.of(Origin("hf", self.repository, commit), files)

    def peek(self) -> Snapshot:
        """The same files, of which only what is read is fetched, in ranges; nothing is kept or checked."""
        with _hub_errors(f"hf://{self.repository}@{self.revision}"):
            commit, tree = self._listing()
        # a repository of nothing but pickles is looked at, so that what they import is told
        has_weights = any(_suffix(name) in FORMATS for name in tree)
        names = choose(
            sorted(tree), self.include or (() if has_weights else ("*",)), f"hf://{self.repository}@{commit}"
        )
        hint = f"packer build hf://{self.repository}@{self.revision} --until validate fetches it all, and judges it"
        origin = Origin("hf", self.repository, commit)
        ranged = _Ranged(self.repository, commit, hint)
        return Snapshot.of(origin, [ranged.file(tree[name]) for name in names])

    def _listing(self) -> tuple[str, dict[str, Any]]:
        """The commit that the revision means now, and its files by path."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi()
        commit = str(api.model_info(self.repository, revision=self.revision).sha)
        entries = api.list_repo_tree(self.repository, revision=commit, recursive=True)
        return commit, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _is_cached(self, name: str, commit: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, name, revision=commit), str)


class _Ranged:
    """Files of a commit, by HTTP Range. The token goes to the Hub alone, not to where it redirects."""

    def __init__(self, repository: str, commit: str, hint: str) -> None:
        import requests

        from registry.http import prepare

        self._repository, self._commit, self._hint = repository, commit, hint
        self._session, self._unranged = prepare(requests.Session()), Allowance()

    def file(self, entry: Any) -> ModelFile:
        """One file, by what the Hub's tree says of it."""
        known = Descriptor(OCTETS, parse_digest(f"sha256:{entry.lfs.sha256}"), entry.size) if entry.lfs else None
        origin = f"hf://{self._repository}@{self._commit}/{entry.path}"
        request = partial(self._get, entry.path, origin, entry.size)
        blob = RangedBlob(request, entry.size, origin, self._hint, known, self._unranged)
        return ModelFile(relative_path(entry.path, origin), entry.size, blob)

    def _get(self, path: str, origin: str, size: int, start: int, end: int) -> Answer:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        from registry.http import range_answer, range_header

        url = hf_hub_url(self._repository, path, revision=self._commit)
        headers = {**build_hf_headers(), **range_header(start, end)}
        with _hub_errors(origin):
            response = self._session.get(url, headers=headers, stream=True)
        if not response.ok:
            response.close()
            raise ResponseError(
                "the Hub refused",
                subject=origin,
                expected="206 or 200",
                found=f"{response.status_code} {response.reason}",
            )
        return range_answer(response, start, end, size, origin)


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
            hint="look for a revision or a sibling repository with safetensors"
            + (", or build with --pickle convert --include '*.bin' --include '*.json'" if pickles else ""),
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
