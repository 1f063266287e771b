"""Runs a command and tells what it took: `launch.py DESCRIPTOR COMMAND...` writes JSON to the descriptor.

A process of its own, because the kernel counts the memory of whoever starts a program as the program's peak, until it
has more: what starts it must be small. It imports little and is run with `-I -S`.
"""

import json
import os
import sys
import time


def main() -> None:
    """Run, wait, tell, and end as the command ended."""
    channel, command = int(sys.argv[1]), sys.argv[2:]
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    took = time.perf_counter() - began
    with open(f"/proc/{child}/io", encoding="ascii") as file:  # noqa: PTH123 - pathlib is large
        moved = dict(line.split(": ") for line in file.read().splitlines())
    _, status, usage = os.wait4(child, 0)
    told = {
        "seconds": took,
        "megabytes": usage.ru_maxrss / 1024,
        "cpu": usage.ru_utime + usage.ru_stime,
        "read": int(moved["rchar"]) / 1e6,
        "written": int(moved["wchar"]) / 1e6,
    }
    os.write(channel, json.dumps(told).encode())
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
