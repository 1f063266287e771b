"""Our own event, for whoever has no other: `{"build": NAME}`, with an `id` if it may be sent again."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Change, Delivery
from registry.events.names import identity, printable
from registry.events.payload import read


def plain(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """The build that is asked for."""
    event = read(body)
    build = event.text("build")
    if not printable(build):
        event.refuse("the name of a build", build, "build")
    return Delivery(identity(event.optional("id")), (Change("build", build),))
