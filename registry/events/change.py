"""What a delivery of a sender comes to: changes of things that a build may be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Something that is said to have changed: a hint, which the listener checks at the source itself.

    | `kind` | what | `reference` |
    |---|---|---|
    | `artifact` | a tag of a registry | `HOST/REPOSITORY:TAG`, without `HOST/` where the sender does not tell it |
    | `model`, `dataset` | a repository of the Hub | `ORG/NAME@REF`, REF being a branch, a tag, or `refs/pr/N` |
    | `build` | a build asked for | its name |

    `digest` is that of the manifest (sha256), `revision` the new commit, each None where it is not told.
    """

    kind: str
    reference: str
    digest: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A request of a sender, understood.

    `identity` is what the sender calls it, the same when it is sent again; None where it has no name.
    `changes` is empty when there is nothing to act on: a pull, a delete, a blob, a manifest without a tag, a ping.
    """

    identity: str | None
    changes: tuple[Change, ...]


Adapter = Callable[[Mapping[str, str], bytes], Delivery]
"""From headers, whose names are in lower case, and the body to a delivery; `ContentError` with one line for a body
that is not the sender's."""
