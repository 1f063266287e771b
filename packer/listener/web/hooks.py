"""What senders call: who they are is judged first, then what they say is read, kept, and acknowledged."""

from __future__ import annotations

import hmac
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import FastAPI, Request  # noqa: TC002 - FastAPI reads the annotations
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from pydantic import BaseModel

from packer.listener.config import Hook
from packer.listener.records import Arrival
from packer.listener.web.body import read_body
from packer.listener.web.keeper import Keeper
from packer.listener.web.refusals import RefusedError, described
from registry.errors import ContentError
from registry.events import ADAPTERS
from registry.events.change import Delivery
from registry.events.trust import DEFAULTS, Trust

_T = TypeVar("_T")
_MINUTE = RateLimitItemPerMinute
_LOGGED = _MINUTE(30)
"""Refusals of a path that are logged, at most."""

_LIGHT = 64 << 10
"""Bytes of a body that is read without letting others go first."""

_TAKEN = "Kept. A delivery that came before has the number that it had; one with nothing to act on has none."
_ANY: dict[str, Any] = {"type": "object", "description": "What the sender sends."}
_PLAIN: dict[str, Any] = {
    "type": "object",
    "required": ["build"],
    "properties": {
        "build": {"type": "string", "minLength": 1, "maxLength": 200, "description": "The name of a build."},
        "id": {"type": ["string", "null"], "description": "The same when it is sent again."},
    },
}


class Taken(BaseModel):
    """A delivery that was understood: the number of its event, None without anything to act on; whether it is new."""

    event: int | None
    new: bool


@dataclass(frozen=True)
class Door:
    """A hook, and what its senders have to know: something they show, or the last part of the address."""

    hook: Hook
    trust: Trust | None
    ending: bytes | None = field(repr=False)

    @property
    def address(self) -> str:
        """The address that is routed."""
        return self.hook.path if self.ending is None else f"{self.hook.path}/{{secret:path}}"

    def knows(self, ending: str) -> bool:
        """Whether an address ends as it should, found out in a time that does not tell it."""
        digests = (sha256(text).digest() for text in (ending.encode("utf-8", "surrogatepass"), self.ending or b""))
        return hmac.compare_digest(*digests)


@dataclass(frozen=True)
class Hooks:
    """Takes deliveries. `counts` are those without a new event, by kind and result; `refused`, by path and reason."""

    keeper: Keeper
    wake: Callable[[], None]
    clock: Callable[[], float]
    log: Callable[..., None]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    _rates: SlidingWindowCounterRateLimiter = field(
        default_factory=lambda: SlidingWindowCounterRateLimiter(MemoryStorage()), repr=False
    )

    def add(self, app: FastAPI, door: Door) -> None:
        """Give a hook its address."""

        async def take(request: Request, secret: str = "") -> Taken:
            return await self._counted(door, request, secret)

        name = door.hook.path.removeprefix("/")
        unknown = 401 if door.ending is None else 404
        app.add_api_route(
            door.address,
            take if door.ending is not None else _without_secret(take),
            methods=["POST"],
            status_code=202,
            response_description=_TAKEN,
            responses=described(400, unknown, 408, 413, 429, 503),
            openapi_extra={"requestBody": _body(door.hook.kind)},
            name=name,
            operation_id=name.replace("/", "_"),
            summary=f"A delivery of {door.hook.kind}",
            tags=["hooks"],
        )

    async def _counted(self, door: Door, request: Request, ending: str) -> Taken:
        try:
            return await self._take(door, request, ending)
        except RefusedError as error:
            path = door.hook.path
            self.refused[path, error.reason] += 1
            if await self._rates.hit(_LOGGED, path, "logged"):
                self.log("refused", path=path, status=error.status, reason=error.reason, why=error.text)
            raise

    async def _take(self, door: Door, request: Request, ending: str) -> Taken:
        body = await read_body(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        knows = door.ending is None or door.knows(ending)
        is_known = knows and (not door.trust or await _off(body, door.trust.judge, headers, body))
        await self._limit(door.hook, "known" if is_known else "unknown")
        if not is_known:
            raise _unknown(door, headers)
        return await self._keep(door.hook, await _off(body, _read, door.hook.kind, headers, body))

    async def _keep(self, hook: Hook, delivery: Delivery) -> Taken:
        if not delivery.changes:
            self.counts[hook.kind, "nothing"] += 1
            return Taken(event=None, new=False)
        number, is_new = await self.keeper.keep(Arrival(hook.path, hook.kind, delivery, self.clock()))
        if is_new:
            self.wake()
            self.log("accepted", event=number, path=hook.path, kind=hook.kind)
        else:
            self.counts[hook.kind, "repeated"] += 1
        return Taken(event=number, new=is_new)

    async def _limit(self, hook: Hook, who: str) -> None:
        """Strangers have a rate of their own, so that they cannot use up that of the sender."""
        rate = _MINUTE(hook.rate)
        if not await self._rates.hit(rate, hook.path, who):
            reset = (await self._rates.get_window_stats(rate, hook.path, who)).reset_time
            wait = max(1, min(60, math.ceil(reset - time.time())))
            raise RefusedError(429, "rate", f"more than {hook.rate} requests a minute", retry_after=wait)


async def _off(body: bytes, work: Callable[..., _T], *arguments: Any) -> _T:
    """The result of some work, done in a thread where the body is so large that others would wait for it."""
    return work(*arguments) if len(body) <= _LIGHT else await anyio.to_thread.run_sync(work, *arguments)


def _body(kind: str) -> dict[str, Any]:
    """A kind's body for the API's description."""
    schema = _PLAIN if kind == "plain" else _ANY
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _without_secret(take: Callable[..., Any]) -> Callable[..., Any]:
    async def take_all(request: Request) -> Taken:
        taken: Taken = await take(request)
        return taken

    return take_all


def _unknown(door: Door, headers: Mapping[str, str]) -> RefusedError:
    """What a stranger hears: where the address is the secret, there is nothing at another one."""
    if door.ending is not None:
        return RefusedError(404, "unauthorized")
    proof, secret = DEFAULTS[door.hook.kind], door.hook.secret
    name = (secret and secret.header) or (proof.header if proof else "")
    what = "wrong" if name.lower() in headers else "missing"
    return RefusedError(401, "unauthorized", f"{name}: the secret or the signature is {what}")


def _read(kind: str, headers: Mapping[str, str], body: bytes) -> Delivery:
    try:
        return ADAPTERS[kind](headers, body)
    except ContentError as error:
        raise RefusedError(400, "malformed", " ".join(str(error).split())) from None
