"""A repository in an OCI registry, as a store. Distribution specification 1.1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import urlencode

from registry.access import Access
from registry.auth import PULL, PUSH, Authenticator, scope
from registry.blob import Blob, CheckedBlob, beneath
from registry.calls import Calls
from registry.credentials import Login
from registry.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    Descriptor,
    Digest,
    digest_of,
    parse_digest,
)
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError, UsageError
from registry.inflow import Inflow, buffered
from registry.manifest import Index, Manifest, decode
from registry.outcome import Outcome
from registry.profile import Way
from registry.ranged import Allowance, RangedBlob
from registry.ranged import Answer as RangeAnswer
from registry.reference import is_tag
from registry.referrers import MAX_REFERRERS, Listed, add_to_fallback, entry_of, fallback_tag
from registry.retry import Patience
from registry.upload import Session, Upload, offset_of
from registry.wire import Answer, Buffers, check_range, range_header

_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_DISTRIBUTION = "Docker-Distribution-Api-Version"
"""A header of the registry that docker made, and of those made after it."""

_MAX_DIGITS = 12
"""Of the least size of a chunk: beyond that it is no size that anybody means."""


class Remote:
    """One repository of one registry. Its methods may be called by several threads."""

    def __init__(self, host: str, repository: str, access: Access, *, plain_http: bool = False) -> None:
        self.host, self.repository, self._access = host, repository, access
        self.calls = Calls(host, repository, access, plain_http=plain_http)
        self._unranged, self._takes_ranges = Allowance(), cast(bool | None, None)
        self._habits = access.habits.of(host)

    # ---------------------------------------------------------------- what is read

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest under a tag or digest."""
        origin = self.calls.origin(name)
        raw = self.calls.small(f"manifests/{name}", origin, {"Accept": _ACCEPT})[1]
        if name.startswith("sha256:") and digest_of(raw) != name:
            raise ContentError(
                "the registry sent another manifest", subject=origin, expected=name, found=digest_of(raw)
            )
        return decode(raw, origin)

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor, checked as it comes, taken up again where the connection breaks."""
        return CheckedBlob(_FarBlob(self, descriptor), self.calls.origin(descriptor.digest))

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor, read in ranges."""
        origin = self.calls.origin(descriptor.digest)

        def request(start: int, end: int) -> RangeAnswer:
            answer = self.calls.call("GET", f"blobs/{descriptor.digest}", origin, range_header(start, end))
            return RangeAnswer(cast(BinaryIO, answer), check_range(answer, start, end, descriptor.size, origin))

        hint = f"packer pull {self.calls.name}:TAG DIR fetches it all; then validate DIR"
        return RangedBlob(request, descriptor.size, origin, hint, descriptor, self._unranged)

    def span(self, descriptor: Descriptor, start: int, end: int) -> BinaryIO:
        """The bytes from `start` up to `end` of a blob, which nobody has checked; taken up again where they break."""

        def get(at: int) -> Answer:
            origin = self.calls.origin(descriptor.digest)
            asked = range_header(at, end) if at or end < descriptor.size else {}
            return self.calls.call("GET", f"blobs/{descriptor.digest}", origin, asked, repeats=False)

        patience = Patience(self._access.retry, self._access.log)
        return buffered(Inflow(get, descriptor.size, self.calls.origin(descriptor.digest), patience, start, end))

    def takes_ranges(self, descriptor: Descriptor) -> bool:
        """Whether a blob's host answers Range; asked once, for a blob that is not empty."""
        if self._takes_ranges is None:
            origin = self.calls.origin(descriptor.digest)
            answer = self.calls.call("GET", f"blobs/{descriptor.digest}", origin, range_header(0, 1))
            self._takes_ranges = answer.status == 206
            answer.drain() if self._takes_ranges else answer.close()
        return self._takes_ranges

    def check(self, login: Login) -> None:
        """Have the registry say that it knows a login; `ResponseError` if it does not."""
        self.calls.auth = Authenticator(self.calls.root, lambda: login, self._access.wire, self.host)
        try:
            self.calls.call("GET", f"{self.calls.root}/v2/", self.host, {}, scopes=frozenset()).drain()
        except ResponseError as error:
            if error.status in (401, 403):
                error.what = "this login is not accepted"
                error.hint = "check the user and the password, or the token that stands for it"
            raise
        if not self.calls.auth.is_asked:
            self._access.log(f"{self.host} asks nobody who they are; the login was not proved")

    def tags(self) -> list[str]:
        """The tags of the repository, in the registry's order."""
        origin, found = self.calls.name, list[str]()
        for document in self.calls.pages("tags/list?n=1000", origin):
            tags = document.get("tags") or []
            if not isinstance(tags, list) or not all(isinstance(tag, str) and is_tag(tag) for tag in tags):
                raise ContentError("the registry sent tags that are none", subject=origin, found=str(tags)[:100])
            found += tags
        return found

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """The manifests about `digest`: as the registry lists them, or from the tag that stands for such a list."""
        try:
            pages = list(self.calls.pages(f"referrers/{digest}", self.calls.origin(digest)))
        except (NotFoundError, ResponseError, ContentError) as error:
            if error.retry_after is not None:
                raise
            pages = []  # no such API: some answer 404, some with a page for people
        lists = [page["manifests"] or [] for page in pages if "manifests" in page]
        if lists and all(isinstance(entries, list) for entries in lists):
            return tuple(Descriptor.from_json(entry) for entries in lists for entry in cast(list[object], entries))
        return self._fallback(digest).entries

    # ---------------------------------------------------------------- what is written

    def reserve(self, blobs: Iterable[Descriptor]) -> None:
        """Nothing: a registry does not say how much room there is."""

    def push(self, blob: Blob) -> Outcome:
        """Make the blob present: it may be there, or be mounted from a repository beside this one, or be sent."""
        descriptor = blob.descriptor
        if self.has(descriptor.digest):
            return Outcome.PRESENT
        self._refuse_large(descriptor)
        for repository in self._neighbours(blob):
            if self._mount(descriptor.digest, repository):
                return Outcome.MOUNTED
        patience = Patience(self._access.retry, self._access.log)
        with closing(self._access.memory.journal(self.calls.root, self.repository)) as journal:
            try:
                Upload(blob, _Channel(self, descriptor.digest), self._habits, journal, patience).run()
            except ContentError:
                self._access.memory.forget(descriptor.digest)  # it may have been remembered wrongly
                raise
        self._access.memory.saw(self.calls.root, self.repository, descriptor.digest)
        return Outcome.SENT

    def foresee(self, digest: Digest) -> Outcome:
        """What `push` would do about a blob: a mount may yet be refused, and is then an upload."""
        if self.has(digest):
            return Outcome.PRESENT
        return Outcome.MOUNTED if self._access.memory.places(self.calls.root, digest) else Outcome.SENT

    @property
    def max_layer(self) -> int | None:
        """The bytes that a layer may have, where that is known."""
        return self._habits.max_layer

    def put(self, manifest: Manifest | Index) -> bool:
        """Put the manifest under its digest."""
        if not self._digest_at(manifest.descriptor.digest):
            self._put_manifest(manifest, manifest.descriptor.digest)
            return True
        if manifest.subject and not self._lists(manifest, manifest.subject.digest):
            self._keep_referrer(manifest, manifest.subject.digest)  # whoever put it was killed before
            return True
        return False

    def _lists(self, manifest: Manifest | Index, subject: Digest) -> bool:
        return manifest.descriptor.digest in {entry.digest for entry in self.referrers(subject)}

    def _fallback(self, digest: Digest) -> Listed:
        """The list of referrers that is kept under a tag."""
        origin = self.calls.origin(fallback_tag(digest))
        try:
            answer, raw = self.calls.small(f"manifests/{fallback_tag(digest)}", origin, {"Accept": INDEX})
        except NotFoundError:
            return Listed(None, "")
        index = decode(raw, origin, MAX_REFERRERS)
        if not isinstance(index, Index):
            raise ContentError("the tag for referrers holds no list of them", subject=origin, expected=INDEX)
        return Listed(index, answer.header("ETag"))

    def _keep_referrer(self, manifest: Manifest | Index, subject: Digest) -> None:
        """List a referrer where the registry does not."""
        tag = fallback_tag(subject)

        def write(index: Index, before: Listed) -> bool:
            guard = {"If-Match": before.etag} if before.etag else {} if before.index else {"If-None-Match": "*"}
            headers = {"Content-Type": index.media_type, **guard}
            try:
                self.calls.call("PUT", f"manifests/{tag}", self.calls.origin(tag), headers, index.raw, PUSH).drain()
            except ResponseError as error:
                if error.status in (409, 412):
                    return False
                raise
            return True

        add_to_fallback(entry_of(manifest), lambda: self._fallback(subject), write, self.calls.origin(subject))

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Put the manifest under a tag too."""
        if self._digest_at(tag) == manifest.descriptor.digest:
            return False
        self._put_manifest(manifest, tag)
        return True

    def has(self, digest: Digest) -> bool:
        """Whether the repository has a blob; a registry that refuses to say has not: the write that follows tells."""
        return self.calls.head(f"blobs/{digest}", self.calls.origin(digest), {}) is not None

    def _digest_at(self, name: str) -> Digest | None:
        answer = self.calls.head(f"manifests/{name}", self.calls.origin(name), {"Accept": _ACCEPT})
        if answer is None:
            return None
        with suppress(UsageError):
            return parse_digest(answer.header("Docker-Content-Digest") or name)
        return None

    def _put_manifest(self, manifest: Manifest | Index, name: str) -> None:
        headers = {"Content-Type": manifest.media_type}
        answer = self.calls.call("PUT", f"manifests/{name}", self.calls.origin(name), headers, manifest.raw, PUSH)
        answer.drain()
        if manifest.subject and not answer.header("OCI-Subject"):
            self._keep_referrer(manifest, manifest.subject.digest)

    def _neighbours(self, blob: Blob) -> Iterator[str]:
        """Repositories of this registry that may have the blob."""
        seen = {self.repository}
        far = beneath(blob, _FarBlob)
        known = [far.remote.repository] if far and far.remote.calls.root == self.calls.root else []
        for repository in (*known, *self._access.memory.places(self.calls.root, blob.descriptor.digest)):
            if repository not in seen:
                seen.add(repository)
                yield repository

    def _mount(self, digest: Digest, repository: str) -> bool:
        """Whether the registry took a blob over from another repository; if not, what it opened is ended."""
        query = urlencode({"mount": digest, "from": repository})
        scopes = frozenset((scope(self.repository, PUSH), scope(repository, PULL)))
        try:
            answer = self.calls.call("POST", f"blobs/uploads/?{query}", self.calls.origin(digest), {}, scopes=scopes)
        except ResponseError:
            return False
        answer.drain()
        if answer.status == 202:
            with suppress(TransferError):
                place = self.calls.location(answer, digest)
                self.calls.call("DELETE", place, self.calls.origin(digest), {}, actions=PUSH, repeats=False).drain()
        return answer.status == 201

    def _refuse_large(self, descriptor: Descriptor) -> None:
        limit = self._habits.max_layer
        if limit and descriptor.size > limit:
            raise UsageError(
                f"{self.host} takes no layer of that size",
                subject=descriptor.digest,
                expected=f"at most {limit} bytes",
                found=f"{descriptor.size} bytes",
                hint=f"regroup the weights: --max-size {limit * 9 // 10 >> 30}GiB",
            )


@dataclass(frozen=True)
class _FarBlob:
    """A blob in a registry as it comes, checked by nobody; its streams seek."""

    remote: Remote
    descriptor: Descriptor

    def open(self) -> BinaryIO:
        return self.remote.span(self.descriptor, 0, self.descriptor.size)


@dataclass(frozen=True)
class _Channel:
    """An upload's way to its repository."""

    remote: Remote
    digest: Digest

    def start(self) -> Session:
        answer = self.remote.calls.call("POST", "blobs/uploads/", self._origin, {}, actions=PUSH)
        answer.drain()
        habits = self.remote._habits
        if habits.way is Way.CHUNKS and _DISTRIBUTION in answer.headers:
            habits.way = Way.STREAM  # it ends an upload whose PATCH broke, so chunks would only cost
        least = answer.header("OCI-Chunk-Min-Length")
        size = int(least) if least.isascii() and least.isdigit() and len(least) <= _MAX_DIGITS else 0
        return Session(self.location(answer), 0, size)

    def write(self, method: str, url: str, headers: dict[str, str], body: Buffers | bytes) -> Answer:
        answer = self.remote.calls.call(method, url, self._origin, headers, body, PUSH, repeats=False)
        answer.drain()
        return answer

    def has(self, digest: Digest) -> bool:
        return self.remote.has(digest)

    def state(self, session: Session) -> Session | None:
        answer = self.remote.calls.call("GET", session.location, self._origin, {}, actions=PUSH)
        answer.drain()
        offset = offset_of(answer)
        if answer.status != 204 or offset is None:
            return None
        location = self.location(answer) if answer.header("Location") else session.location
        return Session(location, offset, session.least_chunk)

    def location(self, answer: Answer) -> str:
        return self.remote.calls.location(answer, self.digest)

    @property
    def _origin(self) -> str:
        return self.remote.calls.origin(self.digest)
