"""What `packer ci tekton` writes, judged by others: schemas, tekton-lint, a CEL interpreter, and `tkn`'s rules."""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from containers.ci.tekton.tasks import RESULTS
from packer.results import LONGEST
from recipes.engines.devices import kind_of
from registry.access import Access
from registry.blob import read_all
from registry.descriptor import digest_of
from registry.manifest import Manifest
from registry.reference import Reference, parse_reference
from registry.store import open_store
from tests.parts import cel
from tests.parts.command import ROOT, packer, run
from tests.parts.servers import Server
from tests.parts.tekton_judge import judge, schema

Document = dict[str, Any]
IMAGE = f"registry.example.com/tools/packer:v1@sha256:{'1' * 64}"

PLAIN = """
source: oci://registry.example.com/models/tiny:v1
publish: {to: "registry.example.com/models/tiny:raw"}
"""
FULL = """
source: hf://acme/tiny@main
quantize: {recipe: fp8-static, calibration: ./data/prompts.jsonl}
evaluate: {suite: fidelity, retain: 0.9, report: ./report}
publish:
  to: registry.example.com/models/Tiny_1.5
  base: registry.example.com/base/busybox:1.37
variants:
  - {name: fp8}
  - {name: int8, quantize: ./ours.yaml}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.yaml").write_text(PLAIN)
    (tmp_path / "full.yaml").write_text(FULL.replace("Tiny_1.5", "tiny_1.5"))
    recipe = (ROOT / "recipes/quantization/int8-w8a8-rtn.yaml").read_text()
    (tmp_path / "ours.yaml").write_text(recipe)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/prompts.jsonl").write_text('{"text": "How are you?"}\n')
    return tmp_path


def written(file: Path, *flags: str) -> dict[str, list[Document]]:
    """The documents by the files that they are in."""
    out = file.parent / "out"
    packer("ci", "tekton", file, "--packer-image", IMAGE, "--out", out, *flags)
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): list(yaml.safe_load_all(path.read_text())) for path in paths}


def every(files: dict[str, list[Document]]) -> list[Document]:
    return [document for documents in files.values() for document in documents]


def by_name(documents: list[Document]) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents}


CASES = {
    "plain": ("plain.yaml",),
    "full": ("full.yaml", "--queue", "gpus", "--gpu", "2", "--storage-class", "fast", "--node-selector", "zone=a"),
    "one variant": ("full.yaml", "--variant", "int8", "--namespace", "models", "--name", "ours", "--gpu", "0"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_document_is_valid(folder: Path, case: str) -> None:
    file, *flags = CASES[case]
    for document in every(written(folder / file, *flags)):
        judge(document)


def test_the_schemas_refuse_what_is_wrong(folder: Path) -> None:
    """Each mistake is refused: in what is Tekton's, and in what is Kubernetes' own."""
    documents = {(one["kind"], one["metadata"].get("name")): one for one in every(written(folder / "full.yaml"))}
    task, pipeline = documents["Task", "tiny-1-5-fetch"], documents["Pipeline", "tiny-1-5"]
    mistakes: list[tuple[Document, Callable[[Any], object], str]] = [
        (task, lambda spec: spec["steps"][0].update(resources={}), "resources"),
        (task, lambda spec: spec["steps"][0]["computeResources"].update(request={}), "request"),
        (task, lambda spec: spec["steps"][0]["securityContext"].update(runAsRoot=True), "runAsRoot"),
        (task, lambda spec: spec["volumes"][0].update(emptydir={}), "emptydir"),
        (pipeline, lambda spec: spec["tasks"][0].update(runafter=[]), "runafter"),
        (pipeline, lambda spec: spec["tasks"][0].update(onError="continue"), "onError"),
        (pipeline, lambda spec: spec["tasks"][0].pop("taskRef"), "'name': 'fetch'.* is not valid"),
    ]
    for document, mistake, says in mistakes:
        wrong = copy.deepcopy(document)
        mistake(wrong["spec"])
        with pytest.raises(jsonschema.ValidationError, match=says):
            judge(wrong)


@pytest.mark.parametrize("case", CASES)
def test_clean_under_tekton_lint(folder: Path, case: str) -> None:
    file, *flags = CASES[case]
    written(folder / file, *flags)
    lint(folder / "out")


def test_tekton_lint_finds_mistakes(folder: Path) -> None:
    written(folder / "full.yaml")
    pipeline = folder / "out/pipeline.yaml"
    pipeline.write_text(pipeline.read_text().replace("- fetch", "- fetched").replace("name: file", "name: files"))
    with pytest.raises(AssertionError, match=r"no-(missing|extra)-param"):
        lint(folder / "out")


def lint(folder: Path) -> None:
    program = ROOT / ".cache/clients/tekton-lint/tekton-lint"
    run(program, "--max-warnings", "0", f"{folder}/**/*.yaml")


# ---------------------------------------------------------------- what is in them


def test_stages_are_those_that_the_build_has(folder: Path) -> None:
    plain = by_name(written(folder / "plain.yaml")["tasks.yaml"])
    assert list(plain) == ["tiny-fetch", "tiny-publish"]
    files = written(folder / "full.yaml")
    pipeline = files["pipeline.yaml"][0]["spec"]
    assert [(task["name"], task.get("runAfter")) for task in pipeline["tasks"]] == [
        ("fetch", None),
        ("quantize", ["fetch"]),
        ("evaluate", ["quantize"]),
        ("publish", ["evaluate"]),
    ]
    assert all(task["retries"] and task["timeout"] for task in pipeline["tasks"])
    assert all(
        task["matrix"]["params"] == [{"name": "variant", "value": ["fp8", "int8"]}] for task in pipeline["tasks"]
    )


NVIDIA = {"nvidia.com/gpu.present": "true"}


def asking(files: dict[str, list[Document]], resource: str) -> dict[str, list[str | None]]:
    """How many of a resource each step of each task asks for."""
    tasks = by_name(files["tasks.yaml"])
    return {
        name: [step["computeResources"].get("limits", {}).get(resource) for step in task["spec"]["steps"]]
        for name, task in tasks.items()
    }


def test_a_gpu_is_asked_for_once_in_a_pod_and_only_where_it_is_used(folder: Path) -> None:
    assert asking(written(folder / "full.yaml", "--gpu", "2"), "nvidia.com/gpu") == {
        "tiny-1-5-fetch": [None],
        "tiny-1-5-quantize": ["2"],
        "tiny-1-5-evaluate": ["2"],
        "tiny-1-5-publish": [None],
    }


def test_every_task_looks_for_what_the_gpu_of_another_made_under_its_name(folder: Path, tmp_path: Path) -> None:
    """Folders of files stand for pods, since no test machine has these GPUs: NVIDIA's driver says in all pods of a node
    what it has, AMD's device is in those alone that ask for one.
    """
    pod, with_device = tmp_path / "pod", tmp_path / "pod with a device"
    for root in (pod, with_device):
        (root / "dev").mkdir(parents=True)
    (with_device / "dev/kfd").touch()
    amd = asking(written(folder / "full.yaml", "--gpu-resource", "amd.com/gpu"), "amd.com/gpu")
    behind = ("quantize", "evaluate", "publish")
    kinds = {kind_of("auto", {}, with_device if amd[f"tiny-1-5-{task}"] == ["1"] else pod) for task in behind}
    assert kinds == {"a GPU of AMD"}
    for root in (pod, with_device):
        (root / "proc/driver/nvidia/gpus/0").mkdir(parents=True)
        (root / "proc/driver/nvidia/gpus/0/information").write_text("Model: NVIDIA H100\n")
    (with_device / "dev/kfd").unlink()
    (with_device / "dev/nvidia0").touch()
    assert kind_of("auto", {}, pod) == kind_of("auto", {}, with_device) == "NVIDIA H100"


def test_behind_a_gpu_that_is_not_nvidias_every_task_asks_for_one(folder: Path) -> None:
    (folder / "plain.yaml").write_text(f"{PLAIN}quantize: fp8-dynamic\nevaluate: {{suite: fidelity, device: cpu}}\n")
    amd = asking(written(folder / "plain.yaml", "--gpu-resource", "amd.com/gpu"), "amd.com/gpu")
    assert amd == {"tiny-fetch": [None], "tiny-quantize": ["1"], "tiny-evaluate": ["1"], "tiny-publish": ["1"]}
    (folder / "plain.yaml").write_text(f"{PLAIN}evaluate: {{suite: fidelity, device: cpu}}\n")
    without = asking(written(folder / "plain.yaml", "--gpu-resource", "amd.com/gpu"), "amd.com/gpu")
    assert {count for counts in without.values() for count in counts} == {None}


@pytest.mark.parametrize(
    ("flags", "nodes"),
    [
        ((), NVIDIA),
        (("--gpu-resource", "nvidia.com/mig-1g.10gb"), NVIDIA),
        (("--gpu-resource", "amd.com/gpu"), {"feature.node.kubernetes.io/amd-gpu": "true"}),
        (("--node-selector", "zone=a", "--node-selector", "gpu=l4"), {"zone": "a", "gpu": "l4"}),
        (("--gpu-resource", "example.com/gpu", "--node-selector", "zone=a"), {"zone": "a"}),
        (("--gpu", "0"), None),
    ],
)
def test_a_run_with_gpus_is_where_they_are(folder: Path, flags: tuple[str, ...], nodes: dict[str, str] | None) -> None:
    """The first task has the volume where it is, and it needs no GPU."""
    (run,) = written(folder / "full.yaml", *flags)["run/run.yaml"]
    assert run["spec"]["taskRunTemplate"]["podTemplate"].get("nodeSelector") == nodes
    said = (folder / "out/run/run.yaml").read_text().partition("apiVersion")[0].replace("# ", "").replace("\n", " ")
    assert all(f"{name}={value}" in said for name, value in (nodes or {}).items())


def test_gpus_of_which_nobody_knows_the_nodes_are_refused(folder: Path) -> None:
    flags = ("--packer-image", IMAGE, "--gpu-resource", "example.com/gpu")
    done = packer("ci", "tekton", folder / "full.yaml", *flags, check=False)
    assert done.returncode == 2 and "--node-selector LABEL=VALUE" in done.stderr
    packer("ci", "tekton", folder / "plain.yaml", *flags)


@pytest.mark.parametrize(
    ("said", "stages"),
    [
        ("quantize: gguf-q8_0", []),
        ("quantize: {recipe: fp8-dynamic, device: cpu}", []),
        ("quantize: fp8-dynamic\nevaluate: {suite: fidelity, device: cpu}", ["quantize"]),
        ("evaluate: {suite: fidelity, baseline: 'hf://acme/whole'}", ["evaluate"]),
    ],
)
def test_what_cannot_use_a_gpu_gets_none(folder: Path, said: str, stages: list[str]) -> None:
    (folder / "plain.yaml").write_text(f"{PLAIN}{said}\n")
    files = written(folder / "plain.yaml")
    steps = [step for task in files["tasks.yaml"] for step in task["spec"]["steps"]]
    assert [step["name"] for step in steps if "limits" in step["computeResources"]] == stages
    pod = files["run/run.yaml"][0]["spec"]["taskRunTemplate"]["podTemplate"]
    assert ("tolerations" in pod, pod.get("nodeSelector")) == (bool(stages), NVIDIA if stages else None)


def test_queue_and_nodes(folder: Path) -> None:
    flags = ("--queue", "gpus", "--node-selector", "zone=a", "--storage-class", "fast", "--cache", "7GiB")
    files = written(folder / "full.yaml", *flags)
    template = next(each for each in files["triggers.yaml"] if each["kind"] == "TriggerTemplate")
    for document in (files["run/run.yaml"][0], template["spec"]["resourcetemplates"][0]):
        assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
        assert document["spec"]["taskRunTemplate"]["podTemplate"]["nodeSelector"] == {"zone": "a"}
    claim = next(each for each in files["support.yaml"] if each["kind"] == "PersistentVolumeClaim")["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "7Gi")
    assert "kueue" not in json.dumps(written(folder / "plain.yaml"))


def test_files_beside_the_build_file_come_along(folder: Path) -> None:
    """A ConfigMap has no folders: keys are mapped back to paths."""
    assert carried(folder / "full.yaml") == contents(folder, "data/prompts.jsonl", "full.yaml", "ours.yaml")


def carried(file: Path) -> dict[str, bytes]:
    """What the folder of the build file holds in a cluster."""
    files = written(file)
    (folder,) = (each for each in files["support.yaml"] if each["kind"] == "ConfigMap")
    judge(folder)
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in folder["data"])
    spaces = {each["name"]: each for each in files["run/run.yaml"][0]["spec"]["workspaces"]}
    items = spaces["build"]["configMap"].get("items", [{"key": key, "path": key} for key in folder["data"]])
    assert {item["key"] for item in items} == set(folder["data"])
    return {item["path"]: folder["data"][item["key"]].encode() for item in items}


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def test_what_a_suite_names_comes_along(folder: Path) -> None:
    """Its text, from another folder and with the ends of lines that it has, and the tasks that it defines."""
    (folder / "suites/tasks/__pycache__").mkdir(parents=True)
    (folder / "texts").mkdir()
    (folder / "texts/a novel.txt").write_bytes(b"It was\r\nnight.\tIt rained: \xc3\xa9\n" * 9)
    (folder / "suites/text.yaml").write_text("data: ../texts/a novel.txt\n")
    (folder / "suites/tasks.yaml").write_text("tasks: [ours]\ninclude: tasks\n")
    (folder / "suites/tasks/ours.yaml").write_text("task: ours\n")
    (folder / "suites/tasks/utils.py").write_text("x = 1\n")
    (folder / "suites/tasks/__pycache__/utils.pyc").write_bytes(b"\xff")
    (folder / "plain.yaml").write_text(f"{PLAIN}evaluate: ./suites/text.yaml\n")
    assert carried(folder / "plain.yaml") == contents(folder, "plain.yaml", "suites/text.yaml", "texts/a novel.txt")
    (folder / "plain.yaml").write_text(f"{PLAIN}evaluate: ./suites/tasks.yaml\n")
    names = ("plain.yaml", "suites/tasks.yaml", "suites/tasks/ours.yaml", "suites/tasks/utils.py")
    assert carried(folder / "plain.yaml") == contents(folder, *names)
    (folder / "plain.yaml").write_text(f"{PLAIN}evaluate: {{suite: {{tasks: [ours], include: suites/tasks}}}}\n")
    assert carried(folder / "plain.yaml") == contents(folder, "plain.yaml", *names[2:])


def test_keys_are_valid_and_never_the_same(folder: Path) -> None:
    """Paths of two files that were one key once, and names that no key may have."""
    (folder / "data/a__b").mkdir()
    (folder / "data/a").mkdir()
    names = ["data/a__b/c.jsonl", "data/a/b__c.jsonl", "data/a__b__c.jsonl", "data/é ü.jsonl", f"data/{'x' * 250}"]
    for name in names:
        (folder / name).write_text('{"text": "How are you?"}\n')
    (folder / "plain.yaml").write_text(f"{PLAIN}quantize: {{recipe: fp8-static, calibration: data}}\n")
    assert carried(folder / "plain.yaml") == contents(folder, "plain.yaml", "data/prompts.jsonl", *names)


def test_longest_results_fit() -> None:
    """Tekton takes 4096 bytes of all results of a task, as JSON with their keys and types."""
    reference = "r" * LONGEST
    hint = json.dumps({"uri": reference, "digest": f"sha256:{'0' * 64}", "isBuildArtifact": "true"})
    longest = {
        "IMAGE_URL": reference,
        "IMAGE_DIGEST": f"sha256:{'0' * 64}",
        "VERDICT": "undecided",
        "RETENTION": "0.9999",
        "CHANGED": "false",
        "source_ARTIFACT_INPUTS": hint,
        "modelpack_ARTIFACT_OUTPUTS": hint,
    }
    message = json.dumps([{"key": key, "value": value, "type": 1} for key, value in longest.items()])
    assert len(message) < 4096
    assert RESULTS == "/tekton/results"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PLAIN.replace("oci://registry.example.com/models/tiny:v1", "./model"), "a folder of this machine"),
        (PLAIN.replace('"registry.example.com/models/tiny:raw"', "oci:./out"), "publish.to"),
        (PLAIN.replace("oci://registry.example.com/models/tiny:v1", "hf://a'b"), "not a repository of the Hub"),
        (PLAIN.replace("}", ", base: 'oci:./base'}"), "publish.base"),
        (PLAIN.replace("}", ", busybox: {linux/arm64: ./busybox}}"), "publish.busybox"),
        (PLAIN + "quantize: {recipe: fp8-static, calibration: ../outside.jsonl}\n", "beside it"),
        (PLAIN + "quantize: {recipe: fp8-static, calibration: ./large.jsonl}\n", "too large"),
        (PLAIN + "quantize: {recipe: fp8-static, calibration: ./binary.jsonl}\n", "holds no such file"),
        (PLAIN + "evaluate: {suite: {data: ../outside.jsonl}}\n", "beside it"),
        (PLAIN + "evaluate: {suite: {data: ./none.jsonl}}\n", "names what is not there"),
        (PLAIN + "evaluate: ./none.yaml\n", "no such suite"),
        (PLAIN + "quantize: ./none.yaml\n", "no such recipe"),
        (PLAIN.replace("models/tiny:raw", "models/1tiny"), "--name NAME"),
    ],
)
def test_what_no_cluster_can_do_is_refused(folder: Path, text: str, says: str) -> None:
    (folder / "in").mkdir()
    (folder / "outside.jsonl").write_text("{}")
    (folder / "in/large.jsonl").write_text(" " * 1_000_000)
    (folder / "in/binary.jsonl").write_bytes(b"\xff\xfe")
    (folder / "in/packer.yaml").write_text(text)
    done = packer("ci", "tekton", folder / "in/packer.yaml", "--packer-image", IMAGE, check=False)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--memory", "lots"), "this is no size"),
        (("--cache", "5 potatoes"), "this is no size"),
        (("--namespace", "Bad NS"), "--namespace: Kubernetes takes no such name"),
        (("--storage-class", "a b"), "--storage-class"),
        (("--queue", "a_b"), "--queue"),
        (("--gpu-resource", "a gpu"), "--gpu-resource"),
        (("--node-selector", "a b=c"), "--node-selector"),
        (("--node-selector", "a=b c"), "--node-selector"),
        (("--env", "A B=c"), "--env"),
        (("--env", "A"), "--env NAME=VALUE"),
        (("--bundle", "oci:./out"), "a cluster takes a bundle from a registry"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(folder: Path, flags: tuple[str, ...], says: str) -> None:
    done = packer("ci", "tekton", folder / "full.yaml", "--packer-image", IMAGE, *flags, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_the_image_is_pinned(folder: Path, registry: Server) -> None:
    image = f"{registry.address}/ci/packer:v1"
    store = open_store(parse_reference(image), Access())
    push_empty(store)
    said = packer("ci", "tekton", folder / "plain.yaml", "--packer-image", image).stdout
    digest = store.resolve("v1").descriptor.digest
    steps = [step for one in yaml.safe_load_all(said) if one["kind"] == "Task" for step in one["spec"]["steps"]]
    assert {step["image"] for step in steps} == {f"{image}@{digest}"}
    done = packer("ci", "tekton", folder / "plain.yaml", "--packer-image", f"{registry.address}/ci/none:v1")
    assert "is not pinned" in done.stderr


def push_empty(store: Any) -> None:
    from containers.ci.tekton.bundle import bundle
    from registry.store import push_graph
    from registry.transfer import push_blobs

    graph = bundle([{"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "any"}}])
    push_blobs(graph.blobs, store, 1)
    list(push_graph(graph, store))
    store.tag(graph.root, "v1")


# ---------------------------------------------------------------- triggers

SECRETS = {"tiny-1-5-webhooks": {"huggingface": "hush", "registry": "Bearer hush"}}

HUB = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {"type": "model", "name": "acme/tiny", "headSha": "5" * 40, "private": False},
    "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "4" * 40, "newSha": "5" * 40}],
    "webhook": {"id": "1", "version": 3},
}
DISTRIBUTION = {
    "events": [
        {"action": "push", "target": {"repository": "base/busybox", "digest": f"sha256:{'2' * 64}", "size": 5}},
        {
            "action": "push",
            "target": {"repository": "base/busybox", "tag": "1.37", "digest": f"sha256:{'1' * 64}", "size": 5},
        },
    ]
}
HARBOR = {
    "type": "PUSH_ARTIFACT",
    "event_data": {
        "resources": [{"digest": f"sha256:{'1' * 64}", "tag": "1.37", "resource_url": "any"}],
        "repository": {"name": "busybox", "repo_full_name": "base/busybox"},
    },
}


def changed(body: Document, path: str, value: object) -> Document:
    """The body with another value at a path such as `repo.name`."""
    body = copy.deepcopy(body)
    *parents, last = path.split(".")
    place: Any = body
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return body


EVENTS: list[tuple[str, str, str, Document, bool]] = [
    ("huggingface-0", "X-Webhook-Secret", "hush", HUB, True),
    ("huggingface-0", "X-Webhook-Secret", "guess", HUB, False),
    ("huggingface-0", "X-Other", "hush", HUB, False),
    ("huggingface-0", "X-Webhook-Secret", "hush", changed(HUB, "event.scope", "discussion"), False),
    ("huggingface-0", "X-Webhook-Secret", "hush", changed(HUB, "event.scope", "repo.content.files"), True),
    ("huggingface-0", "X-Webhook-Secret", "hush", changed(HUB, "repo.name", "acme/other"), False),
    ("huggingface-0", "X-Webhook-Secret", "hush", changed(HUB, "repo.type", "dataset"), False),
    ("huggingface-0", "X-Webhook-Secret", "hush", changed(HUB, "updatedRefs.0.ref", "refs/pr/7"), False),
    ("distribution-1", "Authorization", "Bearer hush", DISTRIBUTION, True),
    ("distribution-1", "Authorization", "Bearer guess", DISTRIBUTION, False),
    ("distribution-1", "Authorization", "Bearer hush", changed(DISTRIBUTION, "events.1.target.tag", "1.36"), False),
    ("distribution-1", "Authorization", "Bearer hush", changed(DISTRIBUTION, "events.1.target.tag", None), False),
    ("distribution-1", "Authorization", "Bearer hush", changed(DISTRIBUTION, "events.1.action", "pull"), False),
    ("harbor-1", "Authorization", "Bearer hush", HARBOR, True),
    ("harbor-1", "Authorization", "Bearer hush", changed(HARBOR, "type", "DELETE_ARTIFACT"), False),
    ("harbor-1", "Authorization", "Bearer hush", changed(HARBOR, "event_data.resources.0.tag", "sha256:1"), False),
    ("harbor-1", "Authorization", "Bearer hush", DISTRIBUTION, False),
]


def test_filters_take_the_events_that_matter(folder: Path, clients: Path) -> None:
    """Every filter of the listener, evaluated by a CEL interpreter; Tekton's functions are ours there."""
    listener = by_name(written(folder / "full.yaml")["triggers.yaml"][:1])["tiny-1-5"]
    filters = {
        trigger["name"]: next(
            each["value"] for each in trigger["interceptors"][0]["params"] if each["name"] == "filter"
        )
        for trigger in listener["spec"]["triggers"]
    }
    assert set(filters) == {name for name, *_ in EVENTS}
    asked = [
        {"filter": filters[name], "header": {header: [value]}, "body": body, "secrets": SECRETS}
        for name, header, value, body, _ in EVENTS
    ]
    assert cel.verdicts(clients, asked) == [expected for *_, expected in EVENTS]


def test_what_cannot_change_is_not_watched(folder: Path) -> None:
    pinned = PLAIN.replace("tiny:v1", f"tiny@sha256:{'1' * 64}")
    (folder / "plain.yaml").write_text(pinned)
    assert set(written(folder / "plain.yaml")) == {"pipeline.yaml", "run/run.yaml", "support.yaml", "tasks.yaml"}


# ---------------------------------------------------------------- bundles


def test_bundle_follows_the_rules(folder: Path, registry: Server) -> None:
    """What `tkn` and Tekton's resolver check; the Pipeline in it holds its Tasks, so that its digest says all."""
    place = f"{registry.address}/ci/bundle:v1"
    files = written(folder / "full.yaml", "--bundle", place)
    assert set(files) == {"run/run.yaml", "support.yaml", "triggers.yaml"}
    asked = {each["name"]: each["value"] for each in files["run/run.yaml"][0]["spec"]["pipelineRef"]["params"]}
    assert (asked["name"], asked["kind"]) == ("tiny-1-5", "pipeline")
    reference = parse_reference(asked["bundle"])
    assert isinstance(reference, Reference)
    store = open_store(reference, Access())
    manifest = store.resolve(reference.name)
    assert isinstance(manifest, Manifest)
    assert store.resolve("v1").descriptor == manifest.descriptor
    config = json.loads(read_all(store.blob(manifest.config), 1 << 20))
    assert 0 < len(manifest.layers) <= 20
    found = {}
    for layer, diff in zip(manifest.layers, config["rootfs"]["diff_ids"], strict=True):
        data = gzip.decompress(read_all(store.blob(layer), 1 << 20))
        assert diff == digest_of(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            (member,) = tar.getmembers()
            stream = tar.extractfile(member)
            assert stream
            document = yaml.safe_load(stream)
        judge(document)
        notes = layer.annotations or {}
        assert notes == {
            "dev.tekton.image.name": document["metadata"]["name"],
            "dev.tekton.image.kind": document["kind"].lower(),
            "dev.tekton.image.apiVersion": "v1",
        }
        assert (member.name, member.mode) == (document["metadata"]["name"], 0o600)
        found[document["kind"], document["metadata"]["name"]] = document
    assert len(found) == len(manifest.layers) == 5
    tasks = {task["name"]: task["taskSpec"] for task in found["Pipeline", "tiny-1-5"]["spec"]["tasks"]}
    assert tasks == {name: found["Task", f"tiny-1-5-{name}"]["spec"] for name in tasks}
    again = packer("ci", "tekton", folder / "full.yaml", "--packer-image", IMAGE, "--bundle", place)
    assert asked["bundle"] in again.stderr


def test_bundle_is_read_by_others(folder: Path, registry: Server, tmp_path: Path) -> None:
    place = f"{registry.address}/ci/others:v1"
    written(folder / "plain.yaml", "--bundle", place)
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{place}", f"oci:{tmp_path / 'copy'}:v1")
    run("umoci", "raw", "unpack", "--image", f"{tmp_path / 'copy'}:v1", tmp_path / "unpacked")
    names = {path.name for path in (tmp_path / "unpacked").iterdir()}
    assert {"tiny", "tiny-fetch", "tiny-publish"} <= names


def test_schemas_are_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(schema("tekton.dev/v1 Pipeline"))


def test_commands_of_the_page(folder: Path, registry: Server) -> None:
    """Every command of docs/ci-tekton.md, with the registry of the tests."""
    lines = [line.strip() for line in (ROOT / "docs/ci-tekton.md").read_text().splitlines() if line.startswith("    ")]
    assert [line.split()[:4] for line in lines] == [["packer", "ci", "tekton", "packer.yaml"]] * 3
    push_empty(open_store(parse_reference(f"{registry.address}/tools/packer:v1"), Access()))
    (folder / "packer.yaml").write_text((folder / "full.yaml").read_text())
    for line in lines:
        said = packer(*line.replace("registry.example.com", registry.address).split()[1:], cwd=folder)
        assert "not pinned" not in said.stderr
        paths = [folder / path for path in said.stdout.split()]
        assert folder / ("tekton-fp8" if "fp8" in line else "tekton") / "run/run.yaml" in paths
        for path in paths:
            for document in yaml.safe_load_all(path.read_text()):
                judge(document)


def test_variables_for_every_task(folder: Path) -> None:
    files = written(folder / "full.yaml", "--env", "HF_ENDPOINT=https://hub.example.com", "--env", "NO_PROXY=a=b")
    for task in files["tasks.yaml"]:
        found = {each["name"]: each.get("value") for each in task["spec"]["steps"][0]["env"]}
        assert (found["HF_ENDPOINT"], found["NO_PROXY"]) == ("https://hub.example.com", "a=b")
    done = packer("ci", "tekton", folder / "full.yaml", "--packer-image", IMAGE, "--env", "NAME", check=False)
    assert (done.returncode, "--env NAME=VALUE" in done.stderr) == (2, True)
