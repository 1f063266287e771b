"""The parent's side of a child that works on a model: it is started, listened to, and never outlives what wanted it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Timer
from typing import IO, Any

from formats.text import printable
from recipes.engines.devices import CUDA, HIP, VISIBLE, listed
from recipes.recipe import Engine
from recipes.task import Done, Step, Task, Tell
from registry.errors import ModelError, PackerError, SpaceError, UsageError

_EXTRAS = {
    "onnxruntime": "onnx",
    "tokenizers": "onnx",
    "llama_cpp": "llama",
    "lm_eval": "evaluate",
    "datasets": "evaluate",
    "tenacity": "evaluate",
    "aiohttp": "evaluate",
}
"""The extra of packer that brings a module; all others come with `quantize`."""

_QUANTIZE = frozenset(engine.value for engine in Engine)
"""The engines that quantize; others evaluate."""

_KEPT = frozenset(
    (
        "PATH",
        "HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_DATASETS_CACHE",
        "LD_LIBRARY_PATH",
        "CUDA_HOME",
        "CUDA_DEVICE_ORDER",
        "OMP_NUM_THREADS",
        *VISIBLE,
    )
)
"""What a child gets of our environment: no credentials, and nothing that steers Python."""

_API_KEY = "OPENAI_API_KEY"
"""What opens a server that a user names: the only credential that any child gets."""

_FIXED = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LLM_COMPRESSOR_LOG_DISABLED": "true",
    "OMP_WAIT_POLICY": "passive",  # threads that wait by turning in circles make a busy machine ten times slower
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Answer:
    """What a child did, in how many seconds, with how many bytes of memory at most on the host and on the devices.

    `size` is that of all files that it made; `kind` is what computed: `cpu`, or the names of GPUs.
    """

    done: Done
    seconds: float
    host: int
    device: int
    size: int
    kind: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "done": self.done.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Answer:
        """What `to_json` made."""
        return cls(**{**document, "done": Done.from_json(document["done"])})


class Overdue(Exception):  # noqa: N818 - who sets a limit awaits it
    """The time that a child had is over."""


def run_child(task: Task, environment: Mapping[str, str], tell: Tell, seconds: float | None = None) -> Answer:
    """Have a task done by a child, which is ended with `Overdue` after so many seconds.

    `SpaceError` if memory or disk run out, `UsageError` where a library or a device is missing or the recipe is wrong,
    `ModelError` if the library fails on the model. What the child has written whole stays in every case.
    """
    with tempfile.TemporaryFile() as log, _running(_command(), _environment(task, environment), log) as process:
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError), process.stdin as stdin:  # it died before it had read all
            stdin.write(json.dumps(task.to_json()).encode())
        last: dict[str, Any] = {}
        with _limited(process, seconds) as is_overdue:
            for last in _lines(process.stdout):
                _pass_on(last, tell)
            code = process.wait()
        if is_overdue():
            raise Overdue
        if last.get("event") == "done":
            return _answer(last, task)
        if last.get("event") == "failed":
            raise _failure(last, task)
        raise _death(code, log, task)


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", "recipes.worker", str(os.getpid())]


def _lines(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that a child wrote whole; one in which it was killed is none."""
    for line in stream:
        if line.endswith(b"\n"):
            yield json.loads(line)


def _answer(line: Mapping[str, Any], task: Task) -> Answer:
    done = Done.from_json(line["done"])
    size = sum((task.target / name).stat().st_size for names in done.files.values() for name in names)
    return Answer(done, line["seconds"], line["host"], line["device"], size, line["kind"])


def _environment(task: Task, environment: Mapping[str, str]) -> dict[str, str]:
    """The child's environment, in which only the devices that it may use can be seen.

    `UsageError` if the device's number is none of those that our own environment lets us see.
    """
    wanted = _KEPT | ({_API_KEY} if task.settings.get("endpoint") else set())
    kept = {key: value for key, value in environment.items() if key in wanted or key.startswith("LC_")}
    if task.device == "cpu":
        kept |= {CUDA: "", HIP: "-1"}
    elif ":" in task.device:
        number = int(task.device.partition(":")[2])
        said = {key: kept[key] for key in (CUDA, HIP) if key in kept}
        kept |= {CUDA: str(number), **{key: _one(number, key, text, task.device) for key, text in said.items()}}
    return {**kept, **_FIXED}


def _one(number: int, key: str, text: str, device: str) -> str:
    """The device of that number among those that a variable lists."""
    seen = listed(text)
    if number >= len(seen):
        raise UsageError(
            "there is no such device",
            expected=f"cuda:0 to cuda:{len(seen) - 1}" if seen else "a GPU that can be seen",
            found=f"{device}, while {key} is {printable(text)!r}",
            hint=f"--device cpu, or list more GPUs in {key}",
        )
    return seen[number]


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed if the block ends before it."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextmanager
def _limited(process: subprocess.Popen[bytes], seconds: float | None) -> Iterator[Callable[[], bool]]:
    """The process is killed after so many seconds, if the block lasts as long; what is given tells whether it was."""
    is_over = Event()

    def end() -> None:
        is_over.set()
        process.kill()

    timer = Timer(seconds, end) if seconds is not None else None
    if timer:
        timer.start()
    try:
        yield is_over.is_set
    finally:
        if timer:
            timer.cancel()


def _pass_on(line: Mapping[str, Any], tell: Tell) -> None:
    match line["event"]:
        case "step":
            tell(Step(**{key: value for key, value in line.items() if key != "event"}))
        case "note":
            tell(line["text"])


def _failure(line: Mapping[str, Any], task: Task) -> PackerError:
    """The error that a child met."""
    match line["cause"]:
        case "missing":
            module = str(line["module"])
            extra = _EXTRAS.get(module.partition(".")[0], "quantize")
            return UsageError(
                f"{task.engine} is not here", found=f"no module {module}", hint=f"pip install 'packer[{extra}]'"
            )
        case "memory":
            return _no_memory(task, printable(str(line["found"]))[:300] or "no more")
        case "disk":
            hint = "free some and run it again: what is whole stays"
            return SpaceError("the disk is full", subject=str(task.target), found=str(line["found"]), hint=hint)
        case "library":
            return ModelError(
                f"{task.engine} fails on this model",
                found=printable(str(line["found"])),
                hint="take another recipe (packer recipes), or report it with what was found"
                if task.engine in _QUANTIZE
                else "see whether it loads and answers there: packer validate --deep",
            )
    error = {key: value for key, value in line["error"].items() if key != "what"}
    return _ERRORS.get(line["cause"], ModelError)(line["error"]["what"], **error)


_ERRORS: dict[str, type[PackerError]] = {kind.__name__: kind for kind in (UsageError, ModelError, SpaceError)}


def _no_memory(task: Task, found: str) -> SpaceError:
    sizes = [(task.source / name).stat().st_size for name in task.files]
    largest, total = max(sizes, default=0), sum(sizes)
    if task.engine not in _QUANTIZE:
        return SpaceError(
            "memory ran out",
            expected=f"the model and 2 GiB ({total + (2 << 30)} bytes)",
            found=found,
            hint="what is whole stays: run it again with another --device, or more memory",
        )
    return SpaceError(
        "memory ran out",
        expected=f"about twice the largest weight file ({2 * largest} bytes) file by file, or the model and 2 GiB "
        f"({total + (2 << 30)} bytes) where it is loaded",
        found=found,
        hint="what is whole stays: run it again with smaller files (--max-size), fewer or shorter samples "
        "(--samples, --max-length), another --device, or more memory",
    )


def _death(code: int, log: IO[bytes], task: Task) -> PackerError:
    """What is said of a child that ended without a word."""
    if code == -signal.SIGKILL:
        return _no_memory(task, "the process was killed, as the system does when memory runs out")
    log.seek(max(log.seek(0, 2) - 2000, 0))
    lines = log.read().decode(errors="replace").split("\n")
    said = printable(next((line for line in reversed(lines) if line.strip()), "nothing").strip())[:300]
    if is_about_memory(said):
        return _no_memory(task, said)
    return ModelError(f"{task.engine} ended with code {code}", found=said)


def is_about_memory(text: str) -> bool:
    """Whether what a library says is that memory ran out."""
    return any(word in text for word in _MEMORY)


_MEMORY = ("not enough memory", "out of memory", "allocate memory", "bad_alloc")
