"""Around everything: headers that keep browsers from doing harm, and a login for what people look at."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse

from packer.listener.web.refusals import TEXTS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALONE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; {_ALONE}"
"""What pages may do: use the files that lie beside them, and ask where they come from."""

REPORT_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; {_ALONE}"
"""What reports may do, which have their style and figures in them: nothing."""

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every answer that does not say otherwise."""

_OPEN = ("/healthz", "/readyz")
_ASK = {"WWW-Authenticate": 'Basic realm="packer", charset="UTF-8"'}


@dataclass(frozen=True)
class Account:
    """Who may look: a name and a password."""

    user: str
    password: bytes = field(repr=False)

    def admits(self, header: str) -> bool:
        """Whether an `Authorization` header (RFC 7617) is theirs, found out in a time that does not tell it."""
        scheme, _, encoded = header.partition(" ")
        try:
            found = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        expected = self.user.encode() + b":" + self.password
        same = hmac.compare_digest(sha256(found).digest(), sha256(expected).digest())
        return same and scheme.lower() == "basic"


@dataclass(frozen=True)
class Guard:
    """Serves an application behind a login, if there is one; senders and health checks do not need it."""

    app: ASGIApp
    account: Account | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI 3)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        served = self.app if self._may(scope) else JSONResponse({"error": TEXTS[401]}, 401, _ASK)
        await served(scope, receive, guarded)

    def _may(self, scope: Scope) -> bool:
        path = scope["path"]
        if self.account is None or path in _OPEN or path.startswith("/hooks/"):
            return True
        found = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(found) == 1 and self.account.admits(found[0].decode("latin-1"))
