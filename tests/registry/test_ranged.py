"""Ranges of blobs far away: what a file would give, at a bounded cost, from servers of every kind."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import ranged
from registry.access import Access
from registry.blob import Blob, BytesBlob, FileBlob
from registry.descriptor import OCTETS, Descriptor, digest_of
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError
from registry.ranged import Allowance, Answer, RangedBlob
from registry.remote import Remote
from tests.parts.proxy import Wire, counting_proxy
from tests.parts.servers import Server

DATA = os.urandom(700_000)


def far(
    data: bytes, *, ranges: bool = True, log: list[int] | None = None, allowance: Allowance | None = None
) -> RangedBlob:
    """A blob as a server would give it; a double, for what is counted to the byte."""

    def request(start: int, end: int) -> Answer:
        if log is not None:
            log.append(end - start)
        return Answer(io.BytesIO(data[start:end] if ranges else data), ranges)

    return RangedBlob(request, len(data), "far/away", "fetch it whole", allowance=allowance or Allowance())


@pytest.fixture
def wire(registry: Server) -> Iterator[Wire]:
    with counting_proxy(registry.address) as proxy:
        yield proxy


PLACES = st.tuples(st.sampled_from((io.SEEK_SET, io.SEEK_CUR, io.SEEK_END)), st.integers(-100, 800_000))
STEPS = st.lists(st.tuples(PLACES, st.integers(0, 150_000)))


@settings(deadline=None)
@given(STEPS, st.booleans())
def test_every_seek_and_read_is_that_of_a_file(steps: list[tuple[tuple[int, int], int]], ranges: bool) -> None:
    with far(DATA, ranges=ranges).open() as ours, io.BytesIO(DATA) as theirs:
        for (whence, offset), size in steps:
            base = {io.SEEK_SET: 0, io.SEEK_CUR: theirs.tell(), io.SEEK_END: len(DATA)}[whence]
            place = max(base + offset, 0)
            assert ours.seek(place) == theirs.seek(place)
            assert ours.read(size) == theirs.read(size)


def test_what_is_asked_for() -> None:
    """The first window for both streams, a long read at once, and little after a jump."""
    log: list[int] = []
    blob = far(DATA, log=log)
    for _ in range(2):
        with blob.open() as stream:
            assert stream.read(50_000) == DATA[:50_000]
    assert log == [ranged.WINDOW]
    with blob.open() as stream:
        stream.seek(100_000)
        assert stream.read(500_000) == DATA[100_000:600_000]
        assert len(log) <= 3
        stream.seek(650_000)
        assert stream.read(512) == DATA[650_000:650_512]
    assert log[-1] == ranged.BUFFER


def test_no_request_is_larger_than_the_bound() -> None:
    log: list[int] = []
    data = bytes(3 * ranged.MAX_REQUEST)
    with far(data, log=log).open() as stream:
        assert len(stream.read(len(data))) == len(data)
    assert max(log) == ranged.MAX_REQUEST


def test_several_blobs_are_asked_for_at_the_same_time() -> None:
    """Each request waits for seven others: were one blob to wait for another, none would ever come."""
    others = threading.Barrier(8)

    def request(start: int, end: int) -> Answer:
        others.wait(timeout=20)
        return Answer(io.BytesIO(DATA[start:end]), is_partial=True)

    blobs = [RangedBlob(request, len(DATA), "far/away", "") for _ in range(8)]

    def first(blob: RangedBlob) -> bytes:
        with blob.open() as stream:
            return stream.read(8)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(first, blobs)) == {DATA[:8]}


def test_a_blob_of_a_registry(registry: Server, wire: Wire, tmp_path: Path) -> None:
    blob = BytesBlob.of(OCTETS, DATA)
    Remote(registry.address, "ranged/real", Access(), plain_http=True).push(blob)
    remote = Remote(wire.address, "ranged/real", Access(), plain_http=True)
    assert remote.ranged(blob.descriptor).descriptor == blob.descriptor
    with remote.ranged(blob.descriptor).open() as stream:
        assert stream.read(10) == DATA[:10]
        stream.seek(-10, io.SEEK_END)
        assert stream.read() == DATA[-10:]
    assert wire.bytes_down < 2 * ranged.WINDOW
    with pytest.raises(NotFoundError), remote.ranged(Descriptor(OCTETS, digest_of(b"never"), 5)).open() as stream:
        stream.read(1)


@pytest.fixture
def large(registry: Server, tmp_path: Path) -> Descriptor:
    """A blob of 100 MiB in the registry."""
    (tmp_path / "large").write_bytes(b"header")
    os.truncate(tmp_path / "large", 100 << 20)
    blob = FileBlob.at(tmp_path / "large")
    Remote(registry.address, "ranged/large", Access(), plain_http=True).push(blob)
    return blob.descriptor


def test_a_registry_without_range(wire: Wire, large: Descriptor) -> None:
    """Headers at the front come; what lies deeper is refused before it is fetched, with the price and the way."""
    wire.drops_range = True
    with Remote(wire.address, "ranged/large", Access(), plain_http=True).ranged(large).open() as stream:
        assert stream.read(6) == b"header"
        stream.seek(40 << 10)
        assert stream.read(80 << 10) == bytes(80 << 10)
        stream.seek(-1024, io.SEEK_END)
        with pytest.raises(ResponseError, match=r"does not answer Range requests.* 100 MiB") as caught:
            stream.read(512)
    assert f"packer pull {wire.address}/ranged/large" in caught.value.hint
    assert wire.bytes_down < 50 << 20


def test_streams_of_one_blob_share_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "MAX_UNRANGED", 1 << 20)
    blob = far(DATA, ranges=False)
    with blob.open() as stream:
        stream.seek(600_000)
        assert stream.read(10) == DATA[600_000:600_010]
    with blob.open() as stream, pytest.raises(ResponseError, match="fetch the whole"):
        stream.seek(600_000)
        stream.read(10)


def test_blobs_of_one_source_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "MAX_UNRANGED_IN_ALL", 3 << 20)
    allowance = Allowance()
    with pytest.raises(ResponseError, match="fetch the whole"):
        for _ in range(5):
            with far(DATA, ranges=False, allowance=allowance).open() as stream:
                stream.seek(690_000)
                assert stream.read(10) == DATA[690_000:690_010]
    monkeypatch.setattr(ranged, "MAX_UNRANGED_IN_ALL", 4 << 20)
    allowance = Allowance()
    for _ in range(5):
        with far(DATA, ranges=False, allowance=allowance).open() as stream:
            stream.seek(690_000)
            assert stream.read(10) == DATA[690_000:690_010]


def test_a_connection_that_breaks_once_and_one_that_always_does(registry: Server, wire: Wire) -> None:
    blob = BytesBlob.of(OCTETS, DATA)
    Remote(registry.address, "ranged/cut", Access(), plain_http=True).push(blob)
    far_away = Remote(wire.address, "ranged/cut", Access(), plain_http=True).ranged(blob.descriptor)
    wire.cuts = [2000]
    with far_away.open() as stream:
        assert stream.read(50_000) == DATA[:50_000]
        assert wire.cuts == []
        wire.cuts = [2000, 2000, 2000]
        stream.seek(200_000)
        with pytest.raises(TransferError, match="broke") as caught:
            stream.read(50_000)
    assert (type(caught.value), wire.cuts) == (TransferError, [2000])


Reply = Callable[[int, int], tuple[int, dict[str, str], bytes]]


@contextmanager
def lying(reply: Reply, seen: list[dict[str, str]]) -> Iterator[str]:
    """A server that answers the range from the first byte to the second as `reply` says; no real one lies."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            status, headers, body = reply(int(first), int(last))
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def partial(first: int, last: int, total: object = len(DATA)) -> tuple[int, dict[str, str], bytes]:
    return 206, {"Content-Range": f"bytes {first}-{last}/{total}"}, DATA[first : last + 1]


def view(host: str) -> Blob:
    """The blob in a registry at `host`."""
    return Remote(host, "a/b", Access(), plain_http=True).ranged(Descriptor(OCTETS, digest_of(DATA), len(DATA)))


@pytest.mark.parametrize("total", [len(DATA), "*"])
def test_a_server_that_does_not_lie(total: object) -> None:
    with lying(lambda first, last: partial(first, last, total), []) as host, view(host).open() as stream:
        assert stream.read(100_000) == DATA[:100_000]


LIES: dict[str, Reply] = {
    "later": lambda first, last: partial(first + 1, last),
    "longer": lambda first, last: partial(first, len(DATA) - 1),
    "shorter": lambda first, last: partial(first, last - 1),
    "another-content": lambda first, last: partial(first, last, len(DATA) + 1),
    "unsaid": lambda first, last: (206, {}, DATA[first : last + 1]),
    "a-login-page": lambda first, last: (200, {}, b"<html>please log in</html>"),
}


@pytest.mark.parametrize("lie", LIES)
def test_other_bytes_than_were_asked_for_are_refused(lie: str) -> None:
    """They would be judged as the model, and the model be blamed."""
    seen: list[dict[str, str]] = []
    with (
        lying(LIES[lie], seen) as host,
        view(host).open() as stream,
        pytest.raises(ContentError, match="the server sent") as caught,
    ):
        stream.read(10)
    assert (caught.value.expected is not None, caught.value.found is not None, len(seen)) == (True, True, 1)


def test_a_range_goes_along_to_where_the_content_lies() -> None:
    asked: list[dict[str, str]] = []
    stored: list[dict[str, str]] = []
    with ExitStack() as stack:
        storage = stack.enter_context(lying(partial, stored))
        elsewhere = {"Location": f"http://{storage}/blob"}
        host = stack.enter_context(lying(lambda first, last: (307, elsewhere, b""), asked))
        with view(host).open() as stream:
            assert stream.read(10) == DATA[:10]
    assert [sent["Range"] for sent in (*asked, *stored)] == [f"bytes=0-{ranged.WINDOW - 1}"] * 2
