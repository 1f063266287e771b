"""Follows a PipelineRun to its end, whatever happens to the connection in between.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event

from packer.listener.kube import Cluster, ClusterError, Document
from packer.listener.pipelines import ended, step
from packer.listener.runner import Tell
from registry.errors import PackerError, TransferError

WATCH = 5
"""Seconds of one watch: so long it may take until a stop is noticed."""

_FIRST, _LONGEST = 0.5, 8.0
"""Seconds between two tries to reach the API server."""

_BREATH = 0.1
"""Seconds between two watches, for a server that ends them at once."""

_BEAT = 5.0
"""Seconds between two signs of life."""

_GONE = 410


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The listener stops."""


class LateError(PackerError):
    """It took longer than it may."""


@dataclass
class Pace:
    """How long a run goes on: until `stop` is set, or for `limit` seconds."""

    tell: Tell
    stop: Event
    limit: float
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def on(self) -> None:
        """Say now and then that somebody cares; `Stopped` or `LateError` if it is over."""
        now = time.monotonic()
        if self.stop.is_set():
            raise Stopped
        if now - self._began > self.limit:
            what = f"it took longer than {self.limit:g} seconds (tekton: timeout)"
            raise LateError(what, hint="what runs in the cluster goes on")
        if now - self._told > _BEAT:
            self._told = now
            self.tell()

    def wait(self, seconds: float) -> None:
        """Go on after so many seconds, or sooner if it is over."""
        self.stop.wait(seconds)
        self.on()


@dataclass
class Follower:
    """Follows one run. `outage` is how many seconds the API server may be away, in a row."""

    cluster: Cluster
    name: str
    pace: Pace
    outage: float
    _version: str = ""
    _told: str = ""
    _delay: float = _FIRST
    _away: float | None = field(default=None)

    def follow(self, run: Document) -> Document:
        """The run when it has ended, from as it was last seen; `TransferError` if somebody deletes it meanwhile."""
        while not ended(run):
            self._tell(run)
            try:
                for run in self._news():  # noqa: PLR1704 - the newest of it
                    self._tell(run)
                    if ended(run):
                        break
                    self.pace.on()
            except ClusterError as error:
                if error.status == _GONE:
                    self._version = ""
                else:
                    self._bear(error)
            except TransferError as error:
                self._bear(error)
            if not ended(run):
                self.pace.wait(_BREATH)
        return run

    def _news(self) -> Iterator[Document]:
        """The run as it is if nothing is known of its versions, and then each time that it changes."""
        if not self._version:
            run, self._version = self.cluster.run(self.name)
            if not run:
                raise self._deleted()
            yield run
        for event in self.cluster.watch(self.name, self._version, WATCH):
            self._reached()
            self._version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                raise self._deleted()
            if event["type"] != "BOOKMARK":
                yield event["object"]
        self._reached()

    def _reached(self) -> None:
        self._delay, self._away = _FIRST, None

    def _bear(self, error: TransferError) -> None:
        """Wait for a server that is away; raise what nobody can wait for."""
        now = time.monotonic()
        self._away = self._away or now
        if error.retry_after is None or now - self._away > self.outage:
            raise error
        self.pace.wait(self._delay)
        self._delay = min(self._delay * 2, _LONGEST)

    def _tell(self, run: Document) -> None:
        said = step(run)
        if str(said) != self._told:
            self._told = str(said)
            self.pace.tell(said)

    def _deleted(self) -> TransferError:
        return TransferError("somebody deleted the PipelineRun", subject=f"{self.name} in {self.cluster.namespace}")
