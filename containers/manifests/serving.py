"""What is decided before a document is written: the runtime, its image, the length, the memory, the names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from containers.gpus import is_nvidia
from containers.manifests.memory import Estimate, estimate
from containers.manifests.model import Model
from containers.manifests.options import Options
from containers.manifests.runtimes import Runtime, Server, check_gpus, image_of, runtime_for
from registry.errors import UsageError

MODELS = "/mnt/models"
"""The folder of models in a server, as KServe has it."""

USER = 1010
"""The user id that everything runs as: the one that KServe gives to modelcars, whose files open to no other."""


@dataclass(frozen=True)
class Serving:
    """A model, what the user asked for, and what follows from both.

    `below` is where the server wants the model in its folder: empty, or such as `/name/1`.
    """

    model: Model
    options: Options
    name: str
    runtime: Runtime
    image: str
    estimate: Estimate
    port: int
    below: str

    @property
    def mount(self) -> str:
        """Where the server finds the model, unless a mode says otherwise."""
        return f"{MODELS}{self.below}"

    @property
    def gpus(self) -> int:
        """GPUs of a server."""
        return self.estimate.gpus

    @property
    def release(self) -> str:
        """What tells this release from others in names and folders: `sha256-` and twelve digits of its digest."""
        return str(self.model.reference.digest).replace(":", "-")[:19]

    def server(self, path: str = "") -> Server:
        """What the runtime's arguments are made from, with the model at `path` or where it is mounted."""
        return Server(self.model, path or self.mount, self.name, self.port, self.options.sequences, self.estimate)


def decide(model: Model, options: Options) -> Serving:
    """Decide; `ModelError` or `UsageError` for what cannot be served so."""
    runtime = runtime_for(model, options.runtime)
    gpus = runtime.gpus if options.gpu is None else options.gpu
    check_gpus(model, runtime, gpus)
    if gpus and not is_nvidia(options.gpu_resource) and not options.runtime_image:
        what, hint = f"the image of {runtime.name} here is built for GPUs of NVIDIA", "--runtime-image IMAGE"
        raise UsageError(what, expected="nvidia.com/...", found=options.gpu_resource, hint=hint)
    name = name_of(model, options)
    memory = estimate(model, runtime.footprint, gpus, options.length, options.sequences, options.memory)
    image, port = image_of(runtime, gpus, options.runtime_image), options.port or runtime.port
    return Serving(model, options, name, runtime, image, memory, port, runtime.below.format(name=name))


MAX_NAME = 40
"""Characters: the names of Services may have 63, and some are made longer here and by controllers."""

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def name_of(model: Model, options: Options) -> str:
    """The name of the objects, as RFC 1035 has labels: the user's, or made of the repository's."""
    if options.name:
        if not _NAME.fullmatch(options.name) or len(options.name) > MAX_NAME:
            raise UsageError(
                "this is no name for objects of Kubernetes",
                expected=f"at most {MAX_NAME} lower-case letters, digits and -, beginning with a letter",
                found=options.name,
            )
        return options.name
    plain = re.sub(r"[^a-z0-9]+", "-", model.reference.repository.rpartition("/")[2].lower())
    named = plain if plain[:1].isalpha() else f"model-{plain}"
    return named[:MAX_NAME].strip("-")
