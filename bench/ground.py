"""Where registries are measured: a model on tmpfs, registries beside it, packer with a memory of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import deep
from bench.measure import ROOT, Attempt, Cost, once
from bench.rivals import Rival, reference
from tests.parts.servers import docker_registry

PACKER = ROOT / ".venv/bin/packer"
SHARDS = 4
_LARGE = 1 << 24


@dataclass(frozen=True)
class Ground:
    """A folder for one set of measurements."""

    folder: Path

    @property
    def model(self) -> Path:
        """The model, while it is there."""
        return self.folder / "model"

    @property
    def layout(self) -> Path:
        """The model as an OCI layout, while it is there."""
        return self.folder / "layout"

    @property
    def out(self) -> Path:
        """What is pulled."""
        return self.folder / "out"

    @property
    def cache(self) -> Path:
        """What packer remembers."""
        return self.folder / "cache"

    @property
    def temporary(self) -> Path:
        """Where packer's temporary files would be."""
        return self.folder / "temporary"

    @property
    def weights(self) -> list[Path]:
        """The large files of the model, or of the layout if that is what is there."""
        places = (self.model if self.model.exists() else self.layout / "blobs/sha256").iterdir()
        return sorted(path for path in places if path.stat().st_size > _LARGE)

    @property
    def left(self) -> int:
        """Bytes in packer's folders."""
        folders = (self.cache, self.temporary)
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def packer(self, *words: str | Path) -> Cost:
        """The cost of one packer command."""
        self.temporary.mkdir(exist_ok=True)
        return once([PACKER, *words], {"PACKER_CACHE": str(self.cache), "TMPDIR": str(self.temporary)})

    def clear(self) -> None:
        """Have packer remember nothing, and nothing pulled."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    @contextmanager
    def registry(self) -> Iterator[str]:
        """The address of a registry that is empty."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, docker_registry(Path(folder)) as server:
            yield server.address

    def pushing(self, *words: str | Path) -> Attempt:
        """A packer command that ends with a reference: to a new registry, with nothing remembered."""

        def attempt() -> Cost:
            self.clear()
            with self.registry() as address:
                return self.packer(*words, reference(address))

        return attempt

    def beside(self, rival: Rival) -> Attempt:
        """A rival's push to a new registry; what it keeps on this side goes before and after."""

        def attempt() -> Cost:
            with self.registry() as address, rival.prepared():
                return once(rival.command(address))

        return attempt

    def to_sink(self, *words: str | Path) -> Attempt:
        """A packer command that ends with a reference, to a sink, with nothing remembered."""

        def attempt() -> Cost:
            self.clear()
            with sink() as address:
                return self.packer(*words, reference(address))

        return attempt


def make_model(folder: Path) -> None:
    """Two gigabytes of normal numbers in four files, with their index."""
    folder.mkdir()
    each, places = deep.TENSORS // SHARDS, dict[str, str]()
    for shard in range(SHARDS):
        name, numbers = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors", range(shard * each, (shard + 1) * each)
        deep.model(folder / name, numbers)
        places |= {f"t{number}": name for number in numbers}
    index = {"metadata": {"total_size": deep.TENSORS * 2 * deep.ELEMENTS}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@contextmanager
def sink() -> Iterator[str]:
    """The address of a registry that only counts bytes, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
