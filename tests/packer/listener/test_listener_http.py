"""What the listener answers to senders: the right status, in one line, whatever they send; and nothing secret."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI

from packer.listener.config import Hook
from packer.listener.web import body as bodies
from packer.listener.web import server, stream
from packer.listener.web.server import Server
from registry.errors import UsageError
from registry.events import ADAPTERS
from registry.events.trust import DEFAULTS
from tests.parts.command import ROOT
from tests.parts.listening import ENDING, PASSWORD, SECRET, Listening, address, listening, proof, told

EXAMPLES = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "tests/registry/events").glob("*.yaml")}
ACTIVE = [name for name, example in EXAMPLES.items() if example.get("changes")]
WRONG = [b"", b"[]", b"null", b'"text"', b"17", b"{", b"\xff\xfe", b'{"a": NaN}', b"\x00", b"{}{}"]
NESTED = [b"[" * 10_000, b'{"a":' * 10_000, b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"]
TEN_MEGABYTES = b'{"build":"' + b"x" * 10_000_000 + b'"}'
MINE = b'{"build": "mine"}'


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(tmp_path_factory.mktemp("listener")) as found:
        yield found


def example(name: str) -> tuple[str, bytes, dict[str, str]]:
    """An example's kind, body, and headers but for the secret."""
    found = EXAMPLES[name]
    hidden = {proof.header.lower() for proof in DEFAULTS.values() if proof}
    headers = {key: value for key, value in found["headers"].items() if key.lower() not in hidden}
    return name.partition("-")[0], found["body"].encode(), headers


def is_one_line(answer: Any) -> bool:
    error = answer.document["error"]
    return (
        isinstance(error, str) and 0 < len(error) < 400 and error.isprintable() and list(answer.document) == ["error"]
    )


def count(listener: Listening) -> int:
    return next((event.id for event in listener.store.events(1)), 0)


def test_there_is_an_example_of_every_kind() -> None:
    assert {example(name)[0] for name in EXAMPLES} == set(ADAPTERS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_genuine_delivery_is_kept_once(tmp_path: Path, listener: Listening, name: str) -> None:
    kind, body, headers = example(name)
    before, woken = count(listener), len(listener.woken)
    first = listener.send(kind, body, **headers)
    again = listener.send(kind, body, **headers)
    assert (first.status, again.status) == (202, 202)
    if not EXAMPLES[name]["changes"]:
        assert first.document == again.document == {"event": None, "new": False}
        assert (count(listener), len(listener.woken)) == (before, woken)
    else:
        is_known = EXAMPLES[name]["identity"] is not None
        assert first.document == {"event": before + 1, "new": True}
        assert again.document == {"event": before + 1 if is_known else before + 2, "new": not is_known}
        assert len(listener.woken) == woken + (1 if is_known else 2)
        event = listener.store.event(before + 1)
        assert event and [change.reference for change in event.changes] == [
            change["reference"] for change in EXAMPLES[name]["changes"]
        ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_who_does_not_know_the_secret_is_not_heard(listener: Listening, name: str) -> None:
    kind, body, headers = example(name)
    before, changed = count(listener), body[:-1] + bytes([body[-1] ^ 1])
    expected = 404 if DEFAULTS[kind] is None else 401
    path = f"/hooks/{kind}"
    for shown in ({}, proof(kind, body, b"wrong"), proof(kind, body, SECRET[:-1]), proof(kind, b"another")):
        if shown != proof(kind, body) or expected == 404:
            answer = listener.ask(path, "POST", body, **headers, **shown)
            assert answer.status == expected and is_one_line(answer)
            said = f": the secret or the signature is {'wrong' if shown else 'missing'}"
            assert expected == 404 or answer.document["error"] == DEFAULTS[kind].header + said  # type: ignore[union-attr]
    if expected == 404:
        for ending in ("", "x", ENDING.decode()[:-1], ENDING.decode() + "x", "%00", "%ff", ENDING.decode().upper()):
            assert listener.ask(f"{path}/{ending}", "POST", body, **headers).status == 404
    elif "256" in DEFAULTS[kind].header:  # type: ignore[union-attr]
        assert listener.ask(path, "POST", changed, **headers, **proof(kind, body)).status == 401
    assert count(listener) == before


@pytest.mark.parametrize("name", ACTIVE)
def test_half_a_delivery_is_none(listener: Listening, name: str) -> None:
    kind, body, headers = example(name)
    before, whole = count(listener), body.rstrip()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        answer = listener.send(kind, whole[:length], **headers)
        assert answer.status == 400 and is_one_line(answer), answer
    assert count(listener) == before


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_no_sender_sends_is_refused_in_one_line(listener: Listening, kind: str) -> None:
    before = count(listener)
    _, _, headers = example(next(name for name in ACTIVE if name.startswith(kind)))
    for body in (*WRONG, *NESTED):
        answer = listener.send(kind, body, **headers)
        assert answer.status == 400 and is_one_line(answer), (body[:20], answer)
    assert count(listener) == before


@pytest.mark.parametrize("kind", ADAPTERS)
def test_ten_megabytes_are_too_much(listener: Listening, kind: str) -> None:
    pieces = [TEN_MEGABYTES[start : start + 65_536] for start in range(0, len(TEN_MEGABYTES), 65_536)]
    for body in (TEN_MEGABYTES, pieces):
        answer = listener.send(kind, body)
        assert answer.status == 413 and is_one_line(answer) and answer.headers["connection"] == "close"
    whole = b'{"build":"' + b"x" * ((1 << 20) - 12) + b'"}'
    assert listener.send(kind, whole).status == 400 and listener.send(kind, whole + b" ").status == 413
    assert listener.send("plain", MINE).status == 202


def test_who_asks_first_is_told_before_anything_is_sent(listener: Listening) -> None:
    head = b"POST /hooks/plain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    for length in (10_000_000, 10**17):
        assert talk(listener.port, head % length).startswith(b"HTTP/1.1 413 ")


def test_addresses_and_methods_that_there_are_not(listener: Listening) -> None:
    for path in (
        "/x",
        "/hooks",
        "/hooks/",
        "/hooks/nobody",
        "/hooks/plain/",
        "/static/../app.py",
        "/%00",
        "/%ff",
        "//",
    ):
        for method in ("GET", "POST"):
            assert listener.ask(path, method, b"" if method == "POST" else None).status == 404, path
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        assert listener.ask("/hooks/plain", method).status == 405
    for path in ("/", "/api/builds", "/metrics", "/healthz", "/stream"):
        answer = listener.ask(path, "POST", b"{}")
        assert answer.status == 405 and is_one_line(answer) and answer.headers["allow"] == "GET"


def test_a_rate_is_kept_and_strangers_do_not_use_up_that_of_the_sender(tmp_path: Path) -> None:
    with listening(tmp_path, told(tmp_path, rate=5)) as found:
        refused = [found.ask("/hooks/plain", "POST", MINE).status for _ in range(12)]
        assert set(refused) == {401, 429} and refused[0] == 401
        answers = [found.send("plain", MINE) for _ in range(12)]
        assert [answer.status for answer in answers[:5]] == [202] * 5
        late = next(answer for answer in answers if answer.status == 429)
        assert is_one_line(late) and 1 <= int(late.headers["retry-after"]) <= 60
        assert found.send("zot", b"{}").status == 400, "another path has its own"


def test_nothing_secret_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with listening(tmp_path, told(tmp_path, login=True)) as found:
        found.send("quay", b"{")
        found.send("plain", MINE)
        found.ask("/hooks/quay/almost-" + ENDING.decode(), "POST", b"{}")
        allowed = login()
        shown = [found.ask(path, **allowed) for path in ("/", "/events", "/metrics", "/openapi.json", "/api/events")]
        assert {answer.status for answer in shown} == {200}
        text = caplog.text + str(found.said) + "".join(answer.text for answer in shown)
    for secret in (SECRET.decode(), ENDING.decode(), PASSWORD.decode(), "almost-"):
        assert secret not in text
    assert [what for what, _ in found.said] == ["refused", "accepted", "refused"]


def login(user: str = "operator", password: bytes = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(user.encode() + b":" + password).decode()}


def test_a_login_is_asked_for_what_people_look_at_alone(tmp_path: Path) -> None:
    wrong: list[dict[str, str]] = [
        {},
        login(password=b"no"),
        login(user="Operator"),
        login(password=PASSWORD + b"x"),
        {"Authorization": "Basic \xff\xff"},
        {"Authorization": "Basic"},
        {"Authorization": login()["Authorization"].replace("Basic", "Bearer")},
    ]
    with listening(tmp_path, told(tmp_path, login=True)) as found:
        for path in (
            "/",
            "/events",
            "/nowhere",
            "/metrics",
            "/api/builds",
            "/openapi.json",
            "/stream",
            "/static/page.css",
        ):
            for headers in wrong:
                answer = found.ask(path, **headers)
                assert answer.status == 401 and is_one_line(answer)
                assert answer.headers["www-authenticate"].startswith("Basic ")
        assert found.ask("/", **login()).status == 200
        assert [found.ask(path).status for path in ("/healthz", "/readyz")] == [200, 200]
        assert found.send("plain", MINE).status == 202 and found.send("quay", b"{").status == 400


def test_every_answer_keeps_browsers_from_harm(listener: Listening) -> None:
    for path in ("/", "/nowhere", "/api/builds", "/metrics", "/static/page.js", "/hooks/plain", "/healthz"):
        headers = listener.ask(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "server" not in headers


def talk(port: int, *pieces: bytes, pause: float = 0) -> bytes:
    """What comes back over a connection on which these pieces are sent, until the other side ends it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        sender = threading.Thread(target=_send, args=(connection, pieces, pause))
        sender.start()
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                heard += piece
        sender.join()
        return heard


def _send(connection: socket.socket, pieces: tuple[bytes, ...], pause: float) -> None:
    with contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)


def test_slow_senders_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD", 1.0)
    monkeypatch.setattr(server, "BODY", 3.0)
    monkeypatch.setattr(bodies, "PATIENCE", 0.5)
    head = b"POST /hooks/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
    drip = [b"a: b\r\n"] * 600
    with listening(tmp_path) as found, ThreadPoolExecutor(6) as pool:
        of = {
            "head": pool.submit(talk, found.port, b"GET / HTTP/1.1\r\n", *drip, pause=0.05),
            "body": pool.submit(talk, found.port, head + b"\r\n", *drip, pause=0.05),
            "unread": pool.submit(talk, found.port, head.replace(b"hooks", b"nowhere") + b"\r\n", *drip, pause=0.05),
            "silent": pool.submit(talk, found.port, b""),
            "after": pool.submit(talk, found.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /", *drip, pause=0.05),
        }
        heard = {name: future.result() for name, future in of.items()}
        assert heard["head"].startswith(b"HTTP/1.1 408 ") and heard["body"].startswith(b"HTTP/1.1 408 ")
        assert heard["unread"].startswith(b"HTTP/1.1 404 ") and heard["silent"] == b""
        assert heard["after"].startswith(b"HTTP/1.1 200 ")
        assert found.ask("/healthz").status == 200 and count(found) == 0


def test_who_reads_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STUCK", 0.5)
    with listening(tmp_path) as found, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", found.port))
        with pytest.raises(OSError):
            for _ in range(100_000):
                connection.sendall(b"GET /static/page.css HTTP/1.1\r\nHost: x\r\n\r\n" * 10)


def test_of_too_many_connections_the_last_are_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    with listening(tmp_path) as found:
        idle = [socket.create_connection(("127.0.0.1", found.port), timeout=60) for _ in range(3)]
        answer = found.ask("/healthz")
        assert answer.status == 503 and answer.headers["connection"] == "close"
        for connection in idle:
            connection.close()
        while found.ask("/healthz").status != 200:
            time.sleep(0.05)


def test_what_is_no_http_is_refused_quietly(listener: Listening, caplog: pytest.LogCaptureFixture) -> None:
    chunked = b"POST /hooks/plain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pieces in (
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        [b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000],
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"POST /hooks/plain HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"],
        [b"POST /hooks/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"],
        [chunked + b"zz\r\n"],
        [chunked.replace(b"POST /hooks/plain", b"GET /nowhere"), b"5\r\nabc", b"zz", b"zz\r\n"],
    ):
        heard = talk(listener.port, *pieces, pause=0.05)
        assert not heard or heard.split()[1] in {b"400", b"404", b"413"}, heard
    assert "Traceback" not in caplog.text
    assert listener.ask("/healthz").status == 200


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with listening(tmp_path) as found:
        assert found.ask("/readyz").status == 200
        found.store.close()
        for file in tmp_path.glob("listener.db*"):
            file.unlink()
        (tmp_path / "listener.db").mkdir()
        for path in ("/readyz", "/", "/api/events", "/metrics"):
            answer = found.ask(path)
            assert answer.status == 503 and is_one_line(answer) and int(answer.headers["retry-after"])
        assert found.send("plain", MINE).status == 503
        assert found.ask("/healthz").status == 200


def test_changes_are_told_as_they_happen_until_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_LISTENERS", 2)
    monkeypatch.setattr(stream, "HEARTBEAT", 0.2)
    with listening(tmp_path) as found:
        connections = [socket.create_connection(("127.0.0.1", found.port), timeout=60) for _ in range(2)]
        readers = []
        for connection in connections:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            readers.append(connection.makefile("rb"))
            until(readers[-1], b"data: changed")
            until(readers[-1], b": alive")
        full = found.ask("/stream")
        assert full.status == 503 and int(full.headers["retry-after"])
        found.send("plain", MINE)
        for reader in readers:
            until(reader, b"data: changed")
    for reader, connection in zip(readers, connections, strict=True):
        reader.read()  # it ends
        reader.close()
        connection.close()


def until(reader: Any, line: bytes) -> None:
    while (found := reader.readline()).strip() != line:
        assert found, "the stream ended"


def test_a_listener_that_went_leaves_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LISTENERS", 1)
    monkeypatch.setattr(stream, "HEARTBEAT", 0.1)
    with listening(tmp_path) as found:
        for _ in range(3):
            heard = b""
            while not heard.startswith(b"HTTP/1.1 200"):
                with socket.create_connection(("127.0.0.1", found.port), timeout=60) as connection:
                    connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
                    heard = connection.recv(4096)


def test_it_listens_where_it_is_told(tmp_path: Path) -> None:
    with listening(tmp_path) as found:
        app = FastAPI()
        with (
            pytest.raises(UsageError, match="nothing can listen there: Address already in use\n"),
            Server(app, "127.0.0.1", found.port).running(),
        ):
            pass
    with pytest.raises(UsageError, match="nothing can listen there"), Server(app, "no.such.host.invalid", 0).running():
        pass
    with listening(tmp_path, host="") as everywhere:
        assert everywhere.ask("/healthz").status == 200
        if has_ipv6():
            socket.create_connection(("::1", everywhere.port), timeout=60).close()
    if has_ipv6():
        with listening(tmp_path, host="::1") as six:
            socket.create_connection(("::1", six.port), timeout=60).close()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_a_path_may_be_the_beginning_of_another(tmp_path: Path) -> None:
    more = (
        Hook(kind="quay", path="/hooks/a", unguessable=True),
        Hook(kind="plain", path="/hooks/a/b", insecure=True),
        Hook(kind="plain", path="/hooks/a/b/c", insecure=True),
    )
    with listening(tmp_path, told(tmp_path, more=more)) as found:
        for path in ("/hooks/a/b", "/hooks/a/b/c"):
            assert found.ask(path, "POST", MINE).status == 202
        assert found.ask(f"/hooks/a/{ENDING.decode()}", "POST", b"{").status == 400
        assert {event.path for event in found.store.events()} == {"/hooks/a/b", "/hooks/a/b/c"}


def test_the_description_is_that_of_the_hooks(listener: Listening) -> None:
    document = json.loads(listener.ask("/openapi.json").body)
    for kind in ADAPTERS:
        path = address(kind).replace(ENDING.decode(), "{secret}")
        statuses = set(document["paths"][path]["post"]["responses"])
        assert {"202", "400", "408", "413", "429"} < statuses
        assert ("404" if DEFAULTS[kind] is None else "401") in statuses


def test_what_comes_at_once_is_kept_once_each(listener: Listening) -> None:
    bodies_of = [json.dumps({"build": "mine", "id": f"at once {number % 20}"}).encode() for number in range(200)]
    before = count(listener)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda body: listener.send("plain", body), bodies_of))
    assert {answer.status for answer in answers} == {202}
    assert sum(answer.document["new"] for answer in answers) == 20 and count(listener) == before + 20
    numbers = {body: answer.document["event"] for body, answer in zip(bodies_of, answers, strict=True)}
    assert [numbers[body] for body in bodies_of] == [answer.document["event"] for answer in answers]
    assert len(set(numbers.values())) == 20
