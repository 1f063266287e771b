"""Transfers against a registry that follows the specification to the letter, and as others behave."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import BinaryIO

import pytest

from registry.access import Access
from registry.blob import BytesBlob, CheckedBlob, FileBlob
from registry.descriptor import IMAGE_CONFIG, MANIFEST, OCTETS, Descriptor, Digest, digest_of
from registry.errors import ContentError, PackerError, ResponseError, TransferError, UsageError
from registry.layout import Layout
from registry.manifest import encode, make_index, make_manifest
from registry.memory import Memory, mark_of
from registry.outcome import Outcome
from registry.parallel import Stoppable
from registry.profile import Habits, Way, habits_of
from registry.referrers import fallback_tag
from registry.remote import Remote
from registry.retry import Patience, Retry
from registry.transfer import deliver, graph_at, push_blobs, with_referrers
from registry.upload import Outflow, Session
from tests.parts.strict import ECR, GAR, GHCR, STRICT, StrictRegistry, strict_registry

QUICK = Retry(count=6, first=0.01, most=0.05, total=20)
CHUNK = 256 << 10


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def access(notes: list[str], tmp_path: Path) -> Access:
    return Access(retry=QUICK, log=notes.append, memory=Memory(tmp_path / "memory.db", notes.append))


@pytest.fixture
def blob(tmp_path: Path) -> FileBlob:
    path = tmp_path / "weights"
    path.write_bytes(Random(1).randbytes(3 * CHUNK + 12345))
    return FileBlob.at(path)


def remote(registry: StrictRegistry, access: Access, repository: str = "a/b") -> Remote:
    """A repository whose larger blobs go in several chunks."""
    access.habits.of(registry.address).chunk = CHUNK
    return Remote(registry.address, repository, access, plain_http=True)


def received(registry: StrictRegistry, blob: FileBlob, repository: str = "a/b") -> bool:
    return registry.blobs(repository).get(blob.descriptor.digest) == blob.path.read_bytes()


MODES = {"strict": STRICT, "ghcr": GHCR, "ecr": ECR, "gar": GAR, "min-chunk": replace(STRICT, min_chunk=2 * CHUNK)}


@pytest.mark.parametrize("name", MODES)
def test_every_registry_gets_a_blob_in_a_way_that_it_takes(
    name: str, access: Access, blob: FileBlob, notes: list[str]
) -> None:
    with strict_registry(MODES[name]) as registry:
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert received(registry, blob)
        assert remote(registry, access).push(blob) is Outcome.PRESENT
        # what was learnt costs once
        before = registry.uploaded()
        other = BytesBlob.of(OCTETS, Random(2).randbytes(3 * CHUNK))
        assert remote(registry, access).push(other) is Outcome.SENT
        sent_twice = registry.uploaded() - before - other.descriptor.size
    assert sent_twice == 0
    assert any("one PUT" in note for note in notes) == (name in ("ecr", "gar"))


def test_what_is_known_of_registries() -> None:
    hosts = {
        "ghcr.io": Habits(Way.WHOLE, 10_000_000_000),
        "europe-docker.pkg.dev": Habits(Way.WHOLE),
        "eu.gcr.io": Habits(Way.WHOLE),
        "gcr.io": Habits(Way.WHOLE),
        "1234.dkr.ecr.eu-west-1.amazonaws.com": Habits(Way.WHOLE, 52_000 << 20),
        "public.ecr.aws": Habits(Way.WHOLE, 10_000 << 20),
        "quay.io": Habits(Way.STREAM, 20 << 30),
        "registry.example.com:5000": Habits(Way.CHUNKS),
        "evil-ghcr.io": Habits(Way.CHUNKS),
        "ghcr.io.example.com": Habits(Way.CHUNKS),
    }
    assert {host: habits_of(host) for host in hosts} == hosts


def test_a_layer_above_the_known_limit_is_refused_before_a_byte(access: Access, blob: FileBlob) -> None:
    with strict_registry() as registry:
        access.habits.of(registry.address).max_layer = 1000
        with pytest.raises(UsageError, match="no layer of that size") as caught:
            remote(registry, access).push(blob)
        assert "--max-size" in caught.value.hint
        assert registry.uploaded() == 0


@pytest.mark.parametrize("cuts", [[1], [2], [CHUNK - 1], [77, 1000, CHUNK // 2]])
@pytest.mark.parametrize("way", [Way.CHUNKS, Way.STREAM])
def test_an_upload_that_broke_goes_on_where_it_broke(
    cuts: list[int], way: Way, access: Access, blob: FileBlob, notes: list[str]
) -> None:
    with strict_registry() as registry:
        access.habits.of(registry.address).way = way
        registry.cuts.extend(cuts)
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert received(registry, blob)
        # `0-0` may mean one byte or none
        assert registry.uploaded() == blob.size + (cuts == [1])
        assert not registry.cuts
    assert sum("trying again" in note for note in notes) == len(cuts)


def test_an_upload_starts_again_where_the_registry_cannot_go_on(
    access: Access, blob: FileBlob, notes: list[str]
) -> None:
    with strict_registry(GAR) as registry:
        registry.cuts.append(CHUNK + 5)
        access.habits.of(registry.address).way = Way.WHOLE
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert registry.uploaded() == blob.size + CHUNK + 5
        assert received(registry, blob)
    assert any("starts again at byte 0" in note for note in notes)


_PUSH = """
import sys
from pathlib import Path
from registry.access import Access
from registry.blob import FileBlob
from registry.memory import Memory
from registry.remote import Remote
access = Access(memory=Memory(Path(sys.argv[3])))
access.habits.of(sys.argv[1]).chunk = int(sys.argv[4])
print(Remote(sys.argv[1], "a/b", access, plain_http=True).push(FileBlob.at(Path(sys.argv[2]))).name)
"""


def pushing(registry: StrictRegistry, path: Path, memory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _PUSH, registry.address, path, memory, str(CHUNK)]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_pushes_go_on(tmp_path: Path) -> None:
    """Wherever the kill comes, no more than a chunk is sent twice."""
    random, path = Random(7), tmp_path / "weights"
    path.write_bytes(random.randbytes(20 * CHUNK))
    blob = FileBlob.at(path)
    with strict_registry() as registry:
        for attempt in range(5):
            process = pushing(registry, path, tmp_path / "memory.db")
            aim = registry.uploaded() + random.randrange(1, 4 * CHUNK)
            deadline = time.monotonic() + 20
            while registry.uploaded() < aim and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if received(registry, blob):
                break
            assert registry.problems() == []
        last = pushing(registry, path, tmp_path / "memory.db")
        out, err = last.communicate(timeout=60)
        assert last.returncode == 0, err
        assert received(registry, blob), out
        assert registry.uploaded() - blob.size <= CHUNK * (attempt + 1)


def test_a_lost_answer_to_the_last_request_costs_nothing(access: Access, blob: FileBlob) -> None:
    """The registry has the blob, and its answer was lost: it is asked before anything is sent again."""
    lost: list[str] = []

    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        if method == "PUT" and not lost:
            lost.append(method)
            registry.put_blob("a/b", blob.path.read_bytes())
            return 502, {}
        return None

    with strict_registry(authorize=answer) as registry:
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert registry.uploaded() == blob.size
        assert received(registry, blob)
    assert lost


def test_two_processes_do_not_share_an_upload(access: Access, blob: FileBlob, tmp_path: Path) -> None:
    """The second one opens its own."""
    with strict_registry() as registry:
        root, digest = f"http://{registry.address}", blob.descriptor.digest
        first = access.memory.journal(root, "a/b")
        assert first.open_session(digest) is None
        first.keep(digest, Session("somewhere", 5))
        other = replace(access, memory=Memory(tmp_path / "memory.db"))
        assert remote(registry, other).push(blob) is Outcome.SENT
        assert received(registry, blob)
        assert all("somewhere" not in request.path for request in registry.requests)
        first.close()
        assert access.memory.journal(root, "a/b").open_session(digest) == Session("somewhere", 5)


@pytest.mark.parametrize(("status", "code"), [(404, "BLOB_UPLOAD_UNKNOWN"), (416, "BLOB_UPLOAD_INVALID")])
def test_a_registry_that_loses_the_thread_gets_the_blob_again(
    status: int, code: str, access: Access, blob: FileBlob, notes: list[str]
) -> None:
    """In the middle, that is no refusal of PATCHes: others go in chunks as before."""
    patches = [0]

    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        patches[0] += method == "PATCH"
        return (status, {}) if method == "PATCH" and patches[0] == 2 else None

    with strict_registry(authorize=answer) as registry:
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert received(registry, blob)
        assert access.habits.of(registry.address).way is Way.CHUNKS


def test_a_session_that_is_gone_at_its_end_starts_again(access: Access, blob: FileBlob) -> None:
    closes = [0]

    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        closes[0] += method == "PUT"
        return (404, {}) if method == "PUT" and closes[0] == 1 else None

    with strict_registry(authorize=answer) as registry:
        assert remote(registry, access).push(blob) is Outcome.SENT
        assert received(registry, blob)


def test_a_disputed_digest_is_final(access: Access) -> None:
    liar = BytesBlob(Descriptor(OCTETS, digest_of(b"promised"), 9), b"delivered")
    with strict_registry() as registry:
        with pytest.raises(ContentError, match="other bytes than those of this digest"):
            remote(registry, access).push(liar)
        assert [request.method for request in registry.requests].count("PUT") == 1


def test_what_an_earlier_process_sent_may_have_been_something_else(
    access: Access, blob: FileBlob, notes: list[str]
) -> None:
    """The file changed between two runs and got its digest back: the resumed upload is disputed, and starts again."""
    with strict_registry() as registry:
        place, digest = remote(registry, access), blob.descriptor.digest
        root = f"http://{registry.address}"
        answer = access.wire.send("POST", f"{root}/v2/a/b/blobs/uploads/", {}, "test")
        answer.drain()
        headers = {"Content-Type": OCTETS, "Content-Range": f"0-{CHUNK - 1}", "Content-Length": str(CHUNK)}
        url = f"{root}{answer.header('Location').removeprefix(root)}"
        patched = access.wire.send("PATCH", url, headers, "test", bytes(CHUNK))
        patched.drain()
        session = Session(f"{root}{patched.header('Location').removeprefix(root)}", CHUNK)
        journal = access.memory.journal(root, "a/b")
        journal.open_session(digest)
        journal.keep(digest, session)
        journal.close()
        assert place.push(blob) is Outcome.SENT
        assert received(registry, blob)
    assert any(f"going on at byte {CHUNK}" in note for note in notes)


def test_mounts_within_a_registry(access: Access, blob: FileBlob) -> None:
    with strict_registry() as registry:
        source, target = remote(registry, access, "a/b"), remote(registry, access, "c/d")
        source.push(blob)
        before = registry.uploaded()
        assert target.push(source.blob(blob.descriptor)) is Outcome.MOUNTED
        # known from an earlier run, whatever the blob comes from
        assert remote(registry, access, "e/f").push(blob) is Outcome.MOUNTED
        assert registry.uploaded() == before
        assert registry.blobs_read() == []
        assert received(registry, blob, "e/f")
    with strict_registry(replace(STRICT, mounts=False)) as registry:
        source = remote(registry, access, "a/b")
        source.push(blob)
        assert remote(registry, access, "c/d").push(source.blob(blob.descriptor)) is Outcome.SENT
        assert received(registry, blob, "c/d")
        assert not registry.uploads  # what the refused mount opened is closed


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(status: int, access: Access, blob: FileBlob, notes: list[str]) -> None:
    failures = [3]

    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        failures[0] -= 1
        return (status, {"Retry-After": "0"}) if failures[0] >= 0 else None

    with strict_registry(authorize=answer) as registry:
        assert remote(registry, access).push(blob) is Outcome.SENT
    assert sum("trying again" in note for note in notes) == 3
    assert all(str(status) in note or "refused" in note for note in notes)


def test_patience_ends(access: Access, blob: FileBlob) -> None:
    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        return 503, {}

    with strict_registry(authorize=answer) as registry, pytest.raises(ResponseError, match="refused"):
        remote(registry, access).push(blob)
    assert len(registry.requests) <= QUICK.count + 1


def test_retry_after_is_honoured(access: Access, blob: FileBlob) -> None:
    times: list[float] = []

    def answer(headers: object, method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        times.append(time.monotonic())
        return (429, {"Retry-After": "1"}) if len(times) == 1 else None

    with strict_registry(authorize=answer) as registry:
        remote(registry, access).push(blob)
    assert times[1] - times[0] >= 1


def test_a_retry_after_beyond_all_patience(access: Access, blob: FileBlob) -> None:
    with (
        strict_registry(authorize=lambda *_: (429, {"Retry-After": "3600"})) as registry,
        pytest.raises(ResponseError),
    ):
        remote(registry, access).push(blob)
    assert len(registry.requests) == 1


def test_the_first_failure_stops_all(access: Access, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(40)]
    for path in paths:
        path.write_bytes(os.urandom(8 * CHUNK))
    blobs = [FileBlob.at(path) for path in paths]
    for blob in blobs:
        assert blob.descriptor
    paths[1].write_bytes(b"changed")
    with strict_registry() as registry:
        with pytest.raises(TransferError, match="changed while"):
            push_blobs(blobs, remote(registry, access), 2)
        assert len(registry.blobs("a/b")) < len(blobs) - 1


def test_tags_come_in_pages(access: Access) -> None:
    with strict_registry(page=2) as registry:
        manifest = make_manifest(BytesBlob.of(IMAGE_CONFIG, b"{}").descriptor, [], {})
        place = remote(registry, access)
        place.push(BytesBlob.of(IMAGE_CONFIG, b"{}"))
        for number in range(7):
            place.tag(manifest, f"v{number}")
        assert place.tags() == [f"v{number}" for number in range(7)]


REFERRERS = {"api": STRICT, "none": replace(STRICT, referrers="none"), "a page for people": GHCR}


@pytest.mark.parametrize("kind", REFERRERS)
@pytest.mark.parametrize("etag", [False, True])
def test_referrers(kind: str, etag: bool, access: Access) -> None:
    with strict_registry(replace(REFERRERS[kind], etag=etag, page=1)) as registry:
        place = remote(registry, access)
        config = BytesBlob.of("application/vnd.example.card+json", b"{}")
        place.push(config)
        subject = make_manifest(config.descriptor, [], {})
        assert place.referrers(subject.descriptor.digest) == ()
        place.put(subject)
        cards = [
            make_manifest(config.descriptor, [], {"number": str(number)}, "application/vnd.example", subject.descriptor)
            for number in range(3)
        ]
        for card in cards:
            assert place.put(card)
        found = place.referrers(subject.descriptor.digest)
        assert {(entry.digest, entry.annotations["number"]) for entry in found} == {
            (card.descriptor.digest, str(number)) for number, card in enumerate(cards)
        }
        assert {entry.artifact_type for entry in found} == {"application/vnd.example"}
        has_fallback = fallback_tag(subject.descriptor.digest) in registry.tags("a/b")
        assert has_fallback == (kind != "api")
        assert registry.problems() == []


def test_a_referrer_whose_writer_was_killed_is_listed_by_the_next(access: Access) -> None:
    with strict_registry(replace(STRICT, referrers="none")) as registry:
        place = remote(registry, access)
        config = BytesBlob.of("application/vnd.example.card+json", b"{}")
        place.push(config)
        subject = make_manifest(config.descriptor, [], {})
        place.put(subject)
        card = make_manifest(config.descriptor, [], {}, "application/vnd.example", subject.descriptor)
        registry.put_manifest("a/b", json.loads(card.raw))
        if card.descriptor.digest not in registry.manifests("a/b"):  # byte for byte as we would have put it
            place.calls.call(
                "PUT", f"manifests/{card.descriptor.digest}", "", {"Content-Type": card.media_type}, card.raw
            )
        assert place.referrers(subject.descriptor.digest) == ()
        assert place.put(card)
        assert [entry.digest for entry in place.referrers(subject.descriptor.digest)] == [card.descriptor.digest]
        assert not place.put(card)


def test_many_referrers(access: Access) -> None:
    with strict_registry(replace(STRICT, referrers="none")) as registry:
        place = remote(registry, access)
        config = BytesBlob.of("application/vnd.example.card+json", b"{}")
        place.push(config)
        subject = make_manifest(config.descriptor, [], {})
        place.put(subject)
        others = [make_manifest(config.descriptor, [], {"n": str(n)}) for n in range(120)]
        index = make_index([other.descriptor for other in others], {})
        for manifest in others:
            place.put(manifest)
        place._put_manifest(index, fallback_tag(subject.descriptor.digest))
        card = make_manifest(config.descriptor, [], {}, "application/vnd.example", subject.descriptor)
        place.put(card)
        assert len(place.referrers(subject.descriptor.digest)) == 121


def test_what_is_no_list_of_referrers_is_none(access: Access) -> None:
    """Some servers answer every path with some JSON."""
    digest = digest_of(b"subject")
    with strict_registry(replace(STRICT, referrers="none")) as registry:
        place = remote(registry, access)
        entry = Descriptor(MANIFEST, digest_of(b"card"), 1, {}, "text/x")
        registry.put_manifest("a/b", json.loads(make_index([entry], {}).raw), fallback_tag(digest))
        place.calls.pages = lambda path, origin: iter([{"message": "ok"}])  # type: ignore[method-assign]
        assert place.referrers(digest) == (entry,)


def test_warnings_of_a_registry_are_shown_once(access: Access, blob: FileBlob, notes: list[str]) -> None:
    text = '299 - "this registry closes on Friday"'
    with strict_registry(authorize=lambda *_: (404, {"Warning": text})) as registry:
        place = remote(registry, access)
        assert not place.has(blob.descriptor.digest)
        assert not place.has(blob.descriptor.digest)
    assert [note for note in notes if "closes on Friday" in note] == [
        f"{registry.address} warns: this registry closes on Friday"
    ]


def test_patience_counts_pauses_and_not_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload of an hour that breaks is worth another try."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    patience = Patience(Retry(count=6, first=1, most=30, total=300))
    for _ in range(6):
        patience.wait(TransferError("it broke").passing())
    with pytest.raises(TransferError, match="it broke"):
        patience.wait(TransferError("it broke").passing())
    short = Patience(Retry(count=100, first=10, most=10, total=25))
    with pytest.raises(TransferError):
        for _ in range(6):
            short.wait(TransferError("it broke").passing())


def test_what_goes_on_in_the_middle_can_be_stopped_too(blob: FileBlob) -> None:
    stop = Event()
    checked = Stoppable(CheckedBlob(blob, "here"), stop)
    with Outflow(checked, blob.size) as outflow:
        assert bytes(next(outflow.take(5, 10))) == blob.path.read_bytes()[5:10]
    stop.set()
    with Outflow(checked, blob.size) as outflow, pytest.raises(PackerError, match="stopped"):
        next(outflow.take(5, 10))


def test_a_file_that_cannot_be_read_is_not_the_networks_fault(access: Access, tmp_path: Path) -> None:
    class Broken(BytesBlob):
        def open(self) -> BinaryIO:
            raise OSError(errno.EIO, "Input/output error", "weights")

    data = b"x" * 10
    with strict_registry() as registry, pytest.raises(TransferError, match="a file cannot be read") as caught:
        remote(registry, access).push(Broken(BytesBlob.of(OCTETS, data).descriptor, data))
    assert caught.value.retry_after is None


def test_copies_take_referrers_along_and_touch_no_disk(access: Access, tmp_path: Path, blob: FileBlob) -> None:
    with strict_registry() as one, strict_registry(replace(STRICT, referrers="none")) as other:
        source, target = remote(one, access), remote(other, access)
        config = BytesBlob.of(IMAGE_CONFIG, encode({"os": "linux", "architecture": "amd64"}))
        push_blobs([config, blob], source, 2)
        image = make_manifest(config.descriptor, [blob.descriptor], {})
        index = make_index([image.descriptor], {})
        card = make_manifest(config.descriptor, [], {"kind": "card"}, "application/vnd.example", image.descriptor)
        about = make_manifest(config.descriptor, [], {"kind": "about"}, "application/vnd.example", card.descriptor)
        for manifest in (image, index, card, about):
            source.put(manifest)
        source.tag(index, "v1")
        cargo = with_referrers(source, [graph_at(source, source.resolve("v1"))])
        traffic, is_new = deliver(cargo, target, 2)
        assert (traffic.blobs_sent, is_new) == (2, True)
        assert other.blobs("a/b") == one.blobs("a/b")
        assert [entry.digest for entry in target.referrers(image.descriptor.digest)] == [card.descriptor.digest]
        assert [entry.digest for entry in target.referrers(card.descriptor.digest)] == [about.descriptor.digest]
        assert other.problems() == []
        # and into a layout and out of it
        layout = Layout(tmp_path / "layout")
        deliver(cargo, layout, 2)
        layout.tag(index, "v1")
        assert [entry.digest for entry in layout.referrers(image.descriptor.digest)] == [card.descriptor.digest]
        again = with_referrers(layout, [graph_at(layout, layout.resolve("v1"))])
        assert {entry.root.descriptor.digest for entry in again.graphs} == {
            entry.root.descriptor.digest for entry in cargo.graphs
        }


def test_a_download_that_breaks_is_taken_up(access: Access, blob: FileBlob) -> None:
    from tests.parts.proxy import counting_proxy

    with strict_registry() as registry, counting_proxy(registry.address) as wire:
        remote(registry, access).push(blob)
        wire.cuts.extend([100_000, 300_000])
        place = Remote(wire.address, "a/b", access, plain_http=True)
        with place.blob(blob.descriptor).open() as stream:
            assert hashlib.sha256(stream.read()).hexdigest() == blob.descriptor.digest.removeprefix("sha256:")
        assert not wire.cuts


def test_memory_of_digests(tmp_path: Path) -> None:
    path, reads = tmp_path / "file", list[int]()
    path.write_bytes(b"some bytes")

    def digest() -> Digest:
        def compute() -> Digest:
            reads.append(1)
            return digest_of(path.read_bytes())

        return Memory(tmp_path / "memory.db").digest(mark_of(FileBlob.at(path)), compute)

    assert digest() == digest() == digest_of(b"some bytes")
    assert len(reads) == 1
    os.utime(path, ns=(1, 1))
    assert digest() == digest_of(b"some bytes")
    assert len(reads) == 2
    path.write_bytes(b"same bytes")
    os.utime(path, ns=(1, 1))  # size and time are as they were
    assert digest() == digest_of(b"same bytes")
    assert mark_of(BytesBlob.of(OCTETS, b"a")) != mark_of(BytesBlob.of(OCTETS, b"b"))


def test_a_memory_that_cannot_be_used_is_told_and_forgotten(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "memory.db").write_bytes(b"this is no database" * 100)
    memory = Memory(tmp_path / "memory.db", notes.append)
    assert memory.places("root", digest_of(b"")) == []
    memory.saw("root", "a/b", digest_of(b""))
    assert len(notes) == 1
    assert "nothing will be remembered" in notes[0]


def test_a_memory_that_cannot_be_used_fails_nobody_who_waits_for_it(tmp_path: Path) -> None:
    """Another thread asks while the first one finds out."""
    (tmp_path / "file").touch()
    answers: list[list[str]] = []
    other = Thread(target=lambda: answers.append(memory.places("root", digest_of(b""))))

    def log(text: str) -> None:
        other.start()
        other.join(0.2)

    memory = Memory(tmp_path / "file" / "memory.db", log)
    assert memory.places("root", digest_of(b"")) == []
    other.join()
    assert answers == [[]]


@pytest.fixture
def elsewhere() -> Iterator[StrictRegistry]:
    with strict_registry(replace(STRICT, redirects=True)) as registry:
        yield registry


def test_content_elsewhere_comes_without_our_login(elsewhere: StrictRegistry, access: Access, blob: FileBlob) -> None:
    place = remote(elsewhere, access)
    place.push(blob)
    with place.blob(blob.descriptor).open() as stream:
        assert stream.read() == blob.path.read_bytes()
    assert elsewhere.storage_requests
