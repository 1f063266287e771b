"""GGUF models quantized by llama.cpp's own tools, which then load what came out and answer with it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from formats import gguf
from formats.examine import examine
from formats.findings import RejectedError
from formats.snapshot import ModelFile
from packer.sources import parse_source
from recipes.engines.gguf import known_types, result_name, run
from recipes.task import PARTIAL, Done, Step, Task
from registry.blob import FileBlob
from registry.errors import ModelError, SpaceError, UsageError
from tests.parts import llama, models
from tests.parts.command import ROOT
from tests.parts.command import run as command

PROMPT = "The capital of France is"
TENSORS, NORMS = 272, 61


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in F16, made from its Q4_1: a model of 271 MB whose weights are plain."""
    command(ROOT / "scripts/llama.sh", llama.FOLDER)
    folder = tmp_path_factory.mktemp("original")
    (source,) = models.gguf().glob("*.gguf")
    llama.quantize("--allow-requantize", source, folder / "smollm2.F16.gguf", "F16")
    return folder / "smollm2.F16.gguf"


@pytest.fixture
def tool(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`llama-quantize`, found on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return llama.program("llama-quantize", tmp_path / "bin")


def task(source: Path, target: Path, *files: str, **settings: Any) -> Task:
    return Task("llama.cpp", settings, source, target, files)


def quantize(source: Path, target: Path, *files: str, **settings: Any) -> Done:
    return run(task(source, target, *files, **settings), lambda step: None)


def headers(*paths: Path) -> dict[str, str]:
    """The type of every tensor by its name."""
    read = (gguf.read_header(ModelFile.of(path.name, FileBlob.at(path))) for path in paths)
    return {tensor.name: tensor.dtype for header in read for tensor in header.tensors}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("kind", "size", "tensors"),
    [
        ("Q8_0", 0.54, {"F32", "Q8_0"}),
        # rows of 576 are no multiple of 256, so llama.cpp takes types with smaller blocks for most of this model
        ("Q4_K_M", 0.40, {"F32", "Q5_0", "Q8_0", "Q4_K", "Q6_K"}),
        ("Q6_K", 0.52, {"F32", "Q8_0", "Q6_K"}),
    ],
)
def test_a_type_makes_a_model_that_answers(
    original: Path, tool: Path, tmp_path: Path, kind: str, size: float, tensors: set[str]
) -> None:
    steps: list[Step | str] = []
    done = run(task(original.parent, tmp_path / "made", original.name, type=kind), steps.append)
    name = f"smollm2.{kind}.gguf"
    made = tmp_path / "made" / name
    assert done.files == {original.name: (name,)}
    assert names(made.parent) == [name]
    assert made.stat().st_size < size * original.stat().st_size
    assert made.stat().st_mode & 0o777 == 0o644
    assert examine(parse_source(str(made.parent)).fetch()).ok
    assert "Paris" in llama.generate(made, PROMPT)
    types_now = headers(made)
    assert set(types_now.values()) == tensors
    assert sum(dtype == "F32" for dtype in types_now.values()) == NORMS
    assert {module.name: module.scheme for module in done.modules} == {
        name: "" if dtype == "F32" else dtype for name, dtype in types_now.items()
    }
    assert {m.why for m in done.modules if not m.is_quantized} == {"llama.cpp keeps it in F32: one-dimensional"}
    assert [step.done for step in steps if isinstance(step, Step)] == list(range(1, TENSORS + 1))
    last = steps[-1]
    assert isinstance(last, Step) and (last.total, last.unit) == (TENSORS, "tensors") and last.name in types_now


def test_the_same_twice(original: Path, tool: Path, tmp_path: Path) -> None:
    for folder in "one", "two":
        quantize(original.parent, tmp_path / folder, original.name, type="Q4_K_M")
    one, two = (models.digests(tmp_path / folder) for folder in ("one", "two"))
    assert one == two


def test_what_is_quantized_is_refused_unless_it_is_wished(original: Path, tool: Path, tmp_path: Path) -> None:
    (source,) = models.gguf().glob("*.gguf")
    with pytest.raises(UsageError, match="quantized already") as caught:
        quantize(source.parent, tmp_path / "made", source.name, type="Q8_0")
    assert caught.value.subject == source.name
    assert caught.value.found == "token_embd.weight of Q8_0"
    assert names(tmp_path / "made") == []
    done = quantize(source.parent, tmp_path / "made", source.name, type="Q8_0", requantize=True)
    assert done.files == {source.name: ("SmolLM2-135M-Instruct.Q4_1-Q8_0.gguf",)}
    assert "Paris" in llama.generate(tmp_path / "made" / done.files[source.name][0], PROMPT)


def test_a_split_keeps_its_parts(original: Path, tool: Path, tmp_path: Path) -> None:
    """The parts are links to files of other names, and lie in a folder of the model."""
    (tmp_path / "parts").mkdir()
    folder = tmp_path / "source" / "gguf"
    folder.mkdir(parents=True)
    llama.gguf_split("--split", "--split-max-size", "60M", original, tmp_path / "parts" / "smollm2-F16")
    files = names(tmp_path / "parts")
    assert len(files) == 5
    for number, name in enumerate(files):
        hidden = tmp_path / f"blob{number}"
        (tmp_path / "parts" / name).rename(hidden)
        (folder / name).symlink_to(hidden)
    given = tuple(f"gguf/{name}" for name in files)
    done = quantize(folder.parent, tmp_path / "made", *given, type="Q8_0")
    made = tuple(f"gguf/smollm2-Q8_0-{number:05}-of-00005.gguf" for number in range(1, 6))
    assert done.files == {given[0]: made, **dict.fromkeys(given[1:], ())}
    assert names(tmp_path / "made/gguf") == [name.removeprefix("gguf/") for name in made]
    assert examine(parse_source(str(tmp_path / "made")).fetch()).ok
    paths = [tmp_path / "made" / name for name in made]
    assert Counter(headers(*paths).values()) == {"F32": 61, "Q8_0": 211}
    assert len(done.modules) == TENSORS
    assert "Paris" in llama.generate(paths[0], PROMPT)


def test_parts_that_are_not_all_there_are_refused(original: Path, tool: Path, tmp_path: Path) -> None:
    for files in [("m-00001-of-00002.gguf",), ("a.gguf", "b.gguf"), (), ("model.safetensors",)]:
        with pytest.raises(UsageError, match="one GGUF model at a time"):
            quantize(original.parent, tmp_path / "made", *files, type="Q8_0")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("model.gguf", "model-Q6_K.gguf"),
        ("model-F16.gguf", "model-Q6_K.gguf"),
        ("a/b.fp16.gguf", "a/b.Q6_K.gguf"),
        ("model_bf16_v2.gguf", "model_Q6_K_v2.gguf"),
        ("F32.gguf", "Q6_K.gguf"),
        ("f16/model.gguf", "f16/model-Q6_K.gguf"),
        ("elf16.gguf", "elf16-Q6_K.gguf"),
        ("f16-to-F32.gguf", "f16-to-Q6_K.gguf"),
        ("model-F16-00001-of-00003.gguf", "model-Q6_K.gguf"),
        ("model-00001-of-00003.gguf", "model-Q6_K.gguf"),
    ],
)
def test_names(name: str, made: str) -> None:
    assert result_name(name, "Q6_K") == made


@pytest.mark.parametrize("given", ["Q9_0", "F16", "COPY", "", None, 8])
def test_an_unknown_type_is_told_the_known_ones(original: Path, tool: Path, tmp_path: Path, given: object) -> None:
    with pytest.raises(UsageError, match="no such type") as caught:
        quantize(original.parent, tmp_path, original.name, type=given)
    assert {"Q8_0", "Q4_K_M", "IQ4_XS"} <= set(str(caught.value.expected).split(", "))


def test_other_settings_are_refused(original: Path, tool: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such option"):
        quantize(original.parent, tmp_path, original.name, type="Q8_0", threads=3)
    with pytest.raises(UsageError, match="true or false"):
        quantize(original.parent, tmp_path, original.name, type="Q8_0", requantize="yes")


def test_short_names_are_llamas(original: Path, tool: Path, tmp_path: Path) -> None:
    done = quantize(original.parent, tmp_path / "made", original.name, type="q4_k")
    assert done.files[original.name] == ("smollm2.Q4_K_M.gguf",)


def test_every_known_type_is_llamas_own(original: Path) -> None:
    """`llama-quantize` lists the types that it knows; NVFP4 it can read only."""
    listed = llama_help()
    assert {name: number for name, number in known_types().items() if name != "NVFP4"}.items() <= listed.items()


def llama_help() -> dict[str, int]:
    with pytest.raises(AssertionError) as caught:  # it ends with 1 whenever it explains itself
        llama.quantize("--help")
    lines = (line.split() for line in str(caught.value).replace("\\n", "\n").splitlines())
    return {words[2]: int(words[0]) for words in lines if words[1:2] == ["or"]}


def test_without_llama_a_hint_says_what_to_install(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        quantize(original.parent, tmp_path / "made", original.name, type="Q8_0")
    assert "packer[llama]" in caught.value.hint
    assert names(tmp_path / "made") == []


def test_what_llama_says_is_the_reason(original: Path, tool: Path, tmp_path: Path) -> None:
    """Types of two bits and less need a matrix of importance, which the engine does not have."""
    with pytest.raises(ModelError, match="could not quantize") as caught:
        quantize(original.parent, tmp_path / "made", original.name, type="IQ2_XXS")
    assert "imatrix" in str(caught.value.found)
    assert caught.value.subject == original.name
    assert names(tmp_path / "made") == []


def script(tool: Path, body: str) -> None:
    tool.write_text(f"#!/bin/sh\n{body}\n")


def test_an_older_llama_does_not_know_a_newer_type(original: Path, tool: Path, tmp_path: Path) -> None:
    """A double, as there is but one llama.cpp here: the words are those of a real one for an unknown type."""
    script(tool, "echo \"llama_quantize: invalid ftype 'Q1_0'\" >&2; exit 1")
    with pytest.raises(UsageError, match="too old"):
        quantize(original.parent, tmp_path / "made", original.name, type="Q1_0")


def test_a_killed_llama_is_told_as_such(original: Path, tool: Path, tmp_path: Path) -> None:
    script(tool, "kill -KILL $$")
    with pytest.raises(SpaceError, match="killed"):
        quantize(original.parent, tmp_path / "made", original.name, type="Q8_0")


def test_a_result_that_is_not_whole_is_refused(original: Path, tool: Path, tmp_path: Path) -> None:
    """A double that ends well and wrote half a file."""
    script(tool, 'head -c 3000000 "$1" > "$2"')
    with pytest.raises(RejectedError) as caught:
        quantize(original.parent, tmp_path / "made", original.name, type="Q8_0")
    assert caught.value.subject == "smollm2.Q8_0.gguf"
    assert names(tmp_path / "made") == []


CHILD = """
import os, signal, sys
from pathlib import Path
from recipes.engines.gguf import run
from recipes.task import Task
source, target = map(Path, sys.argv[1:])
def tell(step):
    (tool,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(tool), signal.SIGSTOP)  # so that it cannot end by itself
    print(tool, flush=True)
    signal.pause()
run(Task("llama.cpp", {"type": "Q4_K_M"}, source.parent, target, (source.name,)), tell)
"""


def test_a_killed_child_takes_llama_along(original: Path, tool: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", CHILD, str(original), str(tmp_path / "made")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout
        pid = int(child.stdout.readline())
        assert "quantize" in Path(f"/proc/{pid}/cmdline").read_text()
        child.kill()
    try:
        assert wait_for_end(pid)
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    assert names(tmp_path / "made")
    assert all(name.startswith(PARTIAL) for name in names(tmp_path / "made"))


def wait_for_end(pid: int, seconds: float = 30) -> bool:
    """Whether a process is gone, or dead and not yet buried, before the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.timeout(90)
def test_an_error_on_the_way_ends_llama(original: Path, tool: Path, tmp_path: Path) -> None:
    """Whoever is told may raise, as on Ctrl-C: nothing runs on, and nothing is left. Stopped, it cannot end itself."""
    before, started = children(), list[int]()

    def tell(step: Step | str) -> None:
        started.extend(children() - before)
        os.kill(started[-1], signal.SIGSTOP)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task(original.parent, tmp_path / "made", original.name, type="Q8_0"), tell)
    assert started
    assert names(tmp_path / "made") == []
    assert children() == before


def children() -> set[int]:
    """The processes that this one has started and that are there: the servers of other tests, and llama-quantize."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


class Params(ctypes.Structure):
    _fields_ = [("ftype", ctypes.c_int), ("allow_requantize", ctypes.c_bool), ("keep_split", ctypes.c_bool)]


def llama_cpp(code: int) -> types.ModuleType:
    """A double of the package, which takes half an hour to build: what its documentation says of four names.

    The work is the real tool's.
    """
    module = types.ModuleType("llama_cpp")
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    hear: list[Any] = []

    def quantize(source: bytes, target: bytes, reference: Any) -> int:
        params = reference._obj
        assert params.ftype == 7 and not params.allow_requantize
        for piece in b"[   1/ 272] output_norm.weight - [", b"576]\n", b"a: failed to quantize: no luck\n":
            hear[-1](1, piece, None)
        if not code:
            split = ["--keep-split"] * params.keep_split
            llama.quantize(*split, source.decode(), target.decode(), "Q8_0")
        return code

    vars(module).update(
        llama_model_quantize_default_params=Params,
        llama_log_callback=callback,
        llama_log_set=lambda function, data: hear.append(function),
        llama_model_quantize=quantize,
    )
    return module


def test_the_package_does_what_the_program_does(
    original: Path, tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(original.parent, tmp_path / "program", original.name, type="Q8_0")
    (tmp_path / "parts").mkdir()
    llama.gguf_split("--split", "--split-max-size", "100M", original, tmp_path / "parts" / "m")
    tool.unlink()
    monkeypatch.setitem(sys.modules, "llama_cpp", llama_cpp(0))
    steps: list[Step | str] = []
    run(task(original.parent, tmp_path / "package", original.name, type="Q8_0"), steps.append)
    assert steps == [Step(1, 272, "tensors", "output_norm.weight")]
    assert models.digests(tmp_path / "package") == models.digests(tmp_path / "program")
    done = quantize(tmp_path / "parts", tmp_path / "split", *names(tmp_path / "parts"), type="Q8_0")
    assert done.files["m-00001-of-00003.gguf"] == tuple(names(tmp_path / "split"))
    assert names(tmp_path / "split")[0] == "m-Q8_0-00001-of-00003.gguf"


def test_a_failure_of_the_package_is_told(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "llama_cpp", llama_cpp(1))
    with pytest.raises(ModelError) as caught:
        quantize(original.parent, tmp_path / "made", original.name, type="Q8_0")
    assert caught.value.found == "no luck"


def test_no_room_left(original: Path, tool: Path, tmp_path: Path) -> None:
    """llama.cpp meets the end of the disk, here a limit to what one file may take."""
    shutil.move(tool, tool.with_name("real"))
    script(tool, f"trap '' XFSZ; ulimit -f 20000; exec {tool.with_name('real')} \"$@\"")
    tool.chmod(0o755)
    with pytest.raises(SpaceError, match="could not write"):
        quantize(original.parent, tmp_path / "made", original.name, type="Q8_0")
    assert names(tmp_path / "made") == []
