"""Ctrl-C, some seconds from now."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """The block is interrupted after so many seconds, as by a user."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
