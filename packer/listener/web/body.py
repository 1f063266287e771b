"""Bodies of requests, with bounds on what they take: memory and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from packer.listener.web.refusals import RefusedError
from registry.events.payload import MAX_BODY

PATIENCE = 10.0
"""Seconds that a body may take."""

MAX_DRAINED = 16 << 20
"""Bytes that are taken and thrown away, so that whoever sends too much hears that it is too much."""

_TOO_LARGE = f"the body has more than {MAX_BODY} bytes"


async def read_body(request: Request) -> bytes:
    """The body, of at most `MAX_BODY` bytes within `PATIENCE` seconds; `RefusedError` otherwise."""
    _check_length(request)
    try:
        async with asyncio.timeout(PATIENCE):
            return await _read(request)
    except TimeoutError:
        text = f"the body did not come within {PATIENCE:g} seconds"
        raise RefusedError(408, "slow", text, is_last=True) from None
    except ClientDisconnect:
        raise RefusedError(400, "cut", "the body ended early", is_last=True) from None


def _check_length(request: Request) -> None:
    """Refuse at once what is not worth being read to its end."""
    length = request.headers.get("content-length", "")
    bound = MAX_BODY if "expect" in request.headers else MAX_DRAINED
    if length.isdecimal() and (len(length) > 18 or int(length) > bound):
        raise RefusedError(413, "too_large", _TOO_LARGE, is_last=True)


async def _read(request: Request) -> bytes:
    body, received = bytearray(), 0
    async for piece in request.stream():
        received += len(piece)
        if received <= MAX_BODY:
            body += piece
        elif received > MAX_DRAINED:
            break
    if received > MAX_BODY:
        raise RefusedError(413, "too_large", _TOO_LARGE, is_last=True)
    return bytes(body)
