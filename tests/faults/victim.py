"""`python -m tests.faults.victim`: clients in processes of their own, whose memory can be measured.

Each line that comes is JSON: an action, a host and a folder. So is each that goes: the name of the error's class, empty
if there was none, its exit code and text, and the most memory that the process ever had, in MiB.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

import registry.guard  # noqa: F401 - what is imported when it is first needed is imported once here
from containers.unpack import model_manifest, unpack
from registry.access import Access
from registry.blob import BytesBlob
from registry.credentials import Credentials, Login
from registry.descriptor import IMAGE_CONFIG, OCTETS, digest_of
from registry.errors import PackerError
from registry.manifest import make_manifest
from registry.remote import Remote
from registry.retry import Retry
from registry.transfer import graph_at, with_referrers
from registry.wire import Limits, Tls, Wire

CHUNK = 1 << 20
BLOB = BytesBlob.of(OCTETS, Random(1).randbytes(3 * CHUNK + 5))
SECRET = "s3cret"


class _Known(Credentials):
    """The same login for every host that asks."""

    def find(self, host: str, repository: str) -> Login | None:
        return Login("ada", SECRET)


def access(*, tls: bool = False, silence: float = 1) -> Access:
    """Impatient, and with a password to lose."""
    limits = Limits(connect=2, silence=silence)
    wire = Wire(Tls(verify=not tls), limits=limits)
    return Access(_Known(), wire, Retry(count=2, first=0.01, most=0.02, total=10))


def _push(store: Remote) -> None:
    store._habits.chunk = CHUNK
    store.push(BLOB)


def _pull(store: Remote, folder: Path) -> None:
    unpack(model_manifest(store.resolve("v1"), store), store, folder)


def _tag(store: Remote) -> None:
    store.tag(make_manifest(BytesBlob.of(IMAGE_CONFIG, b"{}").descriptor, [], {}), "v1")


ACTIONS: dict[str, Callable[[Remote, Path], object]] = {
    "resolve": lambda store, _: store.resolve("v1"),
    "tags": lambda store, _: store.tags(),
    "referrers": lambda store, _: store.referrers(digest_of(b"")),
    "pull": _pull,
    "push": lambda store, _: _push(store),
    "tag": lambda store, _: _tag(store),
    "copy": lambda store, _: with_referrers(store, [graph_at(store, store.resolve("v1"))]),
}


def attacked(action: str, host: str, folder: Path) -> dict[str, object]:
    """What becomes of one action; a failure that is none of ours says where it came from."""
    tls = host.startswith("https://")
    try:
        ACTIONS[action](Remote(host.removeprefix("https://"), "a/b", access(tls=tls), plain_http=not tls), folder)
    except PackerError as error:
        return {"error": type(error).__name__, "exit": error.exit_code, "text": str(error)}
    except BaseException:  # noqa: BLE001 - the test shows it
        return {"error": "no PackerError", "exit": 1, "text": traceback.format_exc()}
    return {"error": "", "exit": 0, "text": ""}


def main() -> None:
    """A child for each line of standard input, so that each begins as small as the others."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            action, host, folder = json.loads(line)
            found = attacked(action, host, Path(folder))
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            assert peak
            print(json.dumps({**found, "peak": int(peak[1]) >> 10}), flush=True)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            print(json.dumps({"error": "died", "exit": 1, "text": "", "peak": 0}), flush=True)


if __name__ == "__main__":
    main()
