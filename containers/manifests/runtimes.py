"""The servers that a model is given to: which formats each serves, in which image, with which arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from containers.manifests.memory import Estimate, Footprint
from containers.manifests.model import Model
from containers.manifests.quantity import GI
from registry.errors import ModelError, UsageError


@dataclass(frozen=True)
class Server:
    """What the arguments of a runtime are made from: where the model is, what it is called there, and its estimate."""

    model: Model
    path: str
    name: str
    port: int
    sequences: int
    estimate: Estimate


@dataclass(frozen=True)
class Runtime:
    """A program that serves models.

    `image` is for NVIDIA's GPUs, `cpu_image` for none; empty where there is none. `gpus` are those that it has unless
    somebody asks. `below` is where it wants the model in its folder, with the name in braces. `any_user` is whether it
    runs as any user; `read_only` whether it writes nothing but to its home and /tmp; `splits_heads` whether GPUs share
    the attention heads of a model evenly.
    """

    name: str
    formats: tuple[str, ...]
    image: str
    cpu_image: str
    gpus: int
    port: int
    command: tuple[str, ...]
    arguments: Callable[[Server], list[str]]
    footprint: Footprint
    environment: Callable[[Server], dict[str, str]] = field(default=lambda _: {})
    live: str = "/health"
    ready: str = "/health"
    below: str = ""
    any_user: bool = True
    read_only: bool = True
    splits_heads: bool = False


def _vllm(server: Server) -> list[str]:
    estimate = server.estimate
    return [
        server.path,
        f"--served-model-name={server.name}",
        f"--port={server.port}",
        *([f"--max-model-len={estimate.length}"] if estimate.length else []),
        *([f"--tensor-parallel-size={estimate.gpus}"] if estimate.gpus > 1 else []),
    ]


def _sglang(server: Server) -> list[str]:
    estimate = server.estimate
    return [
        f"--model-path={server.path}",
        f"--served-model-name={server.name}",
        "--host=0.0.0.0",
        f"--port={server.port}",
        *([f"--context-length={estimate.length}"] if estimate.length else []),
        *([f"--tp-size={estimate.gpus}"] if estimate.gpus > 1 else []),
    ]


def _llama(server: Server) -> list[str]:
    estimate = server.estimate
    place = ["--host", "0.0.0.0", "--port", str(server.port)]  # noqa: S104 - a pod is reached from outside
    size = ["--ctx-size", str(estimate.length * server.sequences)] if estimate.length else []
    model = ["--model", f"{server.path}/{first_part(server.model)}", "--alias", server.name]
    layers = ["--n-gpu-layers", "999"] if estimate.gpus else []
    return [*model, *place, *size, "--parallel", str(server.sequences), *layers]


def _triton(server: Server) -> list[str]:
    """Triton looks for models below a folder, in one for each, and in that in one for each version."""
    return [f"--model-repository={server.path.removesuffix(f'/{server.name}/1')}", f"--http-port={server.port}"]


def _vllm_environment(server: Server) -> dict[str, str]:
    """It tells nobody that it runs; without GPUs it asks how many GiB its cache may take."""
    cache = {} if server.estimate.gpus else {"VLLM_CPU_KVCACHE_SPACE": str(server.estimate.cache // GI or 1)}
    return {"VLLM_NO_USAGE_STATS": "1", **cache}


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "vllm",
            ("safetensors",),
            "vllm/vllm-openai:v0.29.0",
            "vllm/vllm-openai-cpu:v0.29.0",
            1,
            8000,
            ("vllm", "serve"),
            _vllm,
            Footprint(device=5 * GI // 2, host=3 * GI, cache_unit=GI),
            environment=_vllm_environment,
            splits_heads=True,
        ),
        Runtime(
            "sglang",
            ("safetensors",),
            "lmsysorg/sglang:v0.5.15",
            "",
            1,
            30000,
            ("python3", "-m", "sglang.launch_server"),
            _sglang,
            Footprint(device=5 * GI // 2, host=3 * GI),
            any_user=False,
            read_only=False,
            splits_heads=True,
        ),
        Runtime(
            "llama.cpp",
            ("gguf",),
            "ghcr.io/ggml-org/llama.cpp:server-cuda-b11206",
            "ghcr.io/ggml-org/llama.cpp:server-b11206",
            0,
            8080,
            ("/app/llama-server",),
            _llama,
            Footprint(device=GI // 2, host=GI // 2, step_tokens=512, step_sequences=64),
        ),
        Runtime(
            "triton",
            ("onnx",),
            "nvcr.io/nvidia/tritonserver:26.07-py3",
            "nvcr.io/nvidia/tritonserver:26.07-py3",
            0,
            8000,
            ("tritonserver",),
            _triton,
            Footprint(device=GI, host=2 * GI),
            live="/v2/health/live",
            ready="/v2/health/ready",
            below="/{name}/1",
        ),
    )
}
"""By name, in the order in which they are tried for a format. The one place with the versions of their images."""


def runtime_for(model: Model, name: str) -> Runtime:
    """The runtime of that name, or the first that serves the model's format; `ModelError` naming those that can."""
    able = [runtime.name for runtime in RUNTIMES.values() if model.format in runtime.formats]
    if not able:
        raise ModelError(
            "no runtime here serves what this artifact holds",
            subject=str(model.reference),
            expected=", ".join(sorted({name for runtime in RUNTIMES.values() for name in runtime.formats})),
            found=", ".join(sorted(model.files)[:5]) or "no files",
            hint="packer inspect shows what it holds",
        )
    if name and name not in able:
        raise ModelError(
            f"{name} does not serve {model.format}", subject=str(model.reference), hint=f"--runtime {' or '.join(able)}"
        )
    runtime = RUNTIMES[name or able[0]]
    _require(model, runtime)
    return runtime


def _require(model: Model, runtime: Runtime) -> None:
    """`ModelError` for what the format alone does not tell."""
    if model.is_adapter:
        raise ModelError(
            "this is an adapter, which serves nothing without the model that it changes",
            subject=str(model.reference),
            hint="serve its base model, and mount this one beside it",
        )
    if model.format == "safetensors" and "config.json" not in model.files:
        raise ModelError(
            f"{runtime.name} needs to know what the weights are",
            subject=str(model.reference),
            expected="config.json",
            found=", ".join(sorted(model.files)[:5]),
            hint="publish the model with its configuration and its tokenizer",
        )
    if model.format == "onnx" and "model.onnx" not in model.files:
        raise ModelError(
            "triton finds a model by its name",
            subject=str(model.reference),
            expected="model.onnx at the top",
            found=", ".join(sorted(name for name in model.files if name.endswith(".onnx"))),
            hint="publish one model, as model.onnx",
        )


def image_of(runtime: Runtime, gpus: int, own: str) -> str:
    """The image to run, `own` if there is one; `UsageError` if there is none that needs no GPU."""
    image = own or (runtime.image if gpus else runtime.cpu_image)
    if not image:
        raise UsageError(f"there is no image of {runtime.name} that needs no GPU", hint="--gpu 1, or --runtime-image")
    return image


def check_gpus(model: Model, runtime: Runtime, gpus: int) -> None:
    """`UsageError` for a number of GPUs that the runtime cannot use for this model."""
    heads = model.sizes.queries if model.sizes else 0
    if gpus > 1 and runtime.splits_heads and heads % gpus:
        even = ", ".join(str(count) for count in range(1, 17) if heads % count == 0)
        raise UsageError(
            f"{runtime.name} shares the attention heads of a model evenly",
            expected=f"--gpu {even} for {heads} heads",
            found=gpus,
        )


_PART = re.compile(r"(.*)-(\d{5})-of-\d{5}\.gguf")


def first_part(model: Model) -> str:
    """The file that llama.cpp is given: the first of a split, or the only one; `ModelError` if there are several."""
    names = sorted(name for name in model.weights if not re.match(r"(.*/)?mmproj", name, re.IGNORECASE))
    firsts = [name for name in names if not (part := _PART.fullmatch(name)) or int(part[2]) == 1]
    if len(firsts) != 1:
        raise ModelError(
            "these are several models, and one is served",
            subject=str(model.reference),
            found=", ".join(firsts[:5]),
            hint="publish each by itself: packer build ... --include NAME.gguf",
        )
    return firsts[0]
