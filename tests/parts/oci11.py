"""A registry that answers OCI 1.1 referrers, and the clients of others, which `scripts/oci11.sh` builds and fetches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.parts.command import ROOT, run
from tests.parts.servers import Server, reserved_port, serving

FOLDER = ROOT / ".cache" / "oci11"


@contextlib.contextmanager
def oci11(folder: Path, referrers: Literal["full", "bare", "none"] = "full") -> Iterator[Server]:
    """A registry in memory, its log in `folder`; its referrers may lack types and annotations, or be a 404."""
    folder.mkdir(parents=True, exist_ok=True)
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        command = (FOLDER / "oci11", "-address", address, "-referrers", referrers)
        with serving(command, address, "/v2/", folder / "log") as server:
            yield server


def oras(*arguments: str | Path, **options: Any) -> str:
    """What the client `oras` prints."""
    return run(FOLDER / "oras", *arguments, **options).stdout


def cosign(*arguments: str | Path, **options: Any) -> str:
    """What the client `cosign` prints."""
    return run(FOLDER / "cosign", *arguments, **options).stdout
