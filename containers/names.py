"""What Kubernetes takes as names, which users give by flags.

https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and .../labels/
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from formats.text import printable
from registry.errors import UsageError

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_FORMS = {
    "namespace": (_LABEL, "at most 63 of a-z, 0-9 and -"),
    "name": (_SUBDOMAIN, "a-z, 0-9, - and ."),
    "key": (rf"({_SUBDOMAIN}/)?{_WORD}", "a name such as nvidia.com/gpu"),
    "value": (rf"({_WORD})?", "at most 63 of a-z, A-Z, 0-9, -, _ and ."),
    "image": (r"[A-Za-z0-9][A-Za-z0-9_./:@-]*", "an image, such as HOST/REPO:TAG"),
    "variable": (r"[A-Za-z_.-][A-Za-z0-9_.-]*", "a name such as HF_ENDPOINT"),
}


def require_name(form: str, flag: str, text: str) -> None:
    """`UsageError` for the text of a flag that has not that form: `namespace`, `name` (of another object), `key` or
    `value` (of a label, or of a resource), `image` or `variable`. An empty text is none, and right.
    """
    pattern, expected = _FORMS[form]
    if text and not (re.fullmatch(pattern, text) and len(text) <= 253):
        what = f"{flag}: Kubernetes takes no such name"
        raise UsageError(what, expected=expected, found=printable(text)[:100])


def require_labels(flag: str, labels: Mapping[str, str]) -> None:
    """`UsageError` for what is no label."""
    for key, value in labels.items():
        require_name("key", flag, key)
        require_name("value", flag, value)
