"""HTTP as this project speaks it: streamed, with a time limit, and with credentials that stay at home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import urllib3.exceptions
from requests.adapters import HTTPAdapter

from registry.blob import CHUNK
from registry.errors import ContentError, TransferError
from registry.ranged import Answer

if TYPE_CHECKING:
    import requests

_TIMEOUT = (10.0, 120.0)
"""Seconds: to connect, and between two bytes of an answer."""


def prepare(session: requests.Session) -> requests.Session:
    """The session with time limits, which neither asks ~/.netrc nor takes a login along to another server."""
    session.auth = _no_netrc
    session.rebuild_auth = _forget_login  # type: ignore[method-assign]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _Adapter(HTTPAdapter):
    """Large writes and a time limit for every request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, blocksize=CHUNK)

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or _TIMEOUT
        return super().send(request, *args, **kwargs)


class Body:
    """The body of an answer as a stream whose failures are `TransferError`s."""

    def __init__(self, response: requests.Response, origin: str) -> None:
        self._response, self._origin = response, origin

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        try:
            return cast(bytes, self._response.raw.read(size, decode_content=True))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransferError(
                f"the connection broke while the content came ({error})", subject=self._origin, hint="run it again"
            ) from error

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()


def range_header(start: int, end: int) -> dict[str, str]:
    """The headers that ask for the bytes from `start` up to `end`, as they are (RFC 9110, section 14.2)."""
    return {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}


def range_answer(response: requests.Response, start: int, end: int, size: int, origin: str) -> Answer:
    """What came for `range_header`, of a content of `size` bytes; `ContentError` if it is something else.

    RFC 9110, sections 14.4 and 15.3.7. A server that ignores Range sends the whole, and says so by its length.
    """
    is_partial = response.status_code == 206
    if is_partial:
        expected, found = f"bytes {start}-{end - 1}/{size}", response.headers.get("Content-Range", "no Content-Range")
        is_right = found in (expected, f"bytes {start}-{end - 1}/*")
    else:
        expected, found = f"{size} bytes", f"{response.headers.get('Content-Length', size)} bytes"
        is_right = found == expected or "Content-Encoding" in response.headers
    if not is_right:
        response.close()
        what = "the server sent another range" if is_partial else "the server sent something else than this content"
        raise ContentError(what, subject=origin, expected=expected, found=found[:200])
    return Answer(cast(BinaryIO, Body(response, origin)), is_partial)


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands where requests would put what ~/.netrc says, over the login that the server asked for."""
    return request


def _forget_login(request: requests.PreparedRequest, response: requests.Response) -> None:
    """Stands where requests decides what a redirect takes along: nothing, if it leads to another server."""
    if urlsplit(str(request.url))[:2] != urlsplit(response.url)[:2]:
        request.headers.pop("Authorization", None)
