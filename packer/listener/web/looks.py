"""How things stand: what an operator wants to know of a build, put together from what is remembered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from formats.text import printable
from packer.listener.builds import Build, Builds
from packer.listener.records import Run, RunState, Want
from packer.listener.store import Store


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_shown)]
"""A text of one line, whose characters can all be shown."""


class Variant(BaseModel):
    """What came of one variant of a build, "" where there are none.

    References are pinned by digest; `retention` is a share, `bytes` were sent; what is not known is null.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Text
    image: Text | None = None
    modelpack: Text | None = None
    tags: list[Text] = []
    verdict: Text | None = None
    retention: float | None = None
    bytes: int | None = None
    report: bool = False


def variants_of(run: Run | None) -> list[Variant]:
    """What came of each variant of a run, as far as it can be understood; nothing of one without a name that came to
    nothing.
    """
    found = run.result.get("variants") if run else None
    return list(_variants(found)) if isinstance(found, Mapping) else []


def _variants(found: Mapping[str, Any]) -> Iterator[Variant]:
    for name, said in found.items():
        if isinstance(said, Mapping):
            try:
                variant = Variant.model_validate({**said, "name": name})
            except ValidationError:
                continue
            if name or variant.image or variant.modelpack or variant.verdict:
                yield variant


class Standing(StrEnum):
    """How a build stands."""

    BUILDING = "building"
    RETRYING = "retrying"
    WAITING = "waiting"
    MISCONFIGURED = "misconfigured"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    CURRENT = "up to date"
    NEW = "not built yet"


TROUBLE = frozenset((Standing.RETRYING, Standing.MISCONFIGURED, Standing.FAILED, Standing.REFUSED))
"""What somebody should look at."""

_ENDED = {
    RunState.FAILED: Standing.FAILED,
    RunState.REFUSED: Standing.REFUSED,
    RunState.INTERRUPTED: Standing.INTERRUPTED,
    RunState.UNCHANGED: Standing.CURRENT,
    RunState.RELEASED: Standing.CURRENT,
}


@dataclass(frozen=True)
class Look:
    """A build, and all that is known of it: `last` is the last run that has ended, `release` the one that released."""

    name: str
    build: Build | None
    running: Run | None
    want: Want | None
    last: Run | None
    release: Run | None

    @property
    def standing(self) -> Standing:
        """How it stands, the most pressing first."""
        if self.running:
            return Standing.BUILDING
        if self.build and self.build.error:
            return Standing.MISCONFIGURED
        if self.want:
            return Standing.RETRYING if self.want.attempt else Standing.WAITING
        return _ENDED[self.last.state] if self.last else Standing.NEW

    @property
    def error(self) -> str:
        """What is wrong, if something is."""
        if self.build and self.build.error:
            return self.build.error
        is_wrong = self.last and self.last.state in {RunState.FAILED, RunState.REFUSED}
        return self.last.error if self.last and is_wrong and not self.running else ""


def looks(store: Store, builds: Builds) -> list[Look]:
    """Every build that there is, or that still is wanted or running, by name."""
    known = builds.read()
    running = {run.build: run for run in store.running()}
    wants = {want.build: want for want in store.wants()}
    last, released = store.latest(), store.released()
    return [
        Look(name, known.get(name), running.get(name), wants.get(name), last.get(name), released.get(name))
        for name in sorted({*known, *running, *wants})
    ]


def look(store: Store, builds: Builds, name: str) -> Look | None:
    """One build, also one that is there no more but was built; None if nothing is known of it."""
    found = next((one for one in looks(store, builds) if one.name == name), None)
    last = None if found else store.latest().get(name)
    return found or (Look(name, None, None, None, last, store.released().get(name)) if last else None)
