"""Numbers and times in words."""

from __future__ import annotations

from datetime import UTC, datetime

from packer.progress import human

_UNITS = ((86400, "day"), (3600, "h"), (60, "min"), (1, "s"))


def age(seconds: float) -> str:
    """How long ago something was: `3 min ago`, or in how long it will be: `in 5 s`."""
    if abs(seconds) < 1:
        return "now"
    return f"{_rough(seconds)} ago" if seconds > 0 else f"in {_rough(-seconds)}"


def _rough(seconds: float) -> str:
    """A duration in one unit: hours up to two days, then days."""
    if seconds < 172_800:
        size, unit = next((size, unit) for size, unit in _UNITS[1:] if seconds >= size or size == 1)
        return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86400)} days"


def span(seconds: float) -> str:
    """A duration in its two largest units: `2 h 5 min`."""
    left, parts = max(0, round(seconds)), []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}")
    return " ".join(parts[:2]) or "under 1 s"


def exact(at: float) -> str:
    """A time for people who want to know it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """A time for machines."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def percent(share: float) -> str:
    """A share: `99.34 %`, cut and not rounded, so that nothing looks better than it is."""
    return f"{int(share * 10_000 + 1e-6) / 100:.2f} %"


def short(reference: str) -> str:
    """The digest of a pinned reference, its first digits."""
    digest = reference.rpartition("@")[2]
    kind, colon, digits = digest.rpartition(":")
    return f"{kind}{colon}{digits[:12]}"


def place(reference: str, tag: str | None) -> str:
    """A pinned reference by its tag."""
    where = reference.rpartition("@")[0] or reference
    return f"{where}:{tag}" if tag else where


def size(count: float) -> str:
    """A number of bytes."""
    return human(count)


def counted(count: int, what: str) -> str:
    """`1 build`, `2 builds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
