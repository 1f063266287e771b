"""How registries are reached: who we are, whom we trust, how patient we are. Only the command line makes one."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.credentials import Credentials
from registry.memory import Memory
from registry.profile import HabitBook
from registry.retry import Log, Retry, silent
from registry.wire import Wire


@dataclass(frozen=True, eq=False)
class Access:
    """Everything that a registry's name does not say by itself.

    `plain_http` is for hosts beyond this machine: loopback is spoken to without TLS unless something is said about TLS.
    `concurrency` is how many blobs move at once; `log` is told what is tried again, and why.
    """

    credentials: Credentials = field(default_factory=Credentials)
    wire: Wire = field(default_factory=Wire)
    retry: Retry = field(default_factory=Retry)
    plain_http: bool = False
    concurrency: int = 4
    memory: Memory = field(default_factory=Memory)
    habits: HabitBook = field(default_factory=HabitBook)
    log: Log = silent
