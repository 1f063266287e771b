"""Build files: over real artifacts in a registry, which can be made anew, and over one that never answers."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

from tests.parts import tiny
from tests.parts.command import packer, release


class Place:
    """A build file over an artifact in a registry, on a base in it; both are made here, and can be made anew."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.host = folder, f"{address}/{folder.name.lower()}"
        self.model = tiny.write_folder(folder / "model", tiny.SHARDED)
        self.push_source()
        self.push_base()
        self.file = folder / "files/packer.yaml"
        self.file.parent.mkdir()
        self.write({})

    def push_source(self) -> None:
        release(self.model, "--to", f"{self.host}/source:main", "--base", "none", "--modelpack", "none")

    def push_base(self) -> None:
        """A base is any image; one with a model of another size in it is another."""
        extra = self.folder / "base"
        shutil.rmtree(extra, ignore_errors=True)
        tiny.write_folder(extra, tiny.SHARDED)
        (extra / "notes.txt").write_text("x" * len(list(self.folder.iterdir())))
        flags = ("--base", "none", "--modelpack", "none", "--platform", "linux/amd64")
        release(extra, "--to", f"{self.host}/base:v1", *flags)

    def write(self, more: dict[str, Any]) -> None:
        publish = {"to": f"{self.host}/made:v1", "base": f"{self.host}/base:v1"}
        self.file.write_text(json.dumps({"source": f"oci://{self.host}/source:main", "publish": publish, **more}))

    def rebuild(self, *flags: str) -> tuple[int, list[dict[str, Any]]]:
        done = packer("rebuild", self.file, *flags, "--json", check=False)
        assert done.returncode in (0, 7), done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def changed(self) -> dict[str, tuple[str, str]]:
        """What `--check` says has changed: what it was and is."""
        code, told = self.rebuild("--check")
        assert code == (7 if told[0]["changed"] else 0)
        return {
            one["kind"]: tuple(side and side["value"] for side in (one["before"], one["after"]))
            for one in told[0]["changed"]
        }


class Slow:
    """A build that goes on until somebody ends it: its source is a registry that never answers."""

    def __init__(self, folder: Path) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        host = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.file = folder / "packer.yaml"
        self.file.write_text(json.dumps({"source": f"oci://{host}/a/b:v1", "publish": {"to": "oci:./out:v1"}}))
        self.asking: list[socket.socket] = []

    def asked(self) -> socket.socket:
        """Wait until the build asks."""
        self.asking.append(self.server.accept()[0])
        return self.asking[-1]

    def close(self) -> None:
        """Be gone."""
        for connection in (*self.asking, self.server):
            connection.close()
