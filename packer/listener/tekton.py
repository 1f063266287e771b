"""Builds as PipelineRuns of a cluster: one for what has changed, whoever asks for it, and followed to its end.

Of the same inputs no second one is started while one runs; and one that ended well while nobody looked is taken for
what it is, if the registry still has what it published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from threading import Event

from formats.text import printable
from packer.buildfile import read_builds
from packer.failures import REFUSALS
from packer.listener import pipelines
from packer.listener.builds import Build
from packer.listener.checking import Checked, check
from packer.listener.config import Tekton
from packer.listener.following import Follower, Pace, Stopped
from packer.listener.kube import Cluster, ClusterError, Document, connect
from packer.listener.pipelines import Template, Variant
from packer.listener.published import Published, names, published
from packer.listener.records import Outcome, Run, RunState
from packer.listener.runner import Tell
from packer.lock import Locked, lock_path, write_locked
from registry.access import Access
from registry.credentials import Credentials
from registry.errors import PackerError, UsageError
from registry.wire import Wire

_CONFLICT = 409


@dataclass(frozen=True)
class TektonRunner:
    """Runs Pipelines. `environment` is what the check gets, and says how registries are reached.

    `outage` is how many seconds the API server may be away while a run is followed.
    """

    tekton: Tekton
    environment: Mapping[str, str]
    outage: float = 300.0

    def run(self, build: Build, run: Run, tell: Tell, stop: Event) -> Outcome:
        """Compare, and have the cluster build if something has changed.

        A run that is interrupted goes on in the cluster, and is found by its labels.
        """
        pace = Pace(tell, stop, self.tekton.timeout)
        checked = Checked(0, (), {})
        try:
            tell({"stage": "check"})
            checked = check(build.file, self.environment, pace.on)
            outcome = self._outcome(build, run, checked, pace)
        except Stopped:
            outcome = Outcome(RunState.INTERRUPTED, None, error="the listener was stopped; the cluster goes on")
        except PackerError as error:
            outcome = Outcome(RunState.FAILED, error.exit_code, error=_line(error))
        return replace(outcome, changed=checked.changed)

    def _outcome(self, build: Build, run: Run, checked: Checked, pace: Pace) -> Outcome:
        if not checked.is_answered:
            state = RunState.REFUSED if checked.code in REFUSALS else RunState.FAILED
            return Outcome(state, checked.code, error=checked.error)
        if not checked.changed:
            return Outcome(RunState.UNCHANGED, 0)
        pace.tell(changed=checked.changed)
        template = pipelines.read_template(build.file.parent / self.tekton.run)
        namespace = self.tekton.namespace or template.namespace
        cluster = connect(self.tekton.kubeconfig, self.tekton.context, namespace)
        work = _Work(build, checked, template, cluster, pace, _access(build.file, self.environment), self.outage)
        return work.outcome(work.ended(run.attempt))


def _access(file: Path, environment: Mapping[str, str]) -> Access:
    """How registries are reached, as `packer` does in this environment."""
    home = environment.get("HOME")
    proxies = {name[:-6].lower(): value for name, value in environment.items() if name.lower().endswith("_proxy")}
    plain = any(one.publish.plain_http for one in read_builds(file).values())
    return Access(Credentials.of(environment, Path(home) if home else None), Wire(proxies=proxies), plain_http=plain)


def _line(error: PackerError) -> str:
    parts = (error.subject, error.what, str(error.found or ""), error.hint)
    return printable(": ".join(" ".join(part.split()) for part in parts if part))[:1000]


@dataclass(frozen=True)
class _Work:
    """One build of which something has changed."""

    build: Build
    checked: Checked
    template: Template
    cluster: Cluster
    pace: Pace
    access: Access
    outage: float

    def ended(self, attempt: int) -> Document:
        """A run of the Pipeline for these inputs that has ended: one that was there, or a new one.

        One for other inputs, or started by somebody else, is waited for: it may use the same volume.
        """
        self._require_same_file()
        taken = set[str]()
        while True:
            self.pace.on()
            runs = self.cluster.runs(self.template.selector)
            if busy := next((run for run in runs if not pipelines.ended(run)), None):
                done = self._followed(busy)
                if pipelines.is_of(done, self.checked.digest):
                    return done
                continue
            if known := next((run for run in reversed(runs) if self._is_it(run)), None):
                return known
            run = self._new(attempt, taken | {run["metadata"]["name"] for run in runs})
            if made := self._created(run):
                return self._followed(made)
            taken.add(run["metadata"]["name"])

    def _require_same_file(self) -> None:
        """`UsageError` if the cluster would build something else than what is described here."""
        found = self.template.folder
        if not found:
            return
        name, keys = found
        folder = self.build.file.parent
        if other := pipelines.other_file(folder, self.cluster.texts(name), keys):
            what = f"the ConfigMap {name} of the cluster has another {other} than lies here"
            hint = f"packer ci tekton {self.build.file.name} ..., and kubectl apply -f what it wrote"
            raise UsageError(what, subject=str(folder / other), hint=hint)

    def _followed(self, run: Document) -> Document:
        return Follower(self.cluster, run["metadata"]["name"], self.pace, self.outage).follow(run)

    def _is_it(self, run: Document) -> bool:
        """Whether a run that has ended made what is wanted, and its tags still name that."""
        if not (pipelines.is_of(run, self.checked.digest) and pipelines.succeeded(run)):
            return False
        made = pipelines.variants(self.cluster.task_runs(run["metadata"]["name"]))
        results = [one.results for one in made if one.is_published]
        return bool(results) and all(names(one["IMAGE_URL"], one["IMAGE_DIGEST"], self.access) for one in results)

    def _new(self, attempt: int, taken: Collection[str]) -> Document:
        """A run as it is to be created, with the first name that is not taken."""
        runs = (self.template.run(self.build.name, self.checked.digest, attempt, number) for number in count())
        run = next(run for run in runs if run["metadata"]["name"] not in taken)
        run["metadata"]["namespace"] = self.cluster.namespace
        return run

    def _created(self, run: Document) -> Document | None:
        """A new run; None if its name is another's by now."""
        try:
            return self.cluster.create(run)
        except ClusterError as error:
            if error.status == _CONFLICT:
                return None
            if error.status in (400, 422):
                raise UsageError(
                    "the cluster refuses this run", subject=str(self.template.path), found=error.found
                ) from error
            raise

    def outcome(self, run: Document) -> Outcome:
        """What came of a run; the lock is written for what was released."""
        tasks = self.cluster.task_runs(run["metadata"]["name"])
        made = pipelines.variants(tasks)
        if not pipelines.succeeded(run):
            result = {"variants": {one.name: pipelines.of_variant(one, None) for one in made}}
            return replace(pipelines.failure(run, tasks), result=result)
        found = {one.name: self._published(one) for one in made if one.is_published}
        if not found:
            return Outcome(RunState.FAILED, 1, error=f"PipelineRun {run['metadata']['name']} published nothing")
        notes = [note for name in self.checked.inputs if (note := self._lock(name, found.get(name)))]
        by_name = {one.name: one for one in made}
        result = {"variants": {name: pipelines.of_variant(by_name[name], one.outputs) for name, one in found.items()}}
        return Outcome(RunState.RELEASED, 0, result=result, error=printable("; ".join(notes))[:1000])

    def _published(self, variant: Variant) -> Published:
        said = variant.results
        return published(said["IMAGE_URL"], said["IMAGE_DIGEST"], said.get("MODELPACK_DIGEST", ""), self.access)

    def _lock(self, name: str, found: Published | None) -> str:
        """Write a variant into the lock; why not, in words, if it is not."""
        inputs = self.checked.inputs[name]
        why = found.other_than(inputs) if found else "the run published nothing of it"
        if found and not why:
            try:
                write_locked(self.build.file, name, Locked(inputs, found.outputs), self.checked.inputs)
            except (OSError, UsageError) as error:
                why = str(error)
        path = lock_path(self.build.file).name
        return f"{path} is not written{f' for {name}' if name else ''}: {why}" if why else ""
