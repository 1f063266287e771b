"""`python -m tests.faults.mover push|pull HOST REPOSITORY FOLDER STATE SIZE`: a transfer that can be killed.

`FOLDER` holds the layers that are pushed, or gets the files that are pulled; `STATE` is where what lasts is kept. It
says `begun` before the first request.
"""

from __future__ import annotations

import sys
from pathlib import Path

from registry.access import Access
from registry.memory import Memory
from tests.faults.model import Model, pull, use_parts


def main() -> None:
    """Do what the command line says."""
    action, host, repository, folder, state, size = sys.argv[1:]
    model = Model(Path(folder), int(size))
    access = Access(memory=Memory(Path(state)))
    if action == "push":
        assert model.manifest
    print("begun", flush=True)
    if action == "push":
        model.push(host, repository, access)
    else:
        use_parts(model.part)
        pull(host, repository, Path(folder), access)


if __name__ == "__main__":
    main()
