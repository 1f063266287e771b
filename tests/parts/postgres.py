"""A real PostgreSQL on loopback, of Debian's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.parts.servers import end, reserved_port

_USER = "postgres"
"""Who runs it: it refuses to run as root."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, for SQLAlchemy with psycopg."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    data = folder / "data"
    try:
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        _run([programs / "initdb", "-D", data, "-A", "trust", "-U", _USER, "--no-sync"])
        with reserved_port() as port, (folder / "log").open("wb") as log:
            options = ["-D", data, "-p", port, "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off"]
            server = subprocess.Popen(_as_user([programs / "postgres", *options]), stdout=log, stderr=log, cwd=folder)
            try:
                _await(programs, port, server, folder / "log")
                yield f"postgresql+psycopg://{_USER}@127.0.0.1:{port}/postgres"
            finally:
                end(server)
    finally:
        shutil.rmtree(folder)


def _await(programs: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        if subprocess.run(ready, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _run(command: Sequence[object]) -> None:
    subprocess.run(_as_user(command), check=True, capture_output=True, cwd="/")


def _as_user(command: Sequence[object]) -> list[str]:
    words = [str(word) for word in command]
    if os.getuid():
        return words
    user = pwd.getpwnam(_USER)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *words]
