"""The clients, and what each makes of an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from containers.check import files, images, kserve, models
from containers.check.artifact import Artifact
from containers.check.rules.models import BESIDE
from containers.check.verdicts import Finding, Verdict, gathered


@dataclass(frozen=True)
class Client:
    """A program that takes models from registries: `how` it is used, and which versions that `needs`.

    Those that know models, or take files one by one, are served by a ModelPack manifest, the others by an image.
    """

    name: str
    how: str
    needs: str
    judge: Callable[[Artifact], Iterator[Finding]]
    knows_models: bool = False


_VOLUMES = "Kubernetes 1.33 with the gate ImageVolume, 1.35 without"

CLIENTS = {
    client.name: client
    for client in (
        Client(
            "containerd",
            "image volumes",
            f"containerd 2.1, with subPath 2.2; {_VOLUMES}",
            images.containerd,
        ),
        Client("crio", "image volumes, of images and of artifacts", f"CRI-O 1.33; {_VOLUMES}", files.crio),
        Client(
            "podman",
            "--mount type=image, and podman kube play with image volumes; of artifacts --mount type=artifact",
            "podman 4; kube play 5.3; artifacts 5.5",
            files.podman,
        ),
        Client("kserve", "oci://, as a modelcar", "KServe 0.12 with enableModelcar", kserve.modelcar),
        Client(
            "kserve-native",
            "oci+native://, an image volume with subPath: models",
            f"KServe 0.20; containerd 2.2 or CRI-O 1.33; {_VOLUMES}",
            kserve.native,
        ),
        Client("kserve-fetch", "oci+fetch://, by the storage initializer", "KServe after 0.20", kserve.fetch),
        Client("modctl", "modctl pull --extract-dir", "any", models.modctl, knows_models=True),
        Client("kitops", "kit pull, kit unpack", "KitOps 1.6, which knows ModelPack", models.kitops, knows_models=True),
        Client(
            "docker-model-runner",
            "docker model pull, docker model run",
            "1.0",
            models.docker_model_runner,
            knows_models=True,
        ),
        Client("oras", "oras pull", "any", files.oras, knows_models=True),
    )
}


def judge(artifact: Artifact, clients: Iterable[str], beside: Artifact | None = None) -> tuple[Verdict, ...]:
    """What each client makes of an artifact; `beside` is the other of its build, an image or a ModelPack manifest."""
    return tuple(_judged(CLIENTS[name], artifact, beside) for name in clients)


def _judged(client: Client, artifact: Artifact, beside: Artifact | None) -> Verdict:
    """A client that knows models is told what becomes of the manifest beside an image, as if it had been given that.

    For the others an artifact stays what it is, and the image is named to be given instead.
    """
    verdict = Verdict(client.name, gathered(client.judge(artifact)))
    if not beside or not verdict.outcome.is_bad or client.knows_models == beside.is_index:
        return verdict
    other = Verdict(client.name, gathered(client.judge(beside)))
    if other.outcome.is_bad:
        return Verdict(client.name, gathered((*verdict.findings, *other.findings)))
    if not client.knows_models:
        return replace(verdict, instead=beside.reference)
    found = BESIDE.finding([beside.reference], advice=f"{BESIDE.advice}: {beside.reference}")
    return Verdict(client.name, (found, *other.findings), beside.reference)
