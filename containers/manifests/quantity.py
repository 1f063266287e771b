"""Bytes in the words of Kubernetes, and of people."""

from __future__ import annotations

MI, GI = 1 << 20, 1 << 30


def quantity(size: int) -> str:
    """At least so many bytes, as a quantity of Kubernetes: whole MiB below 16 GiB, whole GiB above."""
    if size < 16 * GI:
        return f"{-(-size // MI)}Mi" if size % GI else f"{size // GI}Gi"
    return f"{-(-size // GI)}Gi"


def human(size: int) -> str:
    """Bytes for people: `93.8 MiB`."""
    return f"{size / GI:,.1f} GiB" if size >= GI else f"{size / MI:,.1f} MiB"
