"""The listener's HTTP side on loopback, with a real server and a real store, and requests as a sender makes them."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packer.listener.builds import Builds
from packer.listener.config import Config, Hook, Login, Secret
from packer.listener.store import Store
from packer.listener.web.app import create_app
from packer.listener.web.server import Server
from registry.events import ADAPTERS
from registry.events.trust import DEFAULTS, Signature, Trust

SECRET = b"correct horse battery staple"
ENDING = b"kZ3vQ9.unguessable"
PASSWORD = "pa:ss wörd".encode()


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Listening:
    """A listener that runs. `said` is what it logged, `woken` has an item for each time that it was woken."""

    folder: Path
    store: Store
    port: int
    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    woken: list[None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        """The answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def send(self, kind: str, body: Any, **headers: str) -> Answer:
        """The answer to a genuine delivery."""
        return self.ask(address(kind), "POST", body, **{**proof(kind, body), **headers})


def address(kind: str) -> str:
    """Where deliveries of a kind go."""
    return f"/hooks/{kind}" + (f"/{ENDING.decode()}" if DEFAULTS[kind] is None else "")


def proof(kind: str, body: Any, secret: bytes = SECRET) -> dict[str, str]:
    """The header that shows the secret."""
    way = DEFAULTS[kind]
    if way is None:
        return {}
    if way.way is Signature:
        whole = body if isinstance(body, bytes) else b"".join(body)
        return {way.header: f"sha256={hmac.new(secret, whole, hashlib.sha256).hexdigest()}"}
    return {way.header: secret.decode()}


def told(folder: Path, *, rate: int = 100_000, login: bool = False, more: tuple[Hook, ...] = ()) -> Config:
    """A configuration with a hook for every kind."""
    secret = Secret(from_env="UNUSED")
    hooks = (
        Hook(kind=kind, path=f"/hooks/{kind}", secret=secret, unguessable=DEFAULTS[kind] is None, rate=rate)
        for kind in ADAPTERS
    )
    account = Login(user="operator", password=secret) if login else None
    return Config(builds=(str(folder / "models/*/packer.yaml"),), sources=(*hooks, *more), login=account)


@contextmanager
def listening(folder: Path, config: Config | None = None, *, host: str = "127.0.0.1") -> Iterator[Listening]:
    """A listener whose store and logs are in a folder."""
    config = config or told(folder)
    trusts: dict[str, Trust | None] = {
        hook.path: way.trust(SECRET) if hook.secret and (way := DEFAULTS[hook.kind]) else None
        for hook in config.sources
    }
    unguessable = {hook.path: ENDING for hook in config.sources if hook.unguessable}
    said: list[tuple[str, dict[str, Any]]] = []
    woken: list[None] = []
    store = Store(f"sqlite:///{folder / 'listener.db'}")
    app = create_app(
        config,
        store,
        Builds(config.builds),
        trusts,
        unguessable,
        folder / "runs",
        PASSWORD if config.login else None,
        lambda: woken.append(None),
        log=lambda what, **members: said.append((what, members)),
    )
    try:
        with Server(app, host, 0).running() as port:
            yield Listening(folder, store, port, said, woken)
    finally:
        store.close()
