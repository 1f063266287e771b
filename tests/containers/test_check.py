"""Each rule of `packer check` has an artifact that breaks it, wrong in one way, and one that keeps it."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from containers.check import members
from containers.check.artifact import Artifact, read_artifact
from containers.check.clients import CLIENTS, judge
from containers.check.rules import KINDS, rules
from containers.check.verdicts import Outcome, Rule, Verdict
from registry.descriptor import IMAGE_LAYER, MANIFEST
from registry.errors import ContentError
from registry.layout import Layout
from registry.manifest import encode
from scripts.check_rules import document
from tests.parts import tiny
from tests.parts.artifacts import (
    BASE,
    MODEL,
    RAW,
    TARS,
    Made,
    Part,
    image,
    modelpack,
    push,
    push_index,
    tar,
    tar_layer,
    weight,
)
from tests.parts.command import PACKER, ROOT

CNCF = "application/vnd.cncf.model"
ORAS = "application/vnd.oci.empty.v1+json"
DIFF_ID = "sha256:" + "1" * 64
FILEPATH, TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"

Index = list[tuple[Made, str]]
"""The children of an index, each with its platform."""

CAR = image(BASE, tar_layer())
FLAT = modelpack(weight("model.safetensors", tiny.GOOD), weight("config.json", b"{}", kind="weight.config"))
GGUF = modelpack(weight("model.gguf", tiny.GOOD_GGUF), config={"format": "gguf", "paramSize": "1m"})


def twice() -> Part:
    """A layer that has a file twice."""
    head = tar({"models/config.json": b"{}"})[: 3 * 512]
    return Part(IMAGE_LAYER, head + tar(MODEL))


def sparse() -> bytes:
    """A tar that nobody can follow from its headers alone."""
    info = tarfile.TarInfo("models/a")
    info.type = tarfile.GNUTYPE_SPARSE
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def nameless(part: Part, *kept: str) -> Part:
    """The part without the annotations that are not named."""
    return part.annotated(**{key: value for key, value in part.annotations.items() if key in kept})


def paths(layers: Sequence[Part], *kept: str) -> tuple[Part, ...]:
    return tuple(nameless(part, *kept) for part in layers)


BROKEN: dict[str, tuple[str, Made | Index, Made | Index]] = {
    # ---- rule: client, what breaks it, what keeps it
    "image-no-platform": ("containerd", [(CAR, "windows/amd64")], [(CAR, "linux/amd64")]),
    "containerd-artifact": ("containerd", modelpack(), image()),
    "image-diff-ids": ("containerd", image(rootfs={"diff_ids": []}), image()),
    "image-diff-id": ("containerd", image(rootfs={"diff_ids": [DIFF_ID]}), image()),
    "image-foreign-layer": ("containerd", image().but(layers=(tar_layer(), RAW[0])), image()),
    "image-twice": ("podman", image(twice()), image()),
    "image-no-models": ("containerd", image(tar_layer({"weights/a": b"a"})), image()),
    "image-modes": ("crio", image(tar_layer(mode=0o600)), image()),
    "image-not-read": ("containerd", image(Part(IMAGE_LAYER, sparse())), image(tar_layer(packed="gzip"))),
    "image-not-a-tar": ("podman", image(tar_layer(), Part(IMAGE_LAYER, b"text")), image(tar_layer(packed="gzip"))),
    "kserve-twice": ("kserve-native", image(twice()), image()),
    "modelcar-artifact": ("kserve", modelpack(), CAR),
    "modelcar-no-shell": ("kserve", image(), CAR),
    "modelcar-entrypoint": ("kserve", image(BASE, tar_layer(), config={"Entrypoint": ["/bin/x"]}), CAR),
    "modelcar-no-models": ("kserve", image(BASE), CAR),
    "modelcar-modes": ("kserve", image(BASE, tar_layer(folder_mode=0o700)), CAR),
    "native-artifact": ("kserve-native", modelpack(*RAW), image()),
    "native-no-models": ("kserve-native", image(BASE), image()),
    "native-modes": ("kserve-native", image(tar_layer(mode=0o640)), image()),
    "fetch-zstd": ("kserve-fetch", image(BASE, tar_layer(packed="zstd")), image(BASE, tar_layer(packed="gzip"))),
    "fetch-untyped-index": ("kserve-fetch", [(CAR, "linux/amd64"), (CAR, "untyped")], [(CAR, "linux/amd64")]),
    "fetch-no-models": ("kserve-fetch", image(tar_layer({"./models/a": b"a"}, folders=False)), image()),
    "fetch-skipped-layer": ("kserve-fetch", image(tar_layer({"models/a": b"a", "./models/b": b"b"})), image()),
    "fetch-link": (
        "kserve-fetch",
        image(tar_layer({"models/a": b"a", "models/b": "=models/a"})),
        image(tar_layer({"models/a": b"a", "models/b": "a"})),
    ),
    "fetch-whiteout": (
        "kserve-fetch",
        image(tar_layer(), tar_layer({"models/.wh.config.json": b""})),
        image(tar_layer(), tar_layer({"models/new": b""})),
    ),
    "crio-nameless": ("crio", modelpack(*paths(RAW)), modelpack(*RAW)),
    "crio-some-nameless": ("crio", modelpack(nameless(RAW[0]), RAW[1]), modelpack(*paths(RAW, FILEPATH))),
    "crio-tar": ("crio", modelpack(), modelpack(*RAW)),
    "crio-path": ("crio", modelpack(weight("../a", b"a")), modelpack(weight("b/a", b"a"))),
    "crio-twice": ("crio", modelpack(RAW[0], weight("config.json", b"[]")), modelpack(*RAW)),
    "crio-subpath": ("crio", modelpack(*RAW), modelpack(weight("models/a", b"a"))),
    "crio-typed-image": ("crio", image().but(artifact_type="application/x"), image()),
    "podman-artifact": ("podman", modelpack(*RAW), image()),
    "podman-artifact-path": ("podman", modelpack(weight("onnx/model.onnx", b"x"), *RAW), modelpack(*RAW)),
    "podman-artifact-nameless": ("podman", modelpack(*paths(RAW, FILEPATH)), modelpack(*paths(RAW, TITLE))),
    "podman-artifact-twice": ("podman", modelpack(RAW[0], weight("config.json", b"[]")), modelpack(*RAW)),
    "podman-artifact-tar": (
        "podman",
        modelpack(weight("models", tar(MODEL), "tar").annotated(**{TITLE: "model.tar"})),
        modelpack(*RAW),
    ),
    "oras-nameless": ("oras", modelpack(*paths(RAW, FILEPATH)), modelpack(*paths(RAW, TITLE))),
    "oras-some-nameless": ("oras", modelpack(RAW[0], nameless(RAW[1], FILEPATH)), modelpack(*RAW)),
    "oras-path": ("oras", modelpack(weight("../a", b"a")), modelpack(weight("b/a", b"a"))),
    "oras-twice": ("oras", modelpack(RAW[0], weight("config.json", b"[]")), modelpack(*RAW)),
    "oras-tar": (
        "oras",
        modelpack(weight("models", tar(MODEL), "tar").annotated(**{TITLE: "m"})),
        modelpack(weight("models", tar(MODEL), "tar").annotated(**{TITLE: "m", "io.deis.oras.content.unpack": "true"})),
    ),
    "modctl-index": ("modctl", [(modelpack(), "linux/amd64")], modelpack()),
    "modctl-digest": ("modctl", modelpack(), modelpack()),
    "modctl-packed": ("modctl", modelpack(weight("models", gzip.compress(tar(MODEL)), "tar+gzip")), modelpack()),
    "modctl-nameless": ("modctl", modelpack(nameless(RAW[0], TITLE)), modelpack(*paths(RAW, FILEPATH))),
    "modctl-path": ("modctl", modelpack(weight("../a", b"a")), modelpack(*RAW)),
    "modctl-image": ("modctl", image(), modelpack()),
    "kitops-index": ("kitops", [(modelpack(), "linux/amd64")], modelpack()),
    "kitops-kind": ("kitops", image(), modelpack()),
    "kitops-layer": ("kitops", modelpack(TARS[0].typed(f"{CNCF}.weights.v1.tar")), modelpack()),
    "kitops-nameless": ("kitops", modelpack(nameless(TARS[0])), modelpack()),
    "kitops-diff-ids": ("kitops", modelpack().but(config=b"{}"), modelpack()),
    "kitops-path": ("kitops", modelpack(weight("/models", tar(MODEL), "tar")), modelpack()),
    "kitops-link": (
        "kitops",
        modelpack(weight("models", tar({**MODEL, "models/b": "config.json"}), "tar")),
        modelpack(),
    ),
    "kitops-parent": ("kitops", modelpack(weight("models", tar(MODEL, folders=False), "tar")), modelpack()),
    "kitops-recent": ("kitops", modelpack(*RAW), modelpack()),
    "kitops-not-read": ("kitops", modelpack(weight("models", sparse(), "tar")), modelpack()),
    "runner-index": ("docker-model-runner", [(FLAT, "linux/amd64")], FLAT),
    "runner-config": ("docker-model-runner", FLAT.but(config=b"{}"), FLAT),
    "runner-no-weights": ("docker-model-runner", modelpack(), FLAT),
    "runner-skipped-layer": (
        "docker-model-runner",
        modelpack(FLAT.layers[0], weight("models", tar(MODEL), "tar", kind="weight.config")),
        FLAT,
    ),
    "runner-format": ("docker-model-runner", modelpack(*FLAT.layers, config={"paramSize": "1m"}), GGUF),
}

ALSO = {
    "podman-artifact-path": {"podman-artifact"},
    "podman-artifact-nameless": {"podman-artifact"},
    "podman-artifact-twice": {"podman-artifact"},
    "podman-artifact-tar": {"podman-artifact"},
    "crio-some-nameless": {"crio-subpath"},
    "crio-tar": {"crio-subpath"},
    "crio-path": {"crio-subpath"},
    "crio-twice": {"crio-subpath"},
}
"""What comes along where an artifact for these clients is never without a condition."""


def read(made: Made | Index, folder: Path, *, is_pinned: bool = False) -> Artifact:
    """What is known of it when it lies in a layout."""
    store = Layout(folder)
    if isinstance(made, Made):
        return read_artifact("it", push(store, made), store, is_pinned=is_pinned)
    children = [(child, platform) for child, platform in made if platform != "untyped"]
    media_type = {"media_type": ""} if len(children) < len(made) else {}
    return read_artifact("it", push_index(store, children, "it", **media_type), store)


def verdict(client: str, artifact: Artifact) -> Verdict:
    return judge(artifact, [client])[0]


def ids(found: Verdict) -> set[str]:
    return {finding.rule.id for finding in found.findings}


EVERY = {rule.id: rule for kind in KINDS for rule in rules(kind)}


def test_every_rule_has_its_artifacts() -> None:
    assert set(BROKEN) == set(EVERY) - {"beside-modelpack"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_broken_and_kept(name: str, tmp_path: Path) -> None:
    client, broken, kept = BROKEN[name]
    is_pinned = name == "modctl-digest"
    found = verdict(client, read(broken, tmp_path / "broken", is_pinned=is_pinned))
    assert ids(found) == {name} | ALSO.get(name, set())
    finding = next(each for each in found.findings if each.rule.id == name)
    assert found.outcome is max((each.rule.outcome for each in found.findings), key=lambda each: each.weight)
    assert finding.places or finding.found, "nothing says where"
    assert name not in ids(verdict(client, read(kept, tmp_path / "kept")))


WORKING: list[tuple[str, Made | Index]] = [
    *((client, CAR) for client in ("containerd", "crio", "podman", "kserve", "kserve-native", "kserve-fetch")),
    *((client, [(CAR, "linux/arm64")]) for client in ("containerd", "crio", "podman", "kserve", "kserve-fetch")),
    ("containerd", [(CAR, "")]),
    ("containerd", image(tar_layer(packed="zstd"))),
    ("podman", image(rootfs={"diff_ids": []})),
    ("crio", modelpack(weight("models/model.gguf", b"x"))),
    ("oras", modelpack(*RAW)),
    ("modctl", modelpack()),
    ("modctl", modelpack(*RAW)),
    ("kitops", modelpack()),
    ("docker-model-runner", FLAT),
    ("docker-model-runner", GGUF),
]


@pytest.mark.parametrize(("client", "made"), WORKING, ids=range(len(WORKING)))
def test_what_works_works(client: str, made: Made | Index, tmp_path: Path) -> None:
    found = verdict(client, read(made, tmp_path))
    assert (found.outcome, ids(found)) == (Outcome.WORKS, set())


def test_later_layers_are_laid_over_the_earlier(tmp_path: Path) -> None:
    """Whiteouts remove, a file takes the place of a folder, and what comes again counts as it came."""
    first = tar_layer({"models/a": b"a", "models/b/c": b"c", "models/d": b"d", "bin/sh": b""}, mode=0o600)
    second = tar_layer({"models/.wh.a": b"", "models/b": b"", "bin/.wh..wh..opq": b"", "bin/ls": b""})
    third = tar_layer({"models/a": b"again"})
    entry = read(image(first, second, third), tmp_path).entries[0]
    assert sorted(entry.tree) == ["bin", "bin/ls", "models", "models/a", "models/b", "models/d"]
    assert (entry.tree["models/a"].mode, entry.tree["models/d"].mode) == (0o644, 0o600)


def test_an_entrypoint_of_a_config_that_is_none(tmp_path: Path) -> None:
    for raw in (b"[]", b"{", b'{"config": [], "rootfs": 7}', encode({"config": {"Entrypoint": None}})):
        found = verdict("kserve", read(CAR.but(config=raw), tmp_path))
        assert ids(found) == {"image-diff-ids"}


def test_the_manifest_beside_an_image(tmp_path: Path) -> None:
    """A client that knows models is told of it; of the others each hears of the image instead."""
    whole, shared, raw = (read(made, tmp_path) for made in ([(CAR, "linux/amd64")], modelpack(), modelpack(*RAW)))
    for client in ("modctl", "kitops"):
        found = judge(whole, [client], shared)[0]
        assert (found.outcome, found.instead, ids(found)) == (Outcome.CONDITION, "it", {"beside-modelpack"})
    assert ids(judge(whole, ["docker-model-runner"], shared)[0]) == {"runner-index", "runner-no-weights"}
    assert ids(judge(whole, ["docker-model-runner"], raw)[0]) == {"beside-modelpack"}
    assert judge(whole, ["containerd"], shared)[0] == verdict("containerd", whole)
    found = judge(shared, ["containerd"], whole)[0]
    assert (found.outcome, found.instead) == (Outcome.EMPTY, "it")


@pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)
def test_a_rule_says_everything(rule: Rule) -> None:
    for member in ("id", "look", "why", "source", "advice"):
        text = getattr(rule, member)
        assert text and text == text.strip() and "\n" not in text, member
    assert rule.why.endswith((".", ")"))
    assert not rule.look.endswith(".")
    assert re.fullmatch(r"[a-z0-9-]+", rule.id)


def test_the_document_is_that_of_the_code() -> None:
    assert (ROOT / "docs/check.md").read_text() == document(), "run make docs"


def test_every_rule_is_used() -> None:
    """A rule that no code names is a promise that nobody keeps."""
    code = "".join(path.read_text() for path in (ROOT / "containers/check").glob("*.py"))
    names = {
        name: rule
        for kind in KINDS
        for name, rule in vars(import_module(f"containers.check.rules.{kind}")).items()
        if isinstance(rule, Rule)
    }
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()


def test_ids_are_unique() -> None:
    every = [rule.id for kind in KINDS for rule in rules(kind)]
    assert len(every) == len(set(every))


def test_a_few_names_stand_for_the_clients() -> None:
    images = ["containerd", "crio", "podman", "kserve", "kserve-native", "kserve-fetch"]
    assert list(CLIENTS) == [*images, "modctl", "kitops", "docker-model-runner", "oras"]
    assert all(client.how and client.needs for client in CLIENTS.values())


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("limit", "value", "made"),
    [
        ("MAX_LAYERS", 1, image(tar_layer({"a": b""}), tar_layer({"b": b""}))),
        ("MAX_MEMBERS", 3, image(tar_layer({str(at): b"" for at in range(5)}))),
        ("MAX_HEADERS", 1024, image(tar_layer({str(at): b"" for at in range(5)}))),
        ("MAX_PACKED", 20, image(tar_layer({"a": b""}, packed="gzip"))),
        ("MAX_UNPACKED", 1024, image(tar_layer({"a": bytes(4096), "b": b""}, packed="gzip"))),
    ],
)
def test_what_is_beyond_a_limit_is_said_not_to_be_known(
    limit: str, value: int, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids(verdict("containerd", read(made, tmp_path))) == {"image-no-models"}
    monkeypatch.setattr(members, limit, value)
    artifact = read(made, tmp_path)
    for client in ("containerd", "kserve", "kserve-native", "kserve-fetch"):
        assert ids(verdict(client, artifact)) == {"image-not-read"}, client


Hostile = Callable[[], Made | Index]

HOSTILE: dict[str, Hostile] = {
    "layers": lambda: image().but(layers=tuple(weight(f"{at}", b"") for at in range(6_000))),
    "tars": lambda: image().but(layers=tuple(tar_layer({str(at): b""}) for at in range(520))),
    "annotations": lambda: modelpack(weight("models", tar(MODEL), "tar").annotated(**{FILEPATH: "a/" * 1_000_000})),
    "one deep name": lambda: image(tar_layer({"a/" * 30_000 + "b": b"", **MODEL}, folders=False)),
    "whiteouts": lambda: image(
        *(tar_layer({f"{at}/.wh.{name}": b"" for name in range(300)}, folders=False) for at in range(10))
    ),
    "many digests": lambda: image(rootfs={"diff_ids": [DIFF_ID] * 40_000}),
    "a deep config": lambda: image().but(config=b'{"rootfs":' * 100_000),
    "headers without end": lambda: image(Part(IMAGE_LAYER, tar({"a": b""})[:512] * 21_000)),
    "zeros in gzip": lambda: image(Part(IMAGE_LAYER + "+gzip", gzip.compress(tar({"models/a": bytes(8 << 20)})))),
    "children": lambda: [(image(tar_layer({str(at): b""})), "linux/amd64") for at in range(60)],
    "a manifest for a layer": lambda: image().but(layers=(Part(MANIFEST, b"{}"),)),
}


MEMORY = 300 << 20
"""Bytes that `packer check` may have in memory; it starts with some 60 MiB."""


_PEAK = """
import os, resource, sys
_, status = os.waitpid(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Tells the peak of a command in KiB. It is small itself: what starts a program counts as the program's peak."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_artifacts_cost_little(name: str, tmp_path: Path) -> None:
    """Every client has an answer, of a size that one can read. The time limit is pytest's."""
    made, store = HOSTILE[name](), Layout(tmp_path / "layout")
    if isinstance(made, Made):
        push(store, made, "it")
    else:
        push_index(store, made, "it")
    command: list[str | Path] = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _PEAK,
        PACKER,
        "check",
        f"oci:{tmp_path}/layout:it",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 3
    assert int(done.stderr.split()[-1]) << 10 < MEMORY
    assert len(done.stdout) < 200_000


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    """No digest can, so somebody lies: the manifest that comes is another one."""
    store = Layout(tmp_path)
    index = push_index(store, [(image(), "linux/amd64")], "it")
    child = tmp_path / "blobs/sha256" / index.manifests[0].digest.removeprefix("sha256:")
    child.chmod(0o644)
    child.write_bytes(index.raw)
    with pytest.raises(ContentError):
        read_artifact("it", index, store)
