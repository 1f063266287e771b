"""A build's process: `python -m packer.listener.child PARENT MEMORY TURN ARGUMENT...` is `packer ARGUMENT...`, which
ends with its parent, waits while another holds the file TURN, and gets MEMORY bytes, or all that there are if it is 0.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys

from packer.cli import main

_PR_SET_PDEATHSIG = 1


def run(parent: str, memory: str, turn: str, *arguments: str) -> None:
    """Exit as `packer` does. On Linux the kernel ends this process when the thread that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the listener that wanted this is gone")
    if limit := int(memory):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    mine = os.open(turn, os.O_RDWR | os.O_CREAT, 0o600)  # held until the process is gone
    fcntl.flock(mine, fcntl.LOCK_EX)
    main(arguments)


if __name__ == "__main__":
    run(*sys.argv[1:])
