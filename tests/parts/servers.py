"""Starting and stopping real servers on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """A program that answers on a loopback address, and the file with what it says."""

    address: str
    log: Path

    def held(self) -> dict[Path, int]:
        """Of a docker-registry, the files of what it holds, and when each was written."""
        files = (path for path in self.log.with_name("data").rglob("*") if path.is_file())
        return {path: path.stat().st_mtime_ns for path in files if "_uploads" not in path.parts}


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port on loopback that the system gives to nobody else in the block; a server that is told it can have it.

    Servers set SO_REUSEADDR, and so does what holds the port for them: Linux lets both have it while one alone listens.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path], address: str, path: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A running server; the block begins when it answers a GET of `path`, whatever the status."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=log.parent,
        )
    try:
        _await(f"http://{address}{path}", process, log)
        yield Server(address, log)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience: float = 20) -> None:
    """Ask a process to end, and make it after so many seconds."""
    process.terminate()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=patience)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{url} never answered\n{log.read_text()}")


@contextlib.contextmanager
def docker_registry(folder: Path, more: str = "", http: str = "") -> Iterator[Server]:
    """Debian's docker-registry with its storage in `folder`, `more` lines of configuration, more pairs under `http`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        config.write_text(
            f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
            f"http: {{addr: '{address}', {http}}}\n{more}\n"
        )
        with serving(["docker-registry", "serve", config], address, "/v2/", folder / "log") as server:
            yield server
