"""Metrics for Prometheus. What counts is counted in the store, so that it goes on where it was after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from packer.listener.store import Store
from packer.listener.web.hooks import Hooks
from packer.listener.web.looks import variants_of

TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics(store: Store, hooks: Hooks) -> bytes:
    """All metrics, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(store, hooks))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Metrics(Collector):
    store: Store
    hooks: Hooks

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering asks for no values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        tallies = self.store.tallies()
        yield self._events(tallies)
        yield from _builds(tallies)
        yield self._refused()
        yield from self._now()
        yield from self._releases()

    def _events(self, tallies: dict[tuple[str, str, str], float]) -> Metric:
        family = CounterMetricFamily("packer_events", "Deliveries, by what became of them", labels=["kind", "result"])
        for (name, kind, state), number in sorted(tallies.items()):
            if name == "events":
                family.add_metric([kind, state], number)
        for (kind, result), number in sorted(self.hooks.counts.items()):
            family.add_metric([kind, result], number)
        return family

    def _refused(self) -> Metric:
        text = "Requests of senders that were refused, since this process began"
        family = CounterMetricFamily("packer_rejected_requests", text, labels=["path", "reason"])
        for (path, reason), number in sorted(self.hooks.refused.items()):
            family.add_metric([path, reason], number)
        return family

    def _now(self) -> Iterator[Metric]:
        waiting = self.store.waiting()
        yield GaugeMetricFamily("packer_events_waiting", "Events that nobody has looked at", waiting)
        yield GaugeMetricFamily("packer_queue_length", "Builds that are wanted", len(self.store.wants()))
        yield GaugeMetricFamily("packer_running", "Runs that have no end yet", len(self.store.running()))

    def _releases(self) -> Iterator[Metric]:
        kept = GaugeMetricFamily(
            "packer_release_retention", "What the last release keeps of its baseline", labels=["build", "variant"]
        )
        at = GaugeMetricFamily("packer_release_timestamp_seconds", "When a build was last released", labels=["build"])
        for build, run in sorted(self.store.released().items()):
            at.add_metric([build], run.ended or run.began)
            for variant in variants_of(run):
                if variant.retention is not None:
                    kept.add_metric([build, variant.name], variant.retention)
        yield kept
        yield at


def _builds(tallies: dict[tuple[str, str, str], float]) -> Iterator[Metric]:
    runs = CounterMetricFamily(
        "packer_builds", "Runs that have ended, by what came of them", labels=["build", "result"]
    )
    took = SummaryMetricFamily("packer_build_seconds", "How long runs took", labels=["build", "result"])
    sent = CounterMetricFamily("packer_uploaded_bytes", "Bytes that builds sent to registries", labels=["build"])
    for (name, build, state), number in sorted(tallies.items()):
        if name == "runs":
            runs.add_metric([build, state], number)
            took.add_metric([build, state], int(number), tallies.get(("seconds", build, state), 0))
        elif name == "bytes":
            sent.add_metric([build], number)
    yield from (runs, took, sent)
