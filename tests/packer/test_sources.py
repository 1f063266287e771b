"""An artifact as a source: several packers want the same at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from containers.unpack import unpack
from packer.sources import ArtifactSource, Reach
from registry.access import Access
from registry.errors import TransferError
from registry.reference import parse_reference
from tests.parts import tiny
from tests.parts.command import release


def test_one_fetches_and_the_others_take_what_it_made(tmp_path: Path) -> None:
    release(tiny.write_folder(tmp_path / "model", tiny.SHARDED), "--to", f"oci:{tmp_path}/layout:v1")
    reference, said, fetched = parse_reference(f"oci:{tmp_path}/layout:v1"), list[str](), list[Path]()
    reach = Reach(Access(log=said.append), tmp_path / "cache" / "artifacts")

    def slowly(*arguments: Any) -> list[Path]:
        fetched.append(arguments[2])
        time.sleep(0.5)
        if len(fetched) == 1:
            raise TransferError("the first gives up")
        written = unpack(*arguments)
        time.sleep(0.5)
        return written

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(4) as pool:
        patched.setattr("packer.sources.unpack", slowly)
        futures = [pool.submit(ArtifactSource(reference, (), reach).fetch) for _ in range(4)]
        wait(futures)
    failures = [future for future in futures if future.exception()]
    assert [str(future.exception()) for future in failures] == ["the first gives up"]
    snapshots = [future.result() for future in futures if future not in failures]
    assert len(fetched) == 2
    assert len(said) == 3
    assert all(text.startswith("another packer is fetching the same model") for text in said)
    assert len({tuple((file.name, file.size) for file in snapshot.files) for snapshot in snapshots}) == 1
    made = {path.suffix for path in reach.folder.iterdir()}
    assert made == {"", ".lock"}
