"""The listener's runner for Tekton, against a strict API server of ours that gives the Role we ship and no more.

No cluster runs here, so server and controller are doubles (`tests/parts/kube_api.py` says why); the build that one of
them runs is real, and so are the registry, the check and the lock.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from packer.listener import pipelines
from packer.listener import tekton as runner_module
from packer.listener.builds import Build
from packer.listener.checking import Checked, check
from packer.listener.config import Tekton as Settings
from packer.listener.published import published as published_as
from packer.listener.records import Outcome, Run, RunState
from packer.listener.tekton import TektonRunner
from packer.lock import Entry, Locked, lock_path, read_lock
from registry.access import Access
from tests.parts import kube_api as api_module
from tests.parts import kube_tekton, scorecards, tiny
from tests.parts.command import PACKER, ROOT, packer, release
from tests.parts.kube_api import Document, KubeApi
from tests.parts.kube_tekton import Task, Tekton, Work, condition
from tests.parts.place import Slow
from tests.parts.servers import Server, end

MANIFEST = ROOT / "deploy/kubernetes/listener.yaml"
IMAGE = f"registry.example.com/tools/packer:v1@sha256:{'1' * 64}"


class Bench:
    """A build file with what `packer ci tekton` wrote beside it, a cluster, and a runner for it."""

    def __init__(self, file: Path, api: KubeApi, kubeconfig: Path) -> None:
        self.file, self.api = file, api
        self.settings = Settings(kubeconfig=kubeconfig)
        self.build = Build("made/twice", file)
        self.steps: list[Mapping[str, Any]] = []
        self.stop = threading.Event()
        support = yaml.safe_load_all((file.parent / "tekton/support.yaml").read_text())
        api.put("configmaps", next(one for one in support if one["kind"] == "ConfigMap"))

    def tell(self, step: Mapping[str, Any] | None = None, changed: Sequence[str] = ()) -> None:
        if step:
            self.steps.append(step)

    def run(self, attempt: int = 0, outage: float = 60) -> Outcome:
        runner = TektonRunner(self.settings, dict(os.environ), outage)
        run = Run(1, self.build.name, "me", RunState.RUNNING, attempt, None, 0.0, None, (), {}, {}, "")
        return runner.run(self.build, run, self.tell, self.stop)

    def runs(self) -> list[Document]:
        return self.api.all("pipelineruns")


@pytest.fixture(scope="module")
def rules() -> list[Document]:
    return api_module.role(MANIFEST)


@dataclass(frozen=True)
class Place:
    """A build file over an artifact in a registry, and where it publishes."""

    file: Path
    to: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, registry: Server) -> Place:
    """A build that has never run, with its documents for a cluster."""
    folder = tmp_path_factory.mktemp("place")
    host, file = f"{registry.address}/{folder.name}", folder / "made/packer.yaml"
    model = tiny.write_folder(folder / "model", tiny.SHARDED)
    release(model, "--to", f"{host}/source:main", "--base", "none", "--modelpack", "none")
    file.parent.mkdir()
    publish = {"to": f"{host}/made:v1", "base": "busybox"}
    file.write_text(json.dumps({"source": f"oci://{host}/source:main", "publish": publish}))
    packer(
        *("ci", "tekton", file, "--packer-image", IMAGE, "--namespace", "models"),
        *("--name", "made", "--out", file.parent / "tekton"),
    )
    return Place(file, publish["to"])


@pytest.fixture
def api(tmp_path: Path, rules: list[Document]) -> Iterator[KubeApi]:
    with api_module.kube_api("models", rules, tmp_path) as (api, _):
        yield api


@pytest.fixture
def bench(place: Place, api: KubeApi, tmp_path: Path) -> Bench:
    return Bench(place.file, api, tmp_path / "kubeconfig")


@pytest.fixture(scope="module")
def released(
    place: Place, rules: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Locked, Locked, Bench]:
    """The first build: its outcome, its lock, and the one that the build in the cluster wrote for itself."""
    folder = tmp_path_factory.mktemp("cluster")
    with api_module.kube_api("models", rules, folder) as (api, kubeconfig):
        bench = Bench(place.file, api, kubeconfig)
        with Tekton(api, kube_tekton.build(folder)).controlling() as tekton:
            outcome = bench.run()
            again = bench.run()
        assert (again.state, again.code, again.changed) == (RunState.UNCHANGED, 0, ())
        assert len(bench.runs()) == 1
        theirs = read_lock(folder / tekton.started[0] / "packer.lock").builds[""]
    return outcome, read_lock(lock_path(place.file)).builds[""], theirs, bench


@pytest.fixture
def asked(released: object, place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checked]:
    """What a check could have said of inputs as they were at the first build, told to all that ask, since a check takes
    seconds. There is no lock; what a test does to it is undone.
    """
    lock = lock_path(place.file)
    kept = lock.read_bytes()
    checked = Checked(7, ("source: none -> another",), {"": read_lock(lock).builds[""].inputs})
    monkeypatch.setattr(runner_module, "check", lambda *_: checked)
    lock.unlink()
    yield checked
    lock.write_bytes(kept)


@pytest.fixture
def published(released: tuple[Outcome, Locked, Locked, Bench], place: Place) -> dict[str, str]:
    """The results of a task that published what the first build did."""
    digest = released[1].outputs.image.rpartition("@")[2]
    return {"IMAGE_URL": place.to, "IMAGE_DIGEST": digest, "CHANGED": "false"}


def ending(*tasks: Task) -> Work:
    """Work that ends a run at once."""
    return lambda tekton, name: tekton.end(name, tasks)


# ---------------------------------------------------------------- what a build comes to


def test_a_build_in_the_cluster_is_followed_to_its_release_and_locked(
    released: tuple[Outcome, Locked, Locked, Bench], place: Place
) -> None:
    outcome, lock, theirs, bench = released
    assert (outcome.state, outcome.code, outcome.error) == (RunState.RELEASED, 0, "")
    assert any(change.startswith("source: none -> ") for change in outcome.changed)
    assert lock == theirs  # as who built it would lock it
    assert outcome.result and outcome.result["variants"] == {
        "": {
            "image": lock.outputs.image,
            "modelpack": lock.outputs.modelpack,
            "tags": ["v1", "v1-modelpack"],
            "verdict": None,
            "retention": None,
            "bytes": None,
            "report": False,
        }
    }
    stages = [step["stage"] for step in bench.steps]
    assert stages[0] == "check" and "fetch" in stages
    (run,) = bench.runs()
    assert re.fullmatch(r"made-[0-9a-f]{10}-0", run["metadata"]["name"])
    assert run["metadata"]["labels"][pipelines.BUILD] == pipelines.label_of("made/twice")
    assert run["metadata"]["labels"][pipelines.NAME] == "made"


def test_the_role_that_is_shipped_lets_do_what_is_done_and_nothing_else(
    released: tuple[Outcome, Locked, Locked, Bench], rules: list[Document]
) -> None:
    allowed = {(verb, plural) for rule in rules for plural in rule["resources"] for verb in rule["verbs"]}
    assert set(released[3].api.asked) == allowed


@pytest.mark.parametrize(
    ("verb", "plural"),
    [
        ("create", "pipelineruns"),
        ("list", "pipelineruns"),
        ("watch", "pipelineruns"),
        ("list", "taskruns"),
        ("get", "configmaps"),
    ],
)
def test_a_right_that_is_missing_is_named(
    verb: str, plural: str, bench: Bench, asked: Checked, published: dict[str, str]
) -> None:
    bench.api.rules = [
        {**rule, "verbs": [one for one in rule["verbs"] if one != verb]} if plural in rule["resources"] else rule
        for rule in bench.api.rules
    ]

    def later(tekton: Tekton, name: str) -> None:
        if verb != "watch":
            tekton.end(name, [Task("publish", 0, published)])

    with Tekton(bench.api, later).controlling():
        outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert f"may not {verb} {plural}" in outcome.error
    assert "deploy/kubernetes/listener.yaml" in outcome.error
    assert "\n" not in outcome.error


def test_a_release_of_another_source_than_was_checked_is_not_locked(
    bench: Bench, asked: Checked, published: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = asked.inputs[""]
    newer = {**was, "source": replace(was["source"], revision="sha256:" + "2" * 64)}
    monkeypatch.setattr(runner_module, "check", lambda *_: replace(asked, inputs={"": newer}))
    with Tekton(bench.api, ending(Task("publish", 0, published))).controlling():
        outcome = bench.run()
    assert outcome.state is RunState.RELEASED
    assert "packer.lock is not written: it was made of the source at sha256:" in outcome.error
    assert not lock_path(place.file).exists()
    assert outcome.result and outcome.result["variants"][""]["bytes"] == 0


def test_variants_are_locked_by_their_names_and_one_that_was_not_built_is_told(
    bench: Bench, asked: Checked, published: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = asked.inputs[""]
    both = replace(asked, inputs={"fp8": inputs, "int8": inputs, "int4": inputs})
    monkeypatch.setattr(runner_module, "check", lambda *_: both)
    tasks = [
        Task("evaluate", 0, {"VERDICT": "retained", "RETENTION": "0.9971"}, "fp8"),
        Task("evaluate", 0, {"VERDICT": "retained", "RETENTION": "0.9802"}, "int8"),
        Task("publish", 0, published, "fp8"),
        Task("publish", 0, published, "int8"),
    ]
    with Tekton(bench.api, ending(*tasks)).controlling():
        outcome = bench.run()
    assert outcome.state is RunState.RELEASED
    assert outcome.result
    told = outcome.result["variants"]
    assert {name: (one["verdict"], one["retention"]) for name, one in told.items()} == {
        "fp8": ("retained", 0.9971),
        "int8": ("retained", 0.9802),
    }
    assert outcome.error == "packer.lock is not written for int4: the run published nothing of it"
    assert sorted(read_lock(lock_path(place.file)).builds) == ["fp8", "int8"]


@pytest.mark.parametrize(
    ("tasks", "state", "code", "said"),
    [
        ([Task("evaluate", 4, {"VERDICT": "lost"})], RunState.REFUSED, 4, "task evaluate: it lost too much, exit 4"),
        ([Task("fetch", 3)], RunState.REFUSED, 3, "task fetch: the model is not acceptable"),
        ([Task("fetch", 5)], RunState.FAILED, 5, "task fetch: a registry or the source failed"),
        ([Task("fetch", 2)], RunState.FAILED, 2, "task fetch: the build file"),
        ([Task("fetch", 1)], RunState.FAILED, 1, "task fetch: exit 1 (Failed)"),
        ([Task("quantize", 137, container_reason="OOMKilled")], RunState.FAILED, 6, "for want of memory (OOMKilled)"),
        ([Task("fetch", None, reason="TaskRunImagePullFailed")], RunState.FAILED, 5, "TaskRunImagePullFailed"),
        ([Task("fetch", 143, reason="TaskRunTimeout")], RunState.FAILED, 1, "task fetch: TaskRunTimeout"),
        (
            [Task("evaluate", 4, variant="fp8"), Task("evaluate", 5, variant="int8")],
            RunState.FAILED,
            5,
            "task evaluate of int8: a registry or the source failed, exit 5 (Failed); task evaluate of fp8: it lost",
        ),
    ],
)
def test_a_run_that_fails_says_which_task_did_and_why(tasks: list[Task], state: RunState, code: int, said: str) -> None:
    run = {"metadata": {"name": "made-1"}, "status": {"conditions": [condition("False", "Failed", "")]}}
    outcome = pipelines.failure(run, [task.document("made-1") for task in tasks])
    assert (outcome.state, outcome.code) == (state, code)
    assert said in outcome.error


def test_a_refusal_comes_through_with_what_was_measured(bench: Bench, asked: Checked, place: Place) -> None:
    lost = Task("evaluate", 4, {"VERDICT": "lost", "RETENTION": "0.71"})
    with Tekton(bench.api, ending(Task("fetch"), lost)).controlling():
        outcome = bench.run()
    assert (outcome.state, outcome.code, outcome.changed) == (RunState.REFUSED, 4, asked.changed)
    assert outcome.result and outcome.result["variants"][""]["retention"] == 0.71
    assert not lock_path(place.file).exists()


@pytest.mark.parametrize(("reason", "code"), [("CouldntGetPipeline", 2), ("Cancelled", 1)])
def test_a_run_without_tasks_says_why(reason: str, code: int, bench: Bench, asked: Checked) -> None:
    with Tekton(bench.api, lambda tekton, name: tekton.end(name, [], reason, "so it is")).controlling():
        outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, code)
    assert f"{reason}: so it is" in outcome.error


def test_what_a_check_cannot_tell_is_an_outcome(tmp_path: Path, api: KubeApi, place: Place) -> None:
    bench = Bench(place.file, api, tmp_path / "kubeconfig")
    file = tmp_path / "packer.yaml"
    file.write_text(place.file.read_text().replace("source:main", "source:none"))
    bench.build = Build("none", file)
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert "source:none" in outcome.error
    assert not api.asked


# ---------------------------------------------------------------- one run for one change


def test_two_listeners_start_one_run(
    bench: Bench, asked: Checked, published: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    monitor = bench.api.create

    def create(*arguments: Any) -> Document:
        both.wait(timeout=30)  # both have seen that nothing runs
        return monitor(*arguments)

    monkeypatch.setattr(bench.api, "create", create)
    with (
        Tekton(bench.api, ending(Task("publish", 0, published))).controlling() as tekton,
        ThreadPoolExecutor(2) as pool,
    ):
        outcomes = [future.result() for future in [pool.submit(bench.run), pool.submit(bench.run)]]
    assert [outcome.state for outcome in outcomes] == [RunState.RELEASED] * 2
    assert len(tekton.started) == 1


def test_a_run_of_somebody_else_is_waited_for_and_then_ours_runs(
    bench: Bench, asked: Checked, published: dict[str, str]
) -> None:
    document = yaml.safe_load((bench.file.parent / "tekton/run/run.yaml").read_text())
    document["metadata"] = {**document["metadata"], "name": "by-hand"}
    bench.api.put("pipelineruns", document)

    alone = []

    def work(tekton: Tekton, name: str) -> None:
        tekton.running(name, ["publish"], "by hand" if name == "by-hand" else "ours")
        if name == "by-hand":
            wait_for(lambda: any("by hand" in step.get("text", "") for step in bench.steps))
            alone.append(len(bench.runs()) == 1)
        tekton.end(name, [Task("publish", 0, published)])

    with Tekton(bench.api, work).controlling() as tekton:
        assert bench.run().state is RunState.RELEASED
    assert alone == [True]
    assert len(tekton.started) == 2


def test_a_stopped_listener_leaves_the_run_and_the_next_one_takes_what_came_of_it(
    bench: Bench, asked: Checked, published: dict[str, str], place: Place
) -> None:
    goes_on = threading.Event()

    def work(tekton: Tekton, name: str) -> None:
        tekton.running(name, ["fetch"], "begun")
        bench.stop.set()
        goes_on.wait(timeout=60)
        tekton.end(name, [Task("publish", 0, published)])

    with Tekton(bench.api, work).controlling() as tekton:
        first = bench.run()
        assert (first.state, first.code, first.changed) == (RunState.INTERRUPTED, None, asked.changed)
        goes_on.set()
        bench.api.until(lambda: all(map(pipelines.ended, bench.runs())))
        bench.stop.clear()
        second = bench.run()
    assert second.state is RunState.RELEASED
    assert len(tekton.started) == 1
    assert read_lock(lock_path(place.file)).builds[""].inputs == asked.inputs[""]


def test_a_run_that_is_history_is_not_taken_for_the_one_that_is_wanted(
    bench: Bench, asked: Checked, published: dict[str, str]
) -> None:
    """One failed, one published what its tag does not name any more, and one has but the name."""
    stale = {**published, "IMAGE_DIGEST": "sha256:" + "3" * 64}
    template = pipelines.read_template(bench.file.parent / "tekton/run/run.yaml")
    for number, task in enumerate((Task("publish", 5), Task("publish", 0, stale))):
        run = template.run("made/twice", asked.digest, 0, number)
        bench.api.put("pipelineruns", run)
        Tekton(bench.api, ending()).end(run["metadata"]["name"], [task])
    other = template.run("made/twice", asked.digest, 0, 2)
    bench.api.put("pipelineruns", {**other, "metadata": {"name": other["metadata"]["name"]}, "status": {}})
    with Tekton(bench.api, ending(Task("publish", 0, published))).controlling() as tekton:
        assert bench.run().state is RunState.RELEASED
    assert tekton.started == [template.run("made/twice", asked.digest, 0, 3)["metadata"]["name"]]


def test_the_cluster_must_have_the_build_file_that_lies_here(bench: Bench, asked: Checked) -> None:
    (config,) = bench.api.all("configmaps")
    bench.api.put("configmaps", {**config, "data": {"packer.yaml": "source: hf://acme/other"}})
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 2)
    assert "the ConfigMap made-build of the cluster has another packer.yaml" in outcome.error
    bench.api.delete("configmaps", "made-build")
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert "there is no configmaps/made-build in models" in outcome.error
    assert not bench.runs()


def test_a_listener_that_is_killed_finds_its_run_again(
    released: object, place: Place, api: KubeApi, published: dict[str, str], tmp_path: Path
) -> None:
    """`packer serve` itself: a build without a lock is looked at, and built by the cluster, once."""
    Bench(place.file, api, tmp_path / "kubeconfig")
    lock = lock_path(place.file)
    inputs = read_lock(lock).builds[""].inputs
    lock.unlink()
    goes_on = threading.Event()

    def work(tekton: Tekton, name: str) -> None:
        tekton.running(name, ["publish"], "begun")
        goes_on.wait(timeout=120)
        tekton.end(name, [Task("publish", 0, published)])

    told = {"builds": [str(place.file)], "runner": "tekton", "quiet": "1s", "tekton": {"kubeconfig": "kubeconfig"}}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({**told, "listen": "127.0.0.1:0"}))
    with Tekton(api, work).controlling() as tekton:
        try:
            with listening(tmp_path) as first:
                wait_for(lambda: tekton.started or first.poll() is not None)
                assert first.poll() is None, (tmp_path / "log").read_text()
                first.kill()
                first.wait()
            with listening(tmp_path):
                wait_for(lambda: '"interrupted"' in (tmp_path / "log").read_text())
                goes_on.set()
                wait_for(lambda: '"released"' in (tmp_path / "log").read_text())
        finally:
            goes_on.set()
    assert len(tekton.started) == 1
    assert read_lock(lock).builds[""].inputs == inputs
    assert api.token not in (tmp_path / "log").read_text()


@contextmanager
def listening(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A listener, which is asked to end behind the block."""
    with (folder / "log").open("ab") as log:
        command = [str(PACKER), "serve", "--config", str(folder / "serve.yaml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        end(process)


# ---------------------------------------------------------------- bad days


def test_a_run_is_followed_through_all_that_happens_to_a_watch(
    bench: Bench, asked: Checked, published: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bookmark at the end of a watch, versions that are gone, a connection that breaks off, a server that is away."""
    monkeypatch.setattr("packer.listener.following.WATCH", 1)
    texts = ["one", "two", "three", "four"]

    def seen(text: str) -> bool:
        return any(text in step.get("text", "") for step in bench.steps)

    def work(tekton: Tekton, name: str) -> None:
        for text in texts:
            tekton.running(name, ["publish"], text)
            wait_for(lambda text=text: seen(text))
            if text == "one":
                wait_for(lambda: bench.api.bookmarks > 0)
                bench.api.forget()
                wait_for(lambda: bench.api.gone > 0)
            elif text == "two":
                bench.api.dropped = 1
            elif text == "three":
                wait_for(lambda: not bench.api.dropped)
                bench.api.faults = [503, 500, 429]
                wait_for(lambda: not bench.api.faults)
        tekton.end(name, [Task("publish", 0, published)])

    with Tekton(bench.api, work).controlling():
        assert bench.run().state is RunState.RELEASED
    assert all(map(seen, texts))


def wait_for(is_so: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_stays_away_fails_the_run_with_one_line(bench: Bench, asked: Checked) -> None:
    def work(tekton: Tekton, name: str) -> None:
        tekton.running(name, ["publish"], "begun")
        bench.api.faults = [503] * 1000

    with Tekton(bench.api, work).controlling():
        outcome = bench.run(outage=0.5)
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert "503" in outcome.error and "\n" not in outcome.error


def test_whoever_cannot_be_reached_is_named(bench: Bench, asked: Checked, tmp_path: Path) -> None:
    nobody = api_module.kubeconfig(tmp_path / "nobody", 9, "t0p-secret")
    bench.settings = Settings(kubeconfig=nobody)
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert outcome.error.startswith("http://127.0.0.1:9: the API server of the cluster cannot be reached")
    bench.settings = Settings(kubeconfig=tmp_path / "none")
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 2)
    assert "this leads to no cluster" in outcome.error
    bench.settings = Settings()
    assert "the pod that the listener runs in: this leads to no cluster" in bench.run().error


def test_a_wrong_token_is_told_and_no_token_ever_is(
    bench: Bench, asked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench.api.token, shown = "another", bench.api.token
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert "does not know this account" in outcome.error
    assert shown not in outcome.error + caplog.text
    assert caplog.text  # something was logged


@pytest.mark.parametrize(("end", "code", "said"), [("deleted", 5, "deleted"), ("late", 1, "longer than 2 seconds")])
def test_a_run_without_an_end_has_one_here(
    end: str, code: int, said: str, bench: Bench, asked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packer.listener.following.WATCH", 1)
    bench.settings = bench.settings.model_copy(update={"timeout": 2.0})

    def work(tekton: Tekton, name: str) -> None:
        tekton.running(name, ["publish"], "begun")
        if end == "deleted":
            bench.api.delete("pipelineruns", name)

    with Tekton(bench.api, work).controlling():
        outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, code)
    assert said in outcome.error


def test_a_run_that_the_cluster_refuses_is_a_wrong_document(bench: Bench, asked: Checked, tmp_path: Path) -> None:
    document = yaml.safe_load((bench.file.parent / "tekton/run/run.yaml").read_text())
    document["spec"]["taskRunTemplate"]["podTemplate"]["volume"] = []
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    bench.settings = bench.settings.model_copy(update={"run": tmp_path / "run.yaml"})
    outcome = bench.run()
    assert (outcome.state, outcome.code) == (RunState.FAILED, 2)
    assert "the cluster refuses this run" in outcome.error and "volume" in outcome.error
    (tmp_path / "run.yaml").write_text("kind: Pod\nmetadata: {}\n")
    assert "no run that packer ci tekton wrote" in bench.run().error


def test_what_is_published_is_read_as_it_was_told(tmp_path: Path, registry: Server) -> None:
    """A release with evidence beside it, and the base and source in its manifest."""
    tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    told = scorecards.published(tmp_path / "model", f"{registry.address}/{tmp_path.name.lower()}/measured:v1")
    assert told.modelpack and told.scorecard
    digest, modelpack = (one.rpartition("@")[2] for one in (told.image, told.modelpack))
    place = told.image.rpartition("@")[0] + ":v1"
    found = published_as(place, digest, modelpack, Access())
    said = found.outputs
    assert (said.image, said.modelpack, said.scorecard, said.tags) == (
        told.image,
        told.modelpack,
        told.scorecard,
        told.tags,
    )
    assert [layer.path.partition("/")[0] for layer in said.layers] == ["models"] * len(said.layers)
    inputs = {"source": Entry("a", "b", found.revision), "base": Entry("busybox", found.base)}
    assert not found.other_than(inputs)
    assert "base" in found.other_than({**inputs, "base": Entry("busybox", "sha256:" + "4" * 64)})


@given(st.text(min_size=1, max_size=300))
def test_any_name_makes_a_label_and_others_make_others(name: str) -> None:
    label = pipelines.label_of(name)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label)
    assert pipelines.label_of(name + "x") != label


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True), st.integers(0, 99), st.integers(0, 999))
def test_names_of_runs_are_names(name: str, attempt: int, number: int) -> None:
    labels = {pipelines.NAME: name, pipelines.MANAGER: "packer"}
    template = pipelines.Template({"metadata": {"generateName": f"{name}-", "labels": labels}}, Path("run.yaml"))
    made = template.run("b", "0123456789abcdef", attempt, number)["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", made)
    assert made != template.run("b", "0123456789abcdef", attempt, number + 1)["metadata"]["name"]


def test_a_check_that_is_not_waited_for_leaves_no_process(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    slow = Slow(tmp_path)
    with pytest.raises(Enough):
        check(slow.file, {**os.environ, "PACKER_TEST": "1"}, enough)
    slow.close()
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert not [child for child in children if b"--check" in Path(f"/proc/{child}/cmdline").read_bytes()]
