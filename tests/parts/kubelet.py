"""A pod run as a kubelet runs it, where `podman kube play` does otherwise: native sidecars, and `$$` in commands.

It stands for a node that no test machine has. Containers are podman's; the order of them, the waiting for a sidecar's
startup probe, the variables in commands and what an emptyDir is follow Kubernetes' documentation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parts.podman5 import Podman5

NAME = "pod"


@contextmanager
def running(pod: dict[str, Any], podman: Podman5, folder: Path) -> Iterator[None]:
    """The pod, from the start of its server to the end of the block; its volumes are in `folder`."""
    spec = pod["spec"]
    shared = ("--share", "pid") if spec.get("shareProcessNamespace") else ()
    podman("pod", "create", "--name", NAME, "--network=host", *shared)
    try:
        for container in spec.get("initContainers", ()):
            if container.get("restartPolicy") == "Always":
                _start(container, spec, podman, folder)
                _await(container, podman)
            else:
                _start(container, spec, podman, folder)
                assert podman("wait", container["name"]).strip() == "0", podman.logs()
        for container in spec["containers"]:
            _start(container, spec, podman, folder)
        yield
    finally:
        podman("pod", "rm", "--force", "--time", "0", NAME)


def _start(container: dict[str, Any], spec: dict[str, Any], podman: Podman5, folder: Path) -> None:
    words = [expanded(word) for word in (*container.get("command", ()), *container.get("args", ()))]
    entry = ("--entrypoint", "") if container.get("command") else ()
    podman(
        *("run", "--detach", "--pod", NAME, "--name", container["name"], *entry),
        *_security({**spec["securityContext"], **container["securityContext"]}),
        *(f"--env={each['name']}={each['value']}" for each in container.get("env", ())),
        *(word for mount in container["volumeMounts"] for word in _mount(mount, spec, folder)),
        *(container["image"], *words),
    )


def _security(said: dict[str, Any]) -> Iterator[str]:
    yield f"--user={said['runAsUser']}:{said['runAsGroup']}"
    yield from (f"--cap-drop={name}" for name in said["capabilities"]["drop"])
    if not said["allowPrivilegeEscalation"]:
        yield "--security-opt=no-new-privileges"
    if said["readOnlyRootFilesystem"]:
        yield from ("--read-only", "--read-only-tmpfs=false")


def _mount(mount: dict[str, Any], spec: dict[str, Any], folder: Path) -> Iterator[str]:
    """An emptyDir is a folder that any user may write to."""
    (volume,) = (each for each in spec["volumes"] if each["name"] == mount["name"])
    assert "emptyDir" in volume
    place = folder / mount["name"]
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    access = "ro" if mount.get("readOnly") else "rw"
    yield f"--volume={place}:{mount['mountPath']}:{access}"


def _await(container: dict[str, Any], podman: Podman5) -> None:
    """Ask a startup probe until it says yes, as often as it may be asked."""
    probe = container["startupProbe"]
    command = [expanded(word) for word in probe["exec"]["command"]]
    for _ in range(probe["failureThreshold"]):
        if podman.succeeds("exec", container["name"], *command):
            return
        time.sleep(probe["periodSeconds"])
    raise AssertionError(podman.logs())


def expanded(word: str) -> str:
    """A word of a command as the kubelet gives it on: `$$` is one `$`; no variable is set here."""
    return word.replace("$$", "$")
