"""What is shipped to run the listener: manifests for Kubernetes, a unit for systemd; judged by their own tools."""

from __future__ import annotations

import os
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from packer.listener.config import RunnerKind, read_config
from packer.listener.serve import trusts_of
from registry.errors import UsageError
from tests.parts.command import PACKER, ROOT, run
from tests.parts.servers import reserved_port, serving
from tests.parts.tekton_judge import judge

MANIFEST = ROOT / "deploy/kubernetes/listener.yaml"
SYSTEMD = ROOT / "deploy/systemd"
OURS_TO_MAKE = {("Secret", "packer-listener"), ("Secret", "packer-listener-registry"), ("Secret", "huggingface")}
"""Objects that no manifest has, and the page in docs tells of, besides the ConfigMap with the build files."""

Document = dict[str, Any]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one]


@pytest.fixture
def by_kind(documents: list[Document]) -> dict[str, Document]:
    return {one["kind"]: one for one in documents}


@pytest.fixture
def pod(by_kind: dict[str, Document]) -> Document:
    spec: Document = by_kind["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_every_manifest_is_one_that_old_and_new_clusters_take(documents: list[Document]) -> None:
    for document in documents:
        judge(document)
        assert document["metadata"]["namespace"] == "models"


def test_all_that_is_named_is_there_or_told_of(documents: list[Document], pod: Document) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in documents}
    named = set(_named(pod))
    assert named - made == OURS_TO_MAKE | {("ConfigMap", "packer-listener-builds")}
    page = (ROOT / "docs/listener-tekton.md").read_text()
    assert all(name in page for _, name in named - made)


def _named(pod: Document) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        elif "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        elif "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod["containers"]:
        for variable in container["env"]:
            if "valueFrom" in variable:
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def test_whoever_sends_finds_the_pod(by_kind: dict[str, Document], pod: Document) -> None:
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    (service,) = by_kind["Service"]["spec"]["ports"]
    assert by_kind["Service"]["spec"]["selector"].items() <= labels.items()
    assert by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert service["targetPort"] == port["name"]
    assert by_kind["NetworkPolicy"]["spec"]["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": port["containerPort"]}]}
    ]
    assert by_kind["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


def test_every_container_is_without_rights_and_writes_only_to_volumes(pod: Document) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        writable = {space["mountPath"] for space in container["volumeMounts"] if not space.get("readOnly")}
        assert writable <= {"/var/lib/packer", "/tmp"}


def test_the_listener_starts_with_what_the_config_map_says_and_answers_its_probes(
    by_kind: dict[str, Document], pod: Document, tmp_path: Path
) -> None:
    (container,) = pod["containers"]
    text = by_kind["ConfigMap"]["data"]["serve.yaml"]
    config = tmp_path / "serve.yaml"
    config.write_text(text.replace("/var/lib/packer", str(tmp_path)))
    told = read_config(config)
    secrets = {hook.secret.from_env or "" for hook in told.sources if hook.secret}
    given = {one["name"] for one in container["env"] if not one.get("valueFrom", {}).get("optional")}
    assert told.runner is RunnerKind.TEKTON
    assert secrets <= given
    assert told.address == ("0.0.0.0", container["ports"][0]["containerPort"])
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        command: list[str | Path] = [PACKER, "serve", "--config", config, "--listen", address]
        with serving(command, address, probes[0], tmp_path / "log", dict.fromkeys(secrets, "s3cret")) as server:
            for path in probes:
                with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
                    assert answer.status == 200
    assert "s3cret" not in server.log.read_text()


def test_build_files_are_laid_out_and_locks_stay(pod: Document, tmp_path: Path) -> None:
    (container,) = pod["initContainers"]
    source, target = tmp_path / "keys", tmp_path / "lib"
    source.mkdir()
    (source / "smollm2__packer.yaml").write_text("new")
    (source / "smollm2__tekton__run__run.yaml").write_text("run")
    for name in ("smollm2/packer.lock", "smollm2/packer.yaml", "gone/packer.yaml"):
        (target / "builds" / name).parent.mkdir(parents=True, exist_ok=True)
        (target / "builds" / name).write_text("old")
    busybox, *words = container["command"]
    script = words[-1].replace("/etc/packer-builds", str(source)).replace("/var/lib/packer", str(target))
    for _ in range(2):
        run("/bin/busybox", *words[:-1], script)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {
        "builds/smollm2/packer.lock": "old",
        "builds/smollm2/packer.yaml": "new",
        "builds/smollm2/tekton/run/run.yaml": "run",
    }
    assert f"COPY --from=busybox /bin/busybox {busybox}\n" in (ROOT / "Containerfile").read_text()


def test_systemd_takes_the_unit_and_finds_it_well_locked_up(tmp_path: Path) -> None:
    unit = tmp_path / "packer-serve.service"
    text = (SYSTEMD / unit.name).read_text()
    assert "/opt/packer/bin/packer" in text
    unit.write_text(text.replace("/opt/packer/bin/packer", str(PACKER)))
    done = run("systemd-analyze", "verify", unit)
    assert not done.stdout + done.stderr
    run("systemd-analyze", "security", "--offline=yes", "--threshold=25", unit)  # 0 to 100, the less the better
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSytem=strict"))
    assert "ProtectSytem" in run("systemd-analyze", "verify", unit).stderr


def test_what_the_unit_starts_with_is_whole_but_for_the_secret(tmp_path: Path) -> None:
    unit = (SYSTEMD / "packer-serve.service").read_text()
    assert "EnvironmentFile=/etc/packer/serve.env\n" in unit
    assert "packer serve --config /etc/packer/serve.yaml\n" in unit
    config = read_config(SYSTEMD / "serve.yaml")
    shell = ["env", "-i", "sh", "-ac", f". {shlex.quote(str(SYSTEMD / 'serve.env'))}; env"]
    said = subprocess.run(shell, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    environment = dict(line.split("=", 1) for line in said.splitlines())
    assert environment["HOOK_TOKEN"] == ""
    with pytest.raises(UsageError, match="not there, or empty"):
        trusts_of(config, environment)
    assert trusts_of(config, {**environment, "HOOK_TOKEN": "Bearer s3cret"})
