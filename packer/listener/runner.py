"""Who does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any, Protocol

from packer.listener.builds import Build
from packer.listener.records import Outcome, Run


class Tell(Protocol):
    """Keeps how far a run is. To be called every few seconds, so that others know that somebody cares for it."""

    def __call__(self, step: Mapping[str, Any] | None = None, changed: Sequence[str] = ()) -> None:
        """`step` has `stage`, `bytes` and `of` if they are known, and `text`; `changed` is what has changed."""


class Runner(Protocol):
    """Compares a build with its lock and, if something has changed, builds it."""

    def run(self, build: Build, run: Run, tell: Tell, stop: Event) -> Outcome:
        """How it ended; `RunState.INTERRUPTED` if `stop` was set before.

        `result` of the outcome has `variants`: by name ("" where there are none), each with `image` and `modelpack`
        (references pinned by digest, or None), `tags`, `verdict`, `retention` and `bytes` uploaded (None where not
        known), and `report`, whether there is a page about it.
        """
