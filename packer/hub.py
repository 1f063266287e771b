"""The Hugging Face Hub as a source: downloaded through its own client and cache, or looked at in ranges."""

from __future__ import annotations

import glob
import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.request import getproxies_environment

from formats.examine import FORMATS
from formats.snapshot import ModelFile, Origin, Snapshot
from packer.hub_answers import HubFile, hub_errors, listing, refused, understood
from packer.hub_choice import choose
from packer.state import DigestOf, State
from registry.blob import FileBlob, chunks
from registry.descriptor import OCTETS, Descriptor, parse_digest
from registry.descriptor import digest_of as digest_of_bytes
from registry.disk import require_free
from registry.errors import ContentError
from registry.manifest import encode
from registry.names import relative_path
from registry.ranged import Allowance, Answer, RangedBlob
from registry.wire import Wire, check_range, range_header, same_server


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
        with hub_errors(f"hf://{self.repository}@{self.revision}"):
            commit, tree = listing(self.repository, self.revision)
            origin = f"hf://{self.repository}@{commit}"
            names = [relative_path(name, origin) for name in choose(sorted(tree), self.include, origin)]
            missing = sum(tree[name].size for name in names if not self._is_cached(name, commit))
            require_free(Path(HF_HUB_CACHE), missing, "point HF_HOME to another disk, or take less with --include")
            patterns = [glob.escape(name) for name in names]
            bars = _counting_bars(self.meter, missing)
            with understood("the commit, the ETag and the size of each file, as headers"):
                folder = snapshot_download(self.repository, revision=commit, allow_patterns=patterns, tqdm_class=bars)
        files = [ModelFile.of(name, verified(Path(folder, name), tree[name])) for name in names]
        return Snapshot.of(Origin("hf", self.repository, commit), files)

    def state(self, digest_of: DigestOf) -> State:  # noqa: ARG002 - the Hub says it
        """The commit that the revision means now, and the digest of the chosen files' names and digests in it.

        So a commit that changes nothing of what is taken changes no digest.
        """
        with hub_errors(f"hf://{self.repository}@{self.revision}"):
            commit, tree = listing(self.repository, self.revision)
        chosen = choose(sorted(tree), self.include, f"hf://{self.repository}@{commit}")
        known = {name: tree[name].sha256 or tree[name].blob_id for name in chosen}
        return State(commit, digest_of_bytes(encode(known)))

    def at(self, state: State) -> HubSource:
        """The same repository at a commit."""
        return replace(self, revision=state.revision)

    def peek(self) -> Snapshot:
        """The same files, of which only what is read is fetched, in ranges; nothing is kept or checked."""
        with hub_errors(f"hf://{self.repository}@{self.revision}"):
            commit, tree = listing(self.repository, self.revision)
        # a repository of nothing but pickles is looked at, so that what they import is told
        has_weights = any(name.lower().endswith(tuple(FORMATS)) for name in tree)
        names = choose(
            sorted(tree), self.include or (() if has_weights else ("*",)), f"hf://{self.repository}@{commit}"
        )
        hint = f"packer build hf://{self.repository}@{self.revision} --until validate fetches it all, and judges it"
        origin = Origin("hf", self.repository, commit)
        ranged = _Ranged(self.repository, commit, hint)
        return Snapshot.of(origin, [ranged.file(tree[name]) for name in names])

    def missing(self, snapshot: Snapshot) -> int:
        """Bytes of a snapshot that are not in the Hub's cache yet."""
        commit = snapshot.origin.revision
        return sum(file.size for file in snapshot.files if not self._is_cached(file.name, commit))

    def _is_cached(self, name: str, commit: str) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, name, revision=commit), str)


class _Ranged:
    """Files of a commit, by HTTP Range. The token goes to the Hub alone, not to where it redirects."""

    def __init__(self, repository: str, commit: str, hint: str) -> None:
        self._repository, self._commit, self._hint = repository, commit, hint
        self._wire, self._unranged = Wire(proxies=getproxies_environment()), Allowance()

    def file(self, entry: HubFile) -> ModelFile:
        """One file, by what the Hub's tree says of it."""
        known = Descriptor(OCTETS, parse_digest(f"sha256:{entry.sha256}"), entry.size) if entry.sha256 else None
        origin = f"hf://{self._repository}@{self._commit}/{entry.path}"
        request = partial(self._get, entry.path, origin, entry.size)
        blob = RangedBlob(request, entry.size, origin, self._hint, known, self._unranged)
        return ModelFile(relative_path(entry.path, origin), entry.size, blob)

    def _get(self, path: str, origin: str, size: int, start: int, end: int) -> Answer:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(self._repository, path, revision=self._commit)
        token = {name: value for name, value in build_hf_headers().items() if name.lower() == "authorization"}
        answer = self._wire.send(
            "GET", url, range_header(start, end), origin, private=lambda to: token if same_server(to, url) else {}
        )
        if answer.status >= 300:
            answer.close()
            raise refused(answer, origin)
        return Answer(cast(BinaryIO, answer), check_range(answer, start, end, size, origin))


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


def verified(path: Path, entry: HubFile) -> FileBlob:
    """The file in the cache, if it is what the Hub's tree says."""
    blob = FileBlob.at(path)
    if entry.sha256:
        expected, found = f"sha256:{entry.sha256}", str(blob.descriptor.digest)
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
